"""Builds rnnkernels._C: the kernels for the CPU and, where nvcc and a CUDA build of torch are there, those for CUDA.

Without a C++ compiler the package installs without it and runs its reference path. No GPU need be present.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import torch
from setuptools import setup

ROOT = Path(__file__).parent

# -fopenmp, or at::parallel_for and our own teams are silently serial. -ffp-contract=off, because two instantiations of a
# template must round alike. -g0, because Python's own flags ask for debug symbols, 45 MB of them. No -std=: torch decides.
FLAGS = ["-O3", "-g0", "-fopenmp", "-ffp-contract=off", "-fvisibility=hidden", "-Wno-psabi"]
# torch hides the operators of __half from .cu files; ours compile with plain nvcc too.
NVCC_FLAGS = ["-O3", "-Xcompiler", "-fvisibility=hidden", "-U__CUDA_NO_HALF_OPERATORS__",
              "-U__CUDA_NO_HALF_CONVERSIONS__", "-U__CUDA_NO_HALF2_OPERATORS__", "-U__CUDA_NO_BFLOAT16_CONVERSIONS__"]
# The kernels need compute capability 8.0; PTX of the last one is what later cards run.
DEFAULT_ARCHS = "8.0;9.0+PTX"


def find_toolkit() -> Path:
    """The CUDA toolkit's folder. Raises LookupError, saying what is missing.

    nvcc itself is asked: what lies in the PATH may be a wrapper, and torch would look for the headers beside that.
    """
    if torch.version.cuda is None:
        raise LookupError(f"torch {torch.__version__} is built without CUDA")
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = shutil.which("nvcc", path=f"{home}/bin" if home else os.environ.get("PATH", "") + ":/usr/local/cuda/bin")
    if nvcc is None:
        raise LookupError(f"no nvcc in {home}/bin" if home else "no nvcc in PATH or /usr/local/cuda/bin")
    said = subprocess.run([nvcc, "--dryrun", "-c", "any.cu"], capture_output=True, text=True).stderr
    top = re.search(r"^#\$ TOP=(.+)$", said, re.MULTILINE)
    if top is None:
        raise LookupError(f"{nvcc} does not say where its toolkit is")
    version = re.search(r"release (\d+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout)
    if version is None or version[1] != torch.version.cuda.split(".")[0]:
        raise LookupError(f"{nvcc} is CUDA {version and version[1]}, torch {torch.__version__} for CUDA {torch.version.cuda}")
    return Path(top[1]).resolve()


def choose_toolkit() -> Path | None:
    """The toolkit, or None for the CPU alone. RNNKERNELS_CUDA=0 or 1 decides; 1 without all that it needs ends the build."""
    choice = os.environ.get("RNNKERNELS_CUDA")
    if choice not in (None, "", "0", "1"):
        raise SystemExit(f"rnnkernels: expected RNNKERNELS_CUDA to be 0 or 1, got {choice!r}")
    if choice == "0":
        return None
    try:
        toolkit = find_toolkit()
        library_headers(toolkit)
        return toolkit
    except LookupError as missing:
        if choice == "1":
            raise SystemExit(f"rnnkernels: RNNKERNELS_CUDA=1, but {missing}")
        print(f"rnnkernels: {missing}, building for the CPU only")
        return None


def library_headers(toolkit: Path) -> list[str]:
    """Folders of those headers of cuBLAS and its kin that the toolkit itself lacks: torch's wheels bring them."""
    folders = set()
    for header in ("cublas_v2.h", "cusparse.h", "cusolverDn.h"):  # all that ATen's CUDA headers include
        if (toolkit / "include" / header).exists():
            continue
        found = next(iter(Path(torch.__file__).parent.parent.glob(f"nvidia/*/include/{header}")), None)
        if found is None:
            raise LookupError(f"no {header} in {toolkit} or beside torch")
        folders.add(str(found.parent))
    return sorted(folders)


TOOLKIT = choose_toolkit()
if TOOLKIT is not None:
    os.environ["CUDA_HOME"] = str(TOOLKIT)
    os.environ["TORCH_CUDA_ARCH_LIST"] = os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHS

from torch.utils import cpp_extension  # noqa: E402  reads CUDA_HOME when it is imported


def files(*patterns: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(f"csrc/{pattern}"))


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
    sources = files("cpu/*.cpp", "torch/*.cpp", "cuda/*.cu")
    if TOOLKIT is None:
        sources = [source for source in sources if not source.startswith(("csrc/cuda/", "csrc/torch/cuda_"))]
    extension = (cpp_extension.CppExtension if TOOLKIT is None else cpp_extension.CUDAExtension)(
        "rnnkernels._C",
        sources,
        include_dirs=[str(ROOT / "csrc")],
        extra_compile_args={"cxx": FLAGS + extra, "nvcc": NVCC_FLAGS},
        extra_link_args=["-fopenmp"] + extra,
        depends=files("**/*.h", "**/*.inc", "**/*.cuh"),
    )
    if TOOLKIT is not None:
        extension.include_dirs += library_headers(TOOLKIT)  # last: the toolkit's own headers go first
    return [extension]


class BuildExtension(cpp_extension.BuildExtension):
    """Leaves beside the extension what an import compares with the torch at hand before it loads it, and info() shows."""

    def run(self) -> None:
        super().run()
        package = (ROOT if self.inplace or self.editable_mode else Path(self.build_lib)) / "rnnkernels"
        archs = None if TOOLKIT is None else os.environ["TORCH_CUDA_ARCH_LIST"]
        (package / "_build.py").write_text(f'TORCH_VERSION = "{torch.__version__}"\nCUDA_ARCHS = {archs!r}\n')


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExtension})
