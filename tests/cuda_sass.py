"""Whether the time loops of the persistent kernels keep to the chip, by their machine code.

    python tests/cuda_sass.py OBJECT ...      objects or cubins of csrc/cuda/cta_*.cu, cluster_*.cu, grid_*.cu

In a *_cta_kernel, *_cluster_kernel or *_grid_kernel nothing may go to local memory, and the loop over the steps (from the
target of the outermost jump back over its tensor-core instructions to that jump; in a *_grid_kernel the innermost, for
around the steps there are rounds) may load no more from global memory than its inputs and, past the L1 (STRONG), what
other blocks have written: weights are read before it. Needs cuobjdump (the environment's CUOBJDUMP, or in the PATH).
Exits 1 if a kernel does otherwise.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

CUOBJDUMP = os.environ.get("CUOBJDUMP") or shutil.which("cuobjdump")
PLAIN_LOAD = re.compile(r"\bLDG\b(?!\S*STRONG)")
GATES = {"Lstm": 4, "Gru": 3, "Rnn": 1}
SAVED = {"Lstm": 4, "Gru": 4, "Rnn": 0}


@dataclass(frozen=True)
class Kernel:
    name: str  # demangled
    card: str
    code: tuple  # (address, instruction)

    @property
    def loop(self):
        """The instructions of the loop over the steps."""
        products = [at for at, text in self.code if "HMMA" in text]
        jumps = [(at, int(found[1], 16)) for at, text in self.code
                 if (found := re.search(r"\bBRA (?:\S+, )?0x([0-9a-f]+)", text))]
        loops = [(to, at) for at, to in jumps if to <= products[0] and at >= products[-1]]
        choose = min if "_grid_kernel" in self.name else max
        begin, end = choose(loops, key=lambda loop: loop[1] - loop[0])
        return [text for at, text in self.code if begin <= at <= end]

    @property
    def most_loads(self):
        """Of two steps of a thread's rows, or one of two tiles: a cell's inputs as single values and as vectors, and the
        packed table twice."""
        cell = re.search(r"(Lstm|Gru|Rnn)<", self.name)[1]
        if "_grid_kernel" in self.name:
            rows = units = 1
        elif "_cluster_kernel" in self.name:
            rows = units = 2 if cell == "Rnn" else 1
        else:
            rows, units = 2, int(re.search(r"CtaTiling<\d+, (\d+)>", self.name)[1])
        # Backward beside the gates: d_out, the state before, and that at the first step.
        inputs = GATES[cell] if "forward_" in self.name else SAVED[cell] + 3
        return 2 * rows * inputs * (units + 1) + 2 * 2

    def faults(self):
        local = sum(bool(re.search(r"\b(LDL|STL)\b", text)) for _, text in self.code)
        loads = sum(bool(PLAIN_LOAD.search(text)) for text in self.loop)
        if local:
            yield f"{local} accesses to local memory"
        if loads > self.most_loads:
            yield f"{loads} loads from global memory in the time loop, {self.most_loads} expected at most"


def kernels(path):
    """The persistent kernels of an object file."""
    dump = subprocess.run([CUOBJDUMP, "-sass", path], text=True, capture_output=True, check=True).stdout
    dump = subprocess.run(["c++filt"], input=dump, text=True, capture_output=True, check=True).stdout
    card = "?"
    for part in re.split(r"^(?=\s+Function : |Fatbin )", dump, flags=re.MULTILINE):
        if found := re.search(r"^arch = (\w+)", part, re.MULTILINE):
            card = found[1]
        name = re.match(r"\s+Function : .*?(\w+_(?:cta|cluster|grid)_kernel<.*>)\(", part)
        if name and "HMMA" in part:  # a cluster's kernel is empty before sm_90
            code = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", part, re.MULTILINE)
            yield Kernel(name[1], card, tuple((int(at, 16), text) for at, text in code))


def main(paths):
    bad = seen = 0
    for path in paths:
        for kernel in kernels(path):
            seen += 1
            loop, faults = kernel.loop, list(kernel.faults())
            bad += bool(faults)
            products, loads = (sum(bool(re.search(word, text)) for text in loop) for word in ("HMMA", PLAIN_LOAD))
            print(f"{kernel.card} {kernel.name}: two steps are {len(loop)} instructions, {products} products, "
                  f"{loads} loads", *faults, sep="; ")
    print(f"{seen} kernels, {bad} not as they should be")
    return bad or not seen


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
