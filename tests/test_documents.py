"""What the documents say: the README's example runs, its figures are those of the committed run, links lead somewhere; the layout's rules hold."""

import json
import re
from pathlib import Path

import pytest

from bench import report

ROOT = Path(__file__).parent.parent
FOLDERS = ("csrc", "rnnkernels", "bench", "tests", "examples", "docs")
FILES = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))])
DOCUMENTS = [path for path in FILES if path.suffix == ".md"]
SOURCES = [path for path in FILES if path.suffix in (".h", ".cuh", ".cpp", ".cu", ".py")]
README = (ROOT / "README.md").read_text()
name = lambda path: str(path.relative_to(ROOT))


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_the_readmes_example_runs(block):
    exec(compile(block, "README.md", "exec"), {})


def test_the_readmes_figures_are_measured():
    run = json.loads((ROOT / "bench/results/cpu/cascade-lake/default.json").read_text())
    assert report.markdown(run).strip() in README


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_files_and_lines_are_short():
    lines = {path: path.read_text().splitlines() for path in SOURCES}
    assert [name(path) for path in SOURCES if len(lines[path]) > 400] == []
    assert [f"{name(path)}:{i}" for path in SOURCES for i, line in enumerate(lines[path], 1) if len(line) > 150] == []


def test_kernels_include_no_torch():
    for folder in ("cells", "cpu", "cuda"):
        for path in (ROOT / "csrc" / folder).iterdir():
            assert not re.search(r'#include [<"](torch|ATen|c10)/', path.read_text()), name(path)
