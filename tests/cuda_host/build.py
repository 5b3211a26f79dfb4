"""Builds programs of CUDA code that runs on the host, with g++ alone."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SCHEDULER = sorted(HERE.glob("*.cpp"))
CXX = os.environ.get("CXX", "c++")
FLAGS = ("-std=c++17", "-O1", "-g1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
         f"-I{HERE / 'include'}", f"-I{ROOT / 'csrc'}")
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


def compile_all(folder, sources, flags=()):
    """The sources' objects in `folder`, whose own headers come before csrc's. subprocess.CalledProcessError if the compiler refuses."""
    def compile_one(source):
        target = folder / f"{Path(source).stem}.o"
        subprocess.run([CXX, f"-iquote{folder}", *FLAGS, *flags, "-x", "c++", "-c", source, "-o", target], check=True)
        return target

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


def build(folder, *sources, flags=(), scheduler=()):
    """The program of these sources, .cu or .cpp, as `folder`/program.

    scheduler: objects of SCHEDULER, if they are there already.
    """
    objects = compile_all(folder, [*sources, *(() if scheduler else SCHEDULER)], flags)
    program = folder / "program"
    subprocess.run([CXX, *flags, *objects, *scheduler, "-o", program], check=True)
    return program


def build_layers(folder, flags=(), instead=()):
    """tests/cpp/test_cuda_layers.cpp with csrc/cuda; `instead`: files that take the place of those of their names."""
    names = {path.name for path in instead}
    sources = [path for path in sorted(ROOT.glob("csrc/cuda/*.cu")) if path.name not in names]
    return build(folder, *sources, *instead, ROOT / "tests/cpp/test_cuda_layers.cpp", flags=(*flags, f"-I{ROOT / 'tests/cpp'}"))
