"""docs/mutants.md: what killed each mutant, and at which commit. Verdicts are kept from run to run, for all mutants together take hours."""

import re
from dataclasses import dataclass

from tree import ROOT

TABLE = ROOT / "docs" / "mutants.md"
HEAD = """# Mutants

What killed each fault of [tests/deep/mutants](../tests/deep/mutants), and the commit in which it was planted.
`tests/deep/mutate.py` writes this table.

{summary}

| fault | file in csrc | killed by | at |
|---|---|---|---|
"""
ROW = re.compile(r"^\| (.+?) \| .+? \| (?:`(.+)`|\*\*(.+)\*\*) \| (\S+) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    killed: bool
    by: str  # the first test that failed, or how the run ended
    commit: str


def read():
    """{mutant's name: Verdict}."""
    return {name: Verdict(bool(killer), killer or end, commit) for name, killer, end, commit in ROW.findall(TABLE.read_text())}


def write(verdicts, mutants):
    """The table of these mutants, in their order."""
    known = [(m, verdicts[m.name]) for m in mutants if m.name in verdicts]
    killed = sum(v.killed for _, v in known)
    summary = f"{len(mutants)} faults: {killed} killed, {len(known) - killed} not, {len(mutants) - len(known)} not run."
    rows = [f"| {m.name} | {m.file.removeprefix('csrc/')} | {f'`{v.by}`' if v.killed else f'**{v.by}**'} | {v.commit} |\n" for m, v in known]
    TABLE.write_text(HEAD.format(summary=summary) + "".join(rows))
