"""The benchmark: it runs end to end, and it notices a contender that computes something else."""

import json
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from bench import __main__ as cli
from bench import memory, peers, plot_bound, report, roofline, timing
from bench.peers import torch as torch_nn
from bench.point import CELLS, Point
from bench.problem import Mismatch, arrays, draw
from bench.shapes import SUITES


@pytest.fixture
def hasty(monkeypatch):
    for name, value in {"BATCH_SECONDS": 1e-4, "ROUNDS": 3, "ROUNDS_AT_LEAST": 2, "FRESH": 1}.items():
        monkeypatch.setattr(timing, name, value)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # a run sets its own


@pytest.mark.parametrize("mode, options", [
    ("forward", {}), ("train", {}), ("step", {}), ("stepper", {}), ("forward", {"packed": True}), ("train", {"packed": True, "D": 2}),
    ("forward", {"L": 3, "D": 2}), ("train", {"L": 2, "D": 2}), ("train", {"recompute": True}), ("train", {"dtype": "bfloat16"}),
])  # fmt: skip
@pytest.mark.parametrize("cell", CELLS)
def test_contenders_agree(cell, mode, options):
    options = {key: value for key, value in options.items() if (cell, key) != ("RNN", "recompute")}  # it has nothing to recompute
    point = Point(cell, mode, T=1 if "step" in mode else 3, B=2, H=5, **options)
    contenders = peers.load([name for name in peers.PEERS if peers.installed(name)])
    problem, errors = draw(point, threads=1), {}
    timing.verify(problem, {name: c.prepare(problem) for name, c in contenders.items() if c.supports(point)}, errors)
    assert {"rnnkernels", "torch"} <= errors.keys()
    assert max(errors.values()) < (0.02 if point.dtype == "bfloat16" else 1e-5)


def test_a_wrong_contender_is_never_timed(hasty):
    contenders = peers.load(("torch",))
    reversed_units = lambda problem: lambda: [array[..., ::-1] for array in arrays(torch_nn.prepare(problem)())]
    contenders["torch"] = SimpleNamespace(supports=lambda point: True, prepare=reversed_units)
    with pytest.raises(Mismatch, match="torch is off by"):
        timing.measure(Point("GRU", "forward", T=3, B=2, H=5), contenders, threads=1)


def test_run_writes_table_json_and_plots(hasty, tmp_path, capsys):
    out = tmp_path / "run.json"
    argv = ["--suite", "step", "--hidden", "16", "--peers", "torch", "--threads", "1", "--out", str(out), "--check"]
    assert cli.main(argv) in (0, 1)  # whether a bar is met says nothing in a test
    said, run = capsys.readouterr().out, json.loads(out.read_text())
    assert [point["cell"] for point in run["points"]] == list(CELLS)
    assert run["points"][0]["ratios"]["torch"]["median"] > 0
    assert "bar 3.00x  T = 1, packed" in said and out.with_suffix(".png").stat().st_size > 10_000
    assert plot_bound.path_beside(out).exists() == any(point["bound"] for point in run["points"])
    assert report.markdown(run).count("\n| LSTM step | 1 | 1 |") == 1


@pytest.mark.parametrize("ratio, said", [(0.86, "pass"), (0.83, "tie"), (0.82, "FAIL")])
def test_a_bar_within_3_percent_is_a_tie(ratio, said):
    assert report.judge(ratio, 0.85) == said


def test_verdicts_of_points_and_of_their_mean():
    def result(H, ratio, share):
        point = Point("LSTM", "train", 100, 64, H)
        return {**vars(point), "ratios": {"torch": {"median": ratio}, "jax": {"median": 9.0}}, "bound": {"kind": "compute", "share": share}}

    run = {"suite": "cpu", "machine": {"peers": peers.PEERS}, "points": [result(256, 1.0, 0.5), result(512, 4.0, 0.8)]}
    said = {(v.bar.name, len(v.results), v.results[-1]["H"]): (v.word, round(v.value, 6)) for v in report.verdicts(run)}
    assert said == {
        ("train: LSTM geomean", 2, 512): ("pass", 2.0),
        ("train: each", 1, 256): ("FAIL", 1.0),
        ("train: each", 1, 512): ("pass", 4.0),
        ("train: share of the FMA peak, B >= 16, H >= 512", 1, 512): ("pass", 0.8),
    }
    run["points"][1]["bound"] = None
    assert [str(v) for v in report.verdicts(run) if v.word == "unknown"]
    run["machine"]["peers"] = ("torch", "jax")
    assert all(v.word == "unknown" for v in report.verdicts(run) if v.bar.against == "best")


def test_a_ratio_is_taken_within_a_round():
    rounds = [{"rnnkernels": t, "torch": 2 * t} for t in (1.0, 5.0, 1.1)]  # the machine was busy in the second round
    assert timing.summary(rounds)["ratios"]["torch"] == {"median": 2, "q1": 2, "q3": 2}


def test_bars_cover_the_suites():
    suite = SUITES["default"]
    assert len(set(suite.points)) == len(suite.points) == 91
    assert all(len(suite.bars_of(point)) == 1 for point in suite.points)
    for name in ("cpu", "cpu-1-thread"):
        suite = SUITES[name]
        assert len(set(suite.points)) == len(suite.points)
        assert all(any(bar.where(point) for bar in suite.bars) for point in suite.points)
        assert all(any(bar.where(point) for point in suite.points) for bar in suite.bars) or name == "cpu-1-thread"


@pytest.mark.skipif(not memory.supported(), reason="no /proc")
def test_memory_is_that_of_the_step():
    """An LSTM of 100 steps keeps at least its output, c and four gates: 6 * 100 * 64 * 64 floats."""
    result = timing.measure(Point("LSTM", "memory", T=100, B=64, H=64), peers.load(("torch",)), threads=1)
    assert 6 * 100 * 64 * 64 * 4 < result["bytes"]["rnnkernels"]["median"] < 100e6
    assert report.figure(result, "torch") > 0 and "MB" in report.line(result)


def test_limits():
    limits = roofline.Limits({1: 1e11}, {1: {b: 1e10 for b in roofline.FOOTPRINTS}})
    large = limits.bound(Point("LSTM", "forward", T=10, B=64, H=100), 1, seconds=1.0)
    assert large["kind"] == "compute" and large["seconds"] == pytest.approx(10 * 64 * 2 * 400 * 200 / 1e11)
    step = limits.bound(Point("GRU", "step", T=1, B=1, H=100), 1, seconds=1.0)
    assert step["kind"] == "bytes" and step["share"] == step["seconds"] == pytest.approx(2 * 300 * 100 * 4 / 1e10)
    assert limits.bound(Point("GRU", "train", T=10, B=4, H=10, packed=True), 1, 1.0) is None
