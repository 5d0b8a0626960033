"""Pictures with some of their regions blacked out, and the regions' areas, in one pass over the pixels.

    masked[b, c, p] = keep[b, r] * images[b, c, p],    areas[b, k] = #{p : regions[b, p] = k},    r = regions[b, p]

The regions are a label map; K masks of the pictures' size are never made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from facex.errors import ExtensionError
from facex.ops.extension import extension, has_kernel

IMPLS = ("auto", "fused", "reference")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MOST = 256  # regions that a uint8 map can name


def region_mask(images: Tensor, regions: Tensor, keep: Tensor, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """(masked [B, C, H, W], areas int32 [B, K]) of images [B, C, H, W], regions uint8 [B, H, W] and keep [B, K].

    `keep` is bool or floating: 1 keeps a region, 0 blacks it out, anything between dims it. Differentiable in the images and in a
    floating `keep`. `impl`: "fused" is the compiled operator (CPU and CUDA), "reference" plain PyTorch, "auto" the first
    that is there.

    Raises ValueError for shapes that do not fit and for a region outside 0 .. K-1 (on CUDA a device assertion, as for any
    index there: nothing waits for the device), TypeError for types, ExtensionError where "fused" has no kernel.
    """
    _check(images, regions, keep)
    keep = keep.to(images.dtype)
    if choose("region_mask", impl, images.device.type) == "reference":
        return reference(images, regions, keep)
    masked, areas = torch.ops.facex.region_mask(images, regions, keep)
    return masked, areas


def reference(images: Tensor, regions: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """The same by `gather` and `scatter_add` in plain PyTorch, any device."""
    count = keep.shape[1]
    flat = regions.long().flatten(1)
    check_ids(regions, count)
    mask = keep.gather(1, flat).view(regions.shape)[:, None]
    areas = torch.zeros(len(flat), count, dtype=torch.int32, device=flat.device)
    return images * mask, areas.scatter_add(1, flat, torch.ones_like(flat, dtype=torch.int32))


def check_ids(regions: Tensor, count: int) -> None:
    """Raise ValueError for a region outside 0 .. count - 1; waits for the device."""
    if regions.numel() and int(regions.max()) >= count:
        raise ValueError(f"the label map names region {int(regions.max())}, but there are {count} regions")


def choose(op: str, impl: str, device_type: str) -> str:
    """The implementation of an operator that is asked for or that is there: fused | reference."""
    if impl not in IMPLS:
        raise ValueError(f"impl is {impl!r}; it must be one of {', '.join(IMPLS)}")
    if impl == "reference":
        return impl
    if has_kernel(op, device_type):
        return "fused"
    if impl == "auto":
        return "reference"
    extension()  # says what is wrong with it, if that is the reason
    raise ExtensionError(f"facex._C was built without kernels for {device_type}: build it again, or use auto")


def check_map(regions: Tensor) -> None:
    """Raise for a label map that is not uint8 [B, H, W]."""
    if regions.dtype != torch.uint8:
        raise TypeError(f"regions are {regions.dtype}; they must be uint8")
    if regions.dim() != 3:
        raise ValueError(f"regions are {tuple(regions.shape)}; they must be [B, H, W]")


def _check(images: Tensor, regions: Tensor, keep: Tensor) -> None:
    check_map(regions)
    if images.dim() != 4 or images.shape[0] != regions.shape[0] or images.shape[2:] != regions.shape[1:]:
        raise ValueError(
            f"region_mask reads images [B, C, H, W] and regions [B, H, W], not {tuple(images.shape)} and "
            f"{tuple(regions.shape)}"
        )
    if keep.dim() != 2 or keep.shape[0] != images.shape[0] or not 1 <= keep.shape[1] <= MOST:
        raise ValueError(f"keep is {tuple(keep.shape)}; it must be [{images.shape[0]}, K] with K in 1..{MOST}")
    if images.dtype not in DTYPES:
        raise TypeError(f"images are {images.dtype}; they must be one of {', '.join(map(str, DTYPES))}")
    if keep.dtype != torch.bool and not keep.dtype.is_floating_point:
        raise TypeError(f"keep is {keep.dtype}; it must be bool or floating point")
    if not images.device == regions.device == keep.device:
        raise ValueError(f"images are on {images.device}, regions on {regions.device}, keep on {keep.device}")


# -- what torch is told about the operator ----------------------------------------------------------------------------
def _fake(images: Tensor, regions: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    torch._check(images.dim() == 4 and regions.dim() == 3 and keep.dim() == 2)
    return images.new_empty(images.shape), images.new_empty(keep.shape, dtype=torch.int32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    images, regions, keep = inputs
    ctx.save_for_backward(images if ctx.needs_input_grad[2] else None, regions, keep)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, grad_areas: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
    images, regions, keep = ctx.saved_tensors
    dimages = torch.ops.facex.region_mask(grad, regions, keep)[0] if ctx.needs_input_grad[0] else None
    dkeep = None
    if ctx.needs_input_grad[2]:
        products = (grad * images).sum(1, dtype=torch.promote_types(grad.dtype, torch.float32)).flatten(1)
        sums = products.new_zeros(keep.shape).scatter_add(1, regions.flatten(1).long(), products)
        dkeep = sums.to(keep.dtype)
    return dimages, None, dkeep


def register() -> None:
    """Register the fake and autograd; called once, by `facex.ops.extension()`."""
    torch.library.register_fake("facex::region_mask", _fake)
    torch.library.register_autograd("facex::region_mask", _backward, setup_context=_setup_context)
