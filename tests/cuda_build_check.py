"""Checks a CUDA build of the extension without a GPU: it loads, and every operator has a CUDA kernel (`make cuda`).

Usage, in the environment of torch's CUDA build: python tests/cuda_build_check.py, with the built facex on PYTHONPATH.
Exit code 1 and a line an operator where something is missing.
"""

from __future__ import annotations

import sys

import torch

from facex.ops import extension


def facex_operators() -> list[str]:
    """The names of all registered operators of facex, overloads apart."""
    names = torch._C._dispatch_get_all_op_names()
    return sorted({name for name in names if name.startswith("facex::")})


def main() -> int:
    """Print a line an operator; the number of operators without a CUDA kernel decides the exit code."""
    module = extension()
    print(f"facex._C {module.__file__}\nbuilt for torch {module.torch_version}, with CUDA: {module.cuda}")
    operators = facex_operators()
    missing = [name for name in operators if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")]
    for name in operators:
        print(f"{name}: {'NO CUDA kernel' if name in missing else 'CUDA kernel registered'}")
    if not module.cuda or not operators or missing:
        print(f"{len(missing)} of {len(operators)} operators have no CUDA kernel")
        return 1
    print(f"all {len(operators)} operators have a CUDA kernel")
    return 0


if __name__ == "__main__":
    sys.exit(main())
