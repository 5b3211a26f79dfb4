"""The demo runs end to end, in small."""

import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from examples import char_lm


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_char_lm(cell, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(char_lm, "PICTURE", tmp_path / "out" / "char_lm.png")
    assert char_lm.main(["--smoke", "--cell", cell]) == 0  # 1 where the loss curves part
    said = capsys.readouterr().out
    assert "perplexity" in said and "tokens/s" in said and "agree" in said
    assert char_lm.PICTURE.stat().st_size > 10_000
