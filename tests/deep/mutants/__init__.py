"""The faults that the fast tests must see: each an exact replacement in a source file, which must find its text exactly once.

A fault changes one thing a person could get wrong and keeps the code compiling. When the code changes and a text is gone,
mutate.py says so and fails: rewrite the mutant, do not drop it. Of those in csrc/cuda only tests/test_cuda_layers.py runs.
"""

from . import cpu, cuda_fused, cuda_loop, cuda_step

MUTANTS = [*cpu.MUTANTS, *cuda_step.MUTANTS, *cuda_loop.MUTANTS, *cuda_fused.MUTANTS]
