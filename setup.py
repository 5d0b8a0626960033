"""Builds the extension `facex._C` (C++ always, CUDA where there is a compiler and a CUDA build of torch); metadata:
pyproject.toml.

Environment: `FACEX_CUDA=0|1` leaves CUDA out or insists on it; `TORCH_CUDA_ARCH_LIST` names the architectures (default
without a GPU: 8.0 and 9.0); `MAX_JOBS` the parallel compile jobs. Works with `pip install -e . --no-build-isolation`
and with `python setup.py build_ext --inplace`; objects are kept in `build/`, one folder for each torch build, so builds
are incremental.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
APT = "apt-get install g++ libjpeg-turbo8-dev|libjpeg62-turbo-dev   (JPEG: the first on Ubuntu, the second on Debian)"


def find_cuda_home() -> str | None:
    """The CUDA toolkit that holds `nvcc`, or None; an `nvcc` wrapper in a bin folder is traced to the toolkit with the
    headers."""
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    if nvcc:
        candidates.insert(2, str(Path(nvcc).resolve().parent.parent))
    for home in candidates:
        if home and Path(home, "bin", "nvcc").exists() and Path(home, "include", "cuda.h").exists():
            return home
    return None


CUDA_HOME = find_cuda_home()
if CUDA_HOME:
    os.environ["CUDA_HOME"] = CUDA_HOME  # read by torch.utils.cpp_extension when it is imported

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension
except ImportError as error:
    sys.exit(
        f"facex needs torch to build its extension ({error}): install it, then `pip install -e . --no-build-isolation`"
    )


def compiler() -> str:
    """The C++ compiler's command; stops with the command that installs one where there is none."""
    command = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(command) is None:
        sys.exit(f"facex: no C++ compiler ('{command}' is not on PATH): run\n    {APT}")
    return command


def have_jpeg(cxx: str) -> bool:
    """Whether `jpeglib.h` compiles; without it images are decoded by OpenCV, more slowly, and the build says so."""
    source = "#include <cstddef>\n#include <cstdio>\n#include <jpeglib.h>\nint main() { return 0; }\n"
    test = subprocess.run([cxx, "-x", "c++", "-fsyntax-only", "-"], input=source, text=True, capture_output=True)
    if test.returncode != 0:
        print(
            f"facex: jpeglib.h not found, images will be decoded by OpenCV; for the fast decoder run\n    {APT}",
            file=sys.stderr,
        )
    return test.returncode == 0


def want_cuda() -> bool:
    """CUDA is built when nvcc and a CUDA build of torch are there, unless FACEX_CUDA decides."""
    choice = os.environ.get("FACEX_CUDA", "")
    if choice not in ("", "0", "1"):
        sys.exit(f"facex: FACEX_CUDA={choice} is not understood: 0 leaves CUDA out, 1 insists on it")
    possible = CUDA_HOME is not None and torch.version.cuda is not None
    if choice == "1" and not possible:
        why = (
            "no CUDA toolkit with nvcc was found (set CUDA_HOME)" if CUDA_HOME is None else "this torch is a CPU build"
        )
        sys.exit(f"facex: FACEX_CUDA=1, but {why}")
    return possible and choice != "0"


def cuda_wheel_dirs() -> tuple[list[str], list[str]]:
    """Include and library folders of NVIDIA's wheels beside torch: they complete a toolkit that holds the compiler
    alone."""
    assert torch.version.cuda is not None
    wheels = Path(sysconfig.get_paths()["purelib"]) / "nvidia" / f"cu{torch.version.cuda.split('.')[0]}"
    folders = [wheels / "include"], [wheels / "lib"]
    include, library = ([str(f) for f in group if f.is_dir()] for group in folders)
    return include, library


def cudart_link(library_dirs: list[str]) -> list[str]:
    """Link arguments for the CUDA runtime when only a versioned `libcudart.so.N` exists (NVIDIA's wheels)."""
    for folder in library_dirs:
        found = sorted(Path(folder).glob("libcudart.so.*"))
        if found:
            return [f"-l:{found[0].name}"]
    return []


def extension() -> CppExtension:
    """The one extension: every source below csrc, `.cu` files only with CUDA."""
    jpeg = have_jpeg(compiler())
    cuda = want_cuda()
    sources = sorted((ROOT / "csrc").glob("**/*.cpp"))
    macros: list[tuple[str, str | None]] = [("FACEX_TORCH_VERSION", f'"{torch.__version__}"')]
    if jpeg:
        macros.append(("FACEX_HAVE_JPEG", None))
    flags = {
        "cxx": [
            "-O3",
            "-std=c++20",
            "-fno-math-errno",
            "-fno-trapping-math",
            "-ffp-contract=fast",
            "-fopenmp",
            "-Wall",
            "-Wno-unknown-pragmas",
        ]
    }
    arguments = {
        "libraries": ["jpeg"] if jpeg else [],
        "include_dirs": [str(ROOT / "csrc")],
        "extra_link_args": ["-fopenmp"],
    }
    if cuda:
        if "TORCH_CUDA_ARCH_LIST" not in os.environ and not torch.cuda.is_available():
            os.environ["TORCH_CUDA_ARCH_LIST"] = "8.0;9.0"
        include, library = cuda_wheel_dirs()
        sources += sorted((ROOT / "csrc").glob("**/*.cu"))
        macros.append(("FACEX_WITH_CUDA", None))
        flags["nvcc"] = ["-O3", "-std=c++20", "--expt-relaxed-constexpr", "--expt-extended-lambda"]
        arguments["include_dirs"] += include
        arguments["library_dirs"] = library
        arguments["extra_link_args"] += [f"-L{folder}" for folder in library]
    kind = CUDAExtension if cuda else CppExtension
    relative = [str(path.relative_to(ROOT)) for path in sources]
    built = kind("facex._C", relative, define_macros=macros, extra_compile_args=flags, **arguments)
    if cuda and not list(Path(CUDA_HOME or "", "lib64").glob("libcudart.so")):
        built.libraries.remove("cudart")
        built.extra_link_args += cudart_link(built.library_dirs)
    return built


class Build(BuildExtension):
    """torch's ninja build with objects kept in a folder named after the torch build, also in editable installs."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.build_temp = str(ROOT / "build" / f"objects-{torch.__version__}-{'cuda' if want_cuda() else 'cpu'}")


setup(ext_modules=[extension()], cmdclass={"build_ext": Build})
