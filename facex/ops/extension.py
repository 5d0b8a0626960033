"""Loads the compiled extension `facex._C` once, and says clearly what is wrong when it cannot be used."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch

from facex.errors import ExtensionError

_BUILD = "build it with `make build` (or `pip install -e . --no-build-isolation`) in the facex folder"


def check_torch_version(built_for: str, running: str) -> None:
    """Raise ExtensionError unless the extension was built for the torch that runs: their binary interfaces differ."""
    if built_for != running:
        raise ExtensionError(f"facex._C was built for torch {built_for}, but torch {running} is running: {_BUILD}")


def _import() -> ModuleType:
    try:
        module = importlib.import_module("facex._C")
    except ModuleNotFoundError as error:
        raise ExtensionError(f"the compiled extension facex._C is missing: {_BUILD}") from error
    except ImportError as error:  # an undefined symbol: built against another torch, or half built
        raise ExtensionError(
            f"the compiled extension facex._C does not load with torch {torch.__version__} ({error}): {_BUILD} again"
        ) from error
    check_torch_version(module.torch_version, torch.__version__)
    return module


@functools.cache
def extension() -> ModuleType:
    """The compiled module `facex._C`; its operators (`torch.ops.facex.*`) are registered with fakes and autograd.

    Raises ExtensionError when it is missing or was built for another torch.
    """
    module = _import()
    from facex.ops import mask_aggregate_registration, patch_sampling, registration
    from facex.ops.dino_loss import register as register_dino_loss
    from facex.ops.region_conv import register as register_region_conv
    from facex.ops.region_mask import register as register_region_mask
    from facex.ops.region_pool import register as register_region_pool

    registration.register()
    register_dino_loss()
    patch_sampling.register()
    mask_aggregate_registration.register()
    register_region_pool()
    register_region_mask()
    register_region_conv()
    return module


def extension_available() -> bool:
    """Whether `extension()` works here."""
    try:
        extension()
    except ExtensionError:
        return False
    return True


@torch.compiler.assume_constant_result
def has_kernel(op: str, device_type: str) -> bool:
    """Whether the operator `facex::<op>` has a kernel for tensors on `device_type` ("cpu", "cuda", "meta"); a constant to
    torch.compile."""
    if not extension_available():
        return False
    key = "Meta" if device_type == "meta" else device_type.upper()
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"facex::{op}", key)
