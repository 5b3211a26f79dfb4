"""Builds rnnkernels._C. Without a C++ compiler the package installs without it and runs its reference path."""

import os
import platform
import shlex
import shutil
from pathlib import Path

import torch
from setuptools import setup
from torch.utils import cpp_extension

ROOT = Path(__file__).parent
SOURCES = sorted(str(path.relative_to(ROOT)) for folder in ("cpu", "torch") for path in (ROOT / "csrc" / folder).glob("*.cpp"))
HEADERS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".inc"))

# -fopenmp, or at::parallel_for and our own teams are silently serial. -ffp-contract=off, because two instantiations of a template
# must round alike. -g0, because Python's own flags ask for debug symbols, 45 MB of them. No -std=: torch decides.
FLAGS = ["-O3", "-g0", "-fopenmp", "-ffp-contract=off", "-fvisibility=hidden", "-Wno-psabi"]


def extensions() -> list:
    missing = None
    if platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux":
        missing = "the kernels need Linux on x86-64"
    elif shutil.which(shlex.split(os.environ.get("CXX", "c++"))[0]) is None:
        missing = "no C++ compiler found"
    if missing:
        print(f"rnnkernels: {missing}, building without the kernels")
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


class BuildExtension(cpp_extension.BuildExtension):
    """Leaves beside the extension what an import compares with the torch at hand before it loads it."""

    def run(self) -> None:
        super().run()
        package = (ROOT if self.inplace or self.editable_mode else Path(self.build_lib)) / "rnnkernels"
        (package / "_build.py").write_text(f'TORCH_VERSION = "{torch.__version__}"\n')


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExtension})
