"""All that is known of one card, in one JSON, written after every point.

A record goes on where an earlier run was cut off. Points and checks belong to a digest of csrc: those of another one
are measured anew. Limits belong to the driver and to the program that measures them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from bench.gpu import card
from bench.peers import OURS
from bench.point import Point
from bench.report import point_of


class Record:
    def __init__(self, folder: Path, machine: dict):
        self.path = folder / f"{card.file_name(machine)}.json"
        self.run = {"suite": "gpu", "machine": machine, "checks": {}, "limits": {}, "kernels": {}}
        self.run |= {"points": [], "failures": []}
        if self.path.exists():
            self.adopt(json.loads(self.path.read_text()))

    def adopt(self, earlier: dict):
        """Takes over what an earlier run measured and still holds."""
        old, new = earlier["machine"], self.run["machine"]
        same = lambda *keys: all(old.get(key) == new.get(key) for key in keys)
        if same("card", "driver", "limits"):
            self.run["limits"] = earlier["limits"]
        if same("card", "driver", "torch", "cudnn", "csrc"):
            new["commit"] = old["commit"]
            for key in ("checks", "kernels", "points", "failures"):
                self.run[key] = earlier[key]

    def save(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".new")
        unfinished.write_text(json.dumps(self.run, indent=1) + "\n")
        unfinished.replace(self.path)  # a run that is killed while it writes leaves the old one

    def passed(self, check: str) -> bool:
        return bool(self.run["checks"].get(check, {}).get("ok"))

    def add_check(self, name: str, outcome: dict):
        self.run["checks"][name] = outcome
        self.save()

    def add_limits(self, group: str, figures: dict):
        self.run["limits"][group] = figures
        self.save()

    def add_kernels(self, found: dict):
        """Kernels a step by contender, by the point's name."""
        self.run["kernels"] |= found
        self.save()

    def add_point(self, result: dict):
        point = point_of(result)
        self.forget(point)
        self.run["points"].append(result)
        self.save()

    def add_failure(self, point: Point, reason: str):
        self.forget(point)
        self.run["failures"].append({**asdict(point), "reason": reason})
        self.save()

    def forget(self, point: Point):
        for key in ("points", "failures"):
            self.run[key] = [r for r in self.run[key] if point_of(r) != point]

    def open_points(self, points: Iterable[Point], ours: bool) -> list[Point]:
        """Those without a figure of torch.nn, or of ours if that can be measured; whatever failed before comes last."""
        done = {point_of(r) for r in self.run["points"] if not r["refused"] and (OURS in r["seconds"] or not ours)}
        failed = {point_of(r) for r in (*self.run["failures"], *(r for r in self.run["points"] if r["refused"]))}
        return sorted((p for p in points if p not in done), key=lambda p: p in failed)
