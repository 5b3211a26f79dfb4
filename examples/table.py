"""Writes the table of results into README.md, from the JSON files in results.

    python -m examples.table
"""

import json
import math
from pathlib import Path
from statistics import pstdev

HERE = Path(__file__).parent
README = HERE / "README.md"
BEGIN, END = "<!-- python -m examples.table -->\n", "<!-- end -->\n"
PROGRAMS = ("gradient_flow", "memory_task", "char_lm", "speaker_id", "forecast", "restore_case", "caption_digit",
            "pronounce", "moving_digits", "ddp_lm")  # fmt: skip


def results(name):
    """The result of --full where it is committed, else that of one seed."""
    full, quick = (HERE / "results" / f"{name}{of}.json" for of in (".full", ""))
    return json.loads((full if full.exists() else quick).read_text())


def rows():
    for name in PROGRAMS:
        result, label = results(name), f"[{name}]({name}.py), {{}}"
        for bar in result["bars"]:
            values = [metrics[bar["metric"]] for metrics in result["metrics"]]
            spread = f" ± {pstdev(values):.3g}" if len(values) > 1 else ""
            or_more = "≥ " * (max(values) >= result["settings"].get(bar.get("ceiling"), math.inf))
            mean, baseline = result["mean"][bar["metric"]], bar["baseline"]
            named = isinstance(baseline, str)
            level = result["mean"][baseline] if named else baseline
            asked = "nothing" if bar["by"] is None else f"{'-' if bar['lower'] else '+'}{bar['by']:g}"
            asked += ", missed" * (not bar["passed"])
            yield (label.format("1 seed" if len(values) == 1 else f"{len(values)} seeds"), bar["metric"],
                   f"{or_more}{mean:.3g}{spread}", f"{baseline}: {level:.3g}" if named else f"{level:g}",
                   f"{or_more}{mean - level:+.3g}", asked)  # fmt: skip
            label = ""


def table():
    head = "program", "metric", "mean ± spread", "baseline", "margin", "asked"
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows()))


def parts():
    """README.md before the table, the table, and after it."""
    before, rest = README.read_text().split(BEGIN)
    inside, after = rest.split(END)
    return before + BEGIN, inside, END + after


if __name__ == "__main__":
    before, _, after = parts()
    README.write_text(before + table() + after)
