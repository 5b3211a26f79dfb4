"""The benchmark: it runs end to end, and it notices a contender that computes something else."""

import json
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from bench import __main__ as cli
from bench import peers, report, timing
from bench.peers import torch as torch_nn
from bench.problem import Mismatch, arrays, draw
from bench.shapes import CELLS, SUITES, Point


@pytest.fixture
def hasty(monkeypatch):
    for name, value in {"BATCH_SECONDS": 1e-4, "ROUNDS": 3, "ROUNDS_AT_LEAST": 2, "FRESH": 1}.items():
        monkeypatch.setattr(timing, name, value)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # a run sets its own


@pytest.mark.parametrize("packed, mode", [(0, "forward"), (0, "train"), (0, "step"), (1, "forward"), (1, "train")])
@pytest.mark.parametrize("cell", CELLS)
def test_contenders_agree(cell, mode, packed):
    point = Point(cell, mode, T=1 if mode == "step" else 3, B=2, H=5, packed=bool(packed))
    contenders = peers.load([name for name in peers.PEERS if peers.installed(name)])
    problem, errors = draw(point, threads=1), {}
    timing.verify(problem, {name: c.prepare(problem) for name, c in contenders.items() if c.supports(point)}, errors)
    assert {"rnnkernels", "torch"} <= errors.keys()
    assert max(errors.values()) < 1e-5


def test_a_wrong_contender_is_never_timed(hasty):
    contenders = peers.load(("torch",))
    reversed_units = lambda problem: lambda: [array[..., ::-1] for array in arrays(torch_nn.prepare(problem)())]
    contenders["torch"] = SimpleNamespace(supports=lambda point: True, prepare=reversed_units)
    with pytest.raises(Mismatch, match="torch is off by"):
        timing.measure(Point("GRU", "forward", T=3, B=2, H=5), contenders, threads=1, bar=None)


def test_run_writes_table_json_and_plot(hasty, tmp_path, capsys):
    out = tmp_path / "run.json"
    argv = ["--suite", "step", "--hidden", "16", "--peers", "torch", "--threads", "1", "--out", str(out), "--check"]
    assert cli.main(argv) in (0, 1)  # whether a bar is met says nothing in a test
    said, run = capsys.readouterr().out, json.loads(out.read_text())
    assert [point["cell"] for point in run["points"]] == list(CELLS)
    assert run["points"][0]["ratios"]["torch"]["median"] > 0
    assert "bar 3.0x" in said and out.with_suffix(".png").stat().st_size > 10_000
    assert report.markdown(run).count("\n| LSTM step | 1 | 1 |") == 1


@pytest.mark.parametrize("ratio, said", [(0.86, "pass"), (0.83, "tie"), (0.82, "FAIL")])
def test_verdict(ratio, said):
    assert report.verdict({"bar": 0.85, "ratios": {"torch": {"median": ratio}}}) == said


def test_a_ratio_is_taken_within_a_round():
    rounds = [{"rnnkernels": t, "torch": 2 * t} for t in (1.0, 5.0, 1.1)]  # the machine was busy in the second round
    assert timing.summary(rounds)["ratios"]["torch"] == {"median": 2, "q1": 2, "q3": 2}


def test_bars_cover_the_default_suite():
    suite = SUITES["default"]
    assert len(set(suite.points)) == len(suite.points) == 91
    assert all(suite.bar(point) for point in suite.points)
