"""Builds rnnkernels._C. Without a C++ compiler the package installs without it and runs its reference path."""

import os
import shutil
from pathlib import Path

import torch
from setuptools import setup
from torch.utils import cpp_extension

ROOT = Path(__file__).parent
SOURCES = sorted(str(path.relative_to(ROOT)) for folder in ("cpu", "torch") for path in (ROOT / "csrc" / folder).glob("*.cpp"))
HEADERS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".inc"))

# -fopenmp, or at::parallel_for and our own teams are silently serial. -ffp-contract=off, because two instantiations of a template
# must round alike. No -std=: torch decides.
FLAGS = ["-O3", "-fopenmp", "-ffp-contract=off", "-fvisibility=hidden", "-Wno-psabi"]


def extensions() -> list:
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        print("rnnkernels: no C++ compiler found, building without the kernels")
        return []
    extra = os.environ.get("RNNKERNELS_CFLAGS", "").split()
    return [
        cpp_extension.CppExtension(
            "rnnkernels._C",
            SOURCES,
            include_dirs=[str(ROOT / "csrc")],
            extra_compile_args=FLAGS + extra,
            extra_link_args=["-fopenmp"] + extra,
            depends=HEADERS,
        )
    ]


# What an import compares with the torch at hand before it loads the extension.
(ROOT / "rnnkernels" / "_build.py").write_text(f'TORCH_VERSION = "{torch.__version__}"\n')

setup(ext_modules=extensions(), cmdclass={"build_ext": cpp_extension.BuildExtension})
