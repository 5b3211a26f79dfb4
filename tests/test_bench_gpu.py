"""The suite for a card, without one: its grid, its model, how it goes on after a cut, and what it writes."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("rich")

from rich.console import Console

from bench import __main__ as cli
from bench import checkout, timing
from bench.gpu import card, checks, grid, kernels, limits, points, report, short, stages
from bench.gpu.known import FLOOR_US, cudnn_algorithm, floor_us, published
from bench.gpu.record import Record
from bench.peers import OURS
from bench.point import Point
from bench.problem import arrays
from bench.report import verdicts

MACHINE = {
    "card": "NVIDIA H100 80GB HBM3", "capability": "9.0", "processors": 132, "l2_bytes": 50 << 20,
    "memory_bytes": 80 << 30, "driver": "580.0", "cuda": "13.0", "cudnn": "9.19.0", "torch": "2.11.0", "python": "3.12",
    "cores": 16, "csrc": "abc", "commit": None, "limits": "def",
}  # fmt: skip
SMALL = Point("LSTM", "forward", T=3, B=2, H=5)


def result(point, ours=1e-3, torch_nn=2e-3, **others):
    """An entry as points.measure makes it."""
    seconds = {name: {"median": s, "q1": s, "q3": s} for name, s in ((OURS, ours), ("torch", torch_nn)) if s}
    ratio = {"torch": dict.fromkeys(("median", "q1", "q3"), torch_nn / ours)} if ours else {}
    entry = {"refused": {}, "errors": {}, "seconds": seconds, "ratios": ratio, "bound": None}
    return {**asdict(point), "published": published(point), **entry, **others}


def console():
    return Console(width=300, file=sys.stdout, highlight=False)


# ---- the grid


def test_grid_is_fixed():
    assert len(grid.GRID) == len(set(grid.GRID)) == 150
    assert grid.GRID[0] == Point("LSTM", "forward", 1024, 16, 768, dtype="bfloat16")
    in_words = "\n".join(map(str, grid.GRID)).encode()
    assert hashlib.sha256(in_words).hexdigest()[:12] == "9c94b78ea75c"  # new shapes go to the end
    assert [p.mode for p in grid.SUITE.points[:4]] == ["forward", "train", "forward", "train"]


def test_grid_covers_the_table():
    values = lambda key: {getattr(p, key) for p in grid.GRID}
    assert values("dtype") == set(grid.DTYPES.values()) and values("cell") == {"LSTM", "GRU", "RNN"}
    assert {64, 128, 256, 512, 768, 1024, 2048} <= values("H") and {1, 8, 16, 32, 64, 128, 256} <= values("B")
    assert {1, 2} == values("D") and {True, False} == values("packed") and {0, 128} <= values("P")
    for bar in (*grid.BARS, *grid.GOALS):
        assert any(bar.where(p) for p in grid.points(grid.TELLING)) or "PERSIST_STATIC" in bar.name
        assert any(bar.where(p) for p in grid.SUITE.points)


# ---- what is known beforehand


@pytest.mark.parametrize("H, us", [(64, 0.18), (128, 0.36), (512, 0.61), (1024, 0.81), (2048, 1.5)])
def test_floor_is_the_models_line(H, us):
    point = Point("LSTM", "forward", 512, 8, H, dtype="bfloat16")
    assert floor_us(point) == us
    assert 0.40 <= floor_us(replace(point, H=256)) <= 0.50 and 0.95 <= floor_us(replace(point, H=768)) <= 1.2


def test_floor_between_and_beyond():
    point = Point("LSTM", "forward", 512, 8, 384, dtype="bfloat16")
    assert FLOOR_US[256] < floor_us(point) < FLOOR_US[512]
    for key, value in dict(B=16, mode="train", dtype="tf32", cell="GRU", D=2, packed=True, P=8, H=4096).items():
        assert floor_us(replace(point, **{key: value})) is None


def test_which_algorithm_cudnn_takes():
    half = Point("LSTM", "forward", 512, 16, 512, dtype="float16")
    for other, algorithm in (
        ({}, "PERSIST_STATIC"), ({"dtype": "bfloat16"}, "STANDARD"), ({"cell": "GRU"}, "STANDARD"),
        ({"D": 2}, "STANDARD"), ({"B": 1}, "STANDARD"), ({"H": 64, "dtype": "float64"}, "STANDARD"),
        ({"cell": "RNN", "H": 384}, "SMALL_H"),
        ({"H": 2048}, "STANDARD"), ({"packed": True}, "STANDARD"), ({"P": 64}, "STANDARD"), ({"H": 192}, "SMALL_H"),
        ({"H": 192, "mode": "train"}, "STANDARD"), ({"cell": "RNN", "H": 1024, "B": 128}, "STANDARD"),
        ({"H": 128, "D": 2}, "SMALL_H"),
    ):  # fmt: skip
        assert cudnn_algorithm(replace(half, **other)) == algorithm, other


# ---- the record


def test_a_record_goes_on(tmp_path):
    first = Record(tmp_path, MACHINE)
    first.add_check("tests", {"ok": True, "seconds": 1, "tail": ""})
    first.add_limits("memory", {"copy_gb_s": 3000})
    first.add_point(result(SMALL))
    first.add_failure(replace(SMALL, H=6), "hung")
    first.add_point(result(replace(SMALL, H=8), ours=None))
    wanted = [replace(SMALL, H=H) for H in (6, 5, 8, 7)]

    again = Record(tmp_path, dict(MACHINE))
    assert again.passed("tests")
    assert [p.H for p in again.open_points(wanted, ours=True)] == [8, 7, 6]  # what failed comes last
    assert [p.H for p in again.open_points(wanted, ours=False)] == [7, 6]
    changed = Record(tmp_path, MACHINE | {"csrc": "other"})
    assert not changed.passed("tests") and changed.run["limits"] and len(changed.open_points(wanted, ours=True)) == 4
    assert not Record(tmp_path, MACHINE | {"driver": "600"}).run["limits"]
    assert Record(tmp_path, MACHINE | {"card": "NVIDIA H200"}).path.name == "nvidia-h200.json"


def test_a_result_replaces_a_failure(tmp_path):
    record = Record(tmp_path, MACHINE)
    record.add_failure(SMALL, "hung")
    record.add_point(result(SMALL))
    record.add_point(result(SMALL, ours=5e-4))
    assert not record.run["failures"] and len(record.run["points"]) == 1


# ---- the process that measures, faked


FAKE = """
import json, os, sys, time
for index, point in enumerate(json.load(sys.stdin)):
    print(json.dumps({"begin": index}), flush=True)
    H = point["H"]
    if H == 13: print('{"resu', end="", flush=True); os._exit(3)
    if H == 14: time.sleep(60)
    if H == 15: print(json.dumps({"failure": "RuntimeError: no"}), flush=True); os._exit(1)
    entry = {"refused": {}, "errors": {}, "seconds": {"rnnkernels": {"median": 1e-3}}, "ratios": {}, "published": {}}
    print(json.dumps({"result": {**point, **entry}}), flush=True)
"""


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "COMMAND", [sys.executable, "-c", FAKE])
    monkeypatch.setattr(stages, "SILENCE", 1)
    record = Record(tmp_path, MACHINE)
    record.add_check("build", {"ok": True, "seconds": 0, "tail": ""})
    return lambda seconds: stages.Run(record, stages.time.monotonic() + seconds, console())


def test_a_crash_costs_one_point(session):
    run = session(30)
    run.measure([replace(SMALL, H=H) for H in (1, 13, 2, 14, 3, 15, 4)])
    saved = json.loads(run.record.path.read_text())
    assert [r["H"] for r in saved["points"]] == [1, 2, 3, 4]
    assert {f["H"]: f["reason"] for f in saved["failures"]} == {
        13: "the process that measures ended with 3", 14: "no word for 1 s", 15: "RuntimeError: no",
    }  # fmt: skip


def test_time_runs_out(session):
    run = session(0.7)
    run.measure([replace(SMALL, H=H) for H in (1, 2, 14, 3)])
    assert [r["H"] for r in run.record.run["points"]] == [1, 2]
    assert not run.record.run["failures"]  # the third may be as good as any
    assert [p.H for p in run.record.open_points([replace(SMALL, H=H) for H in (1, 14)], ours=True)] == [14]


def test_a_process_that_never_starts(session, monkeypatch, capsys):
    monkeypatch.setattr(stages, "COMMAND", [sys.executable, "-c", "raise SystemExit(7)"])
    run = session(30)
    run.measure([SMALL])
    assert not run.record.run["failures"] and "nothing measured" in capsys.readouterr().out


# ---- measuring, on the CPU in the card's place


@pytest.fixture
def card_of_cpu(monkeypatch):
    for name, value in {"BATCH_SECONDS": 1e-4, "ROUNDS": 3, "ROUNDS_AT_LEAST": 2}.items():
        monkeypatch.setattr(timing, name, value)
    monkeypatch.setattr(points, "DEVICE", "cpu")
    monkeypatch.setattr(points, "turn", timing.take_turn)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(L2_cache_size=1024, major=9, minor=0)
    )
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    return points.peers.load(("torch", "padded"))


@pytest.mark.parametrize(
    "options", [{}, {"mode": "train", "packed": True}, {"P": 3, "D": 2, "mode": "train"}, {"dtype": "tf32"}]
)
def test_a_point_is_measured(card_of_cpu, options):
    entry = points.measure(replace(SMALL, **options), card_of_cpu)
    json.dumps(entry)
    assert not entry["refused"] and entry["errors"].keys() == {OURS, "torch"} and entry["tensor_sets"] > 1
    assert entry["ratios"].keys() == ({"torch", "padded"} if "packed" in options else {"torch"})
    assert entry["host_seconds"][OURS] > 0


def test_the_models_line_is_compared_with_the_recurrent_part(card_of_cpu):
    entry = points.measure(Point("LSTM", "forward", T=2, B=1, H=64, dtype="bfloat16"), card_of_cpu)
    bound = entry["bound"]
    assert bound["seconds"] == pytest.approx(2 * 0.18e-6) and bound["product_seconds"] > 0
    assert bound["share"] == 1 or bound["share"] == pytest.approx(
        bound["seconds"] / (entry["seconds"][OURS]["median"] - bound["product_seconds"])
    )


@pytest.mark.parametrize("factor", [2, float("nan")])
def test_who_is_wrong_is_not_timed(card_of_cpu, factor):
    right = card_of_cpu[OURS].prepare
    wrong = lambda problem: lambda: [factor * array for array in arrays(right(problem)())]
    entry = points.measure(SMALL, card_of_cpu | {OURS: SimpleNamespace(supports=lambda p: True, prepare=wrong)})
    assert "is off by" in entry["refused"][OURS] and entry["seconds"].keys() == {"torch"} and entry["ratios"] == {}
    assert "is off by" in report.line(entry)


def test_torch_nn_is_the_yardstick_however_inexact(card_of_cpu):
    right = card_of_cpu["torch"].prepare
    coarse = lambda problem: lambda: [1.5 * array for array in arrays(right(problem)())]
    entry = points.measure(SMALL, card_of_cpu | {"torch": SimpleNamespace(supports=lambda p: True, prepare=coarse)})
    assert entry["errors"]["torch"] == pytest.approx(0.5, rel=0.01) and entry["ratios"]["torch"]["median"] > 0
    assert "torch.nn is off by 5e-01" in report.line(entry)


def test_who_raises_is_not_timed(card_of_cpu):
    refuse = SimpleNamespace(supports=lambda p: True, prepare=lambda p: torch.zeros(1) @ torch.zeros(2))
    entry = points.measure(SMALL, card_of_cpu | {"torch": refuse})
    assert entry["refused"].keys() == {"torch"} and entry["seconds"].keys() == {OURS}


# ---- what people read


def synthetic_run():
    measured = [
        result(p, ours=1e-3, torch_nn=1.5e-3, bound={"kind": "model", "seconds": 1e-4, "share": 0.3})
        for p in grid.SUITE.points[:60]
    ]
    measured.append(result(replace(SMALL, dtype="bfloat16"), ours=None, refused={OURS: "no kernel"}))
    kernels = {str(grid.GRID[0]): {"torch": 2.0, OURS: 1.5}}
    checked = {"build": {"ok": True, "seconds": 80.0, "tail": ""},
               "memcheck": {"ok": False, "seconds": 9.0, "tail": "1 error"},
               "tests": {"ok": True, "seconds": 9.0, "tail": "", "tests": 30, "skipped": 2, "failed": []}}  # fmt: skip
    failures = [{**asdict(SMALL), "reason": "no word for 90 s"}]
    limits = {"memory": {"copy_gb_s": 3000.0}}
    run = {"suite": "gpu", "machine": MACHINE, "checks": checked, "limits": limits, "kernels": kernels}
    return run | {"points": measured, "failures": failures}


def test_report(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run, path = synthetic_run(), tmp_path / "card.json"
    assert report.conclude(run, path, console(), judging=True) == 1  # a check failed
    said, written = capsys.readouterr().out, path.with_suffix(".md").read_text()
    assert "Goals of the persistent kernels" in said and "failed checks: memcheck" in said
    assert "| LSTM bfloat16 | 1024 | 16 | 768 | STANDARD 2.0 | 1.46 | 0.98 | 1.50x |" in written
    assert "copy_gb_s | 3000.0" in written and "tests: passed of 30 tests, 2 skipped, failed: none" in written
    assert "cuDNN fp16 1.96 / 5.07, FlashRNN fused bf16 4.76 / 13.28" in written and "no word for 90 s" in written
    assert path.with_suffix(".png").stat().st_size > 10_000


def test_bars_of_a_card():
    run = {"suite": "gpu", "points": [result(p, ours=1.25e-3, torch_nn=1e-3) for p in grid.SUITE.points]}
    by_name = lambda bars: {v.bar.name: v.word for v in verdicts(run, bars)}
    assert set(by_name(grid.BARS[:1]).values()) == {"pass"} and set(by_name(grid.BARS[1:]).values()) == {"FAIL"}
    goals = by_name(grid.GOALS)
    assert goals["16 bits: geomean"] == "FAIL" and goals["FlashRNN's published 4.8 us a step"] == "pass"


# ---- the command


def test_without_a_card(capsys):
    if card.missing() is None:
        pytest.skip("there is a card")
    assert cli.main(["--suite", "gpu", "--stage", "1"]) == 2
    assert capsys.readouterr().err.startswith("--suite gpu cannot run here: ")


def test_all_stages(tmp_path, monkeypatch, session, capsys):
    """The whole command with a card that is faked."""
    plot = pytest.importorskip("bench.gpu.plot")
    monkeypatch.setattr(card, "missing", lambda: None)
    monkeypatch.setattr(card, "describe", lambda: dict(MACHINE))
    monkeypatch.setattr(limits, "groups", lambda done, capability, left: iter([("memory", {"copy_gb_s": 3000})]))
    monkeypatch.setattr(checks, "build", lambda limit: {"ok": True, "seconds": 0, "tail": ""})
    fakes = {"self-test": lambda limit: checks.skipped("none"), "tests": lambda limit: checks.run(["false"], limit)}
    monkeypatch.setattr(checks, "all_checks", lambda: dict(fakes))
    monkeypatch.setattr(kernels, "measured", lambda points, limit: iter([(str(points[0]), {"torch": 2.0})]))
    monkeypatch.setattr(plot, "draw", lambda run, path: path.touch())
    arguments = ["--suite", "gpu", "--out", str(tmp_path / "out"), "--hidden", "2048"]
    assert cli.main(arguments) == 0
    saved = json.loads((tmp_path / "out/nvidia-h100-80gb-hbm3.json").read_text())
    assert saved["limits"] and saved["checks"]["tests"]["ok"] is False and saved["checks"]["self-test"]["ok"] is None
    assert len(saved["points"]) == sum(p.H == 2048 for p in grid.SUITE.points)
    assert "tests: FAILED" in capsys.readouterr().out
    monkeypatch.setattr(stages, "COMMAND", ["false"])
    assert cli.main([*arguments, "--stage", "2"]) == 0  # nothing is left to do


def test_a_check_that_hangs_is_killed():
    outcome = checks.run([sys.executable, "-c", "print('working', flush=True); import time; time.sleep(60)"], 1)
    assert outcome["ok"] is False and outcome["seconds"] < 10
    assert "working" in outcome["tail"] and "killed after 1 s" in outcome["tail"]


def test_what_a_killed_check_started_is_killed_with_it():
    """In a process group of its own, as ninja starts compilers."""
    program = "import os, subprocess, time; print(subprocess.Popen(['sleep', '60'], preexec_fn=os.setpgrp).pid, flush=True); time.sleep(60)"
    outcome = checks.run([sys.executable, "-c", program], 3)
    state = Path(f"/proc/{outcome['tail'].split()[0]}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_what_the_sanitizers_run():
    assert short.main("cpu") == 0 and short.main("xpu") == 1


def test_a_file_of_tests_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_cuda.py").write_text("needs_cuda = None\ndef test_a(): pass\ndef test_b(): assert False\n")
    (folder / "test_cuda_host.py").write_text("def test_c(): pass\n")
    every = checks.all_checks()
    assert list(every) == ["self-test", "test_cuda", *checks.SANITIZERS]
    outcome = every["test_cuda"](60)
    assert outcome["ok"] is False and (outcome["tests"], outcome["failed"]) == (2, ["test_b"])
    assert "FAILED of 2 tests, 0 skipped, failed: test_b" in report.check_line("test_cuda", outcome)
    assert every["self-test"](60)["ok"] is None
    (folder / "test_cuda.py").write_text("import pytest\n@pytest.mark.skip\ndef test_needs_cuda(): pass\n")
    assert every["test_cuda"](60)["ok"] is None


def test_counts_of_a_test_run(tmp_path):
    cases = '<testcase name="a"/><testcase name="b"><failure/></testcase>'
    (tmp_path / "r.xml").write_text(f'<testsuites><testsuite tests="3" skipped="1">{cases}</testsuite></testsuites>')
    assert checks.counts(tmp_path / "r.xml") == {"tests": 3, "skipped": 1, "failed": ["b"]}


def test_limits_that_fail(monkeypatch):
    monkeypatch.setattr(card, "NVCC", "false")
    monkeypatch.setattr(limits.sys, "executable", "false")
    done = {"memory": {"copy_gb_s": 3000}, "clusters": {"failed": "no time"}}
    found = dict(limits.groups(done, "9.0", lambda: 60))
    assert list(found) == ["barriers", "clusters", "launches", "tensor_cores", "cublas"]
    assert all("failed" in figures for figures in found.values())
    sleep = limits.output(("sleep", "60"), 0.1)
    assert "timed out" in sleep["failed"] and limits.output(("echo", '{"a": 1}'), 9) == {"a": 1}
    assert "failed" in limits.output(("echo", '{"a": nan}'), 9)


def test_kernels_until_time_is_up(monkeypatch):
    answer = json.dumps({"point": "a", "kernels": {"torch": 2.0}})
    fake = f"import time; print({answer!r}); print('{{', end='', flush=True); time.sleep(60)"
    monkeypatch.setattr(kernels, "COMMAND", [sys.executable, "-c", fake])
    assert list(kernels.measured([SMALL], 1)) == [("a", {"torch": 2.0})]


@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc")
def test_limits_compile(tmp_path):
    sources = [path for path in limits.SOURCES if path.suffix == ".cu"]
    for_both = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in (80, 90)]
    options = ["-O3", "-std=c++17", "-Werror", "all-warnings", *for_both, "-o", tmp_path / "limits"]
    subprocess.run(["nvcc", *options, *sources], check=True)
    groups = subprocess.run([tmp_path / "limits"], capture_output=True, text=True, check=True).stdout.split()
    assert groups == list(limits.GROUPS)
