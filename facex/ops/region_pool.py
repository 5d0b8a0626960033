"""The mean of the features over each of K regions: one vector a region, and the regions' areas.

    pooled[b, k] = sum_p w[b, k, p] f[b, :, p] / area[b, k],    area[b, k] = sum_p w[b, k, p]

Regions come as soft masks w [B, K, H, W], where this is one matrix product, or as a label map [B, H, W], where w is 1 in the
pixels that carry the label k. A label map is walked as it is, by a compiled operator that reads the features once:
nothing of the size of K masks is ever made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from facex.errors import ExtensionError
from facex.ops.extension import extension, has_kernel
from facex.ops.mask_aggregate_reference import compute_dtype

IMPLS = ("auto", "fused", "reference")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def region_pool(
    features: Tensor, regions: Tensor, num_regions: int | None = None, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """(pooled [B, K, C] in the features' type, areas [B, K] in float32, float64 for float64) of features [B, C, H, W].

    `regions` is a label map [B, H, W] in uint8 or int64 with `num_regions` = K, whose labels outside 0 .. K-1 belong to no
    region, or masks [B, K, H, W], of any floating type (weights of at least 0) or bool. An empty region's vector is 0 and has
    no gradient. Differentiable in the features, and in floating masks; pooled and areas are computed in float32 (float64 for
    float64). `impl` concerns label maps: "fused" is the compiled operator (CPU and CUDA), "reference" plain PyTorch, "auto"
    the first that is there.

    Raises ValueError for shapes that do not fit, TypeError for types, ExtensionError where "fused" has no kernel.
    """
    _check(features, regions, num_regions)
    if regions.dim() == 4:
        return pool_masks(features, regions)
    assert num_regions is not None
    if _choose(impl, features) == "reference":
        return reference(features, regions, num_regions)
    pooled, areas = torch.ops.facex.region_pool(features, regions, num_regions)
    return pooled, areas


def pool_masks(features: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The same over masks [B, K, H, W], floating or bool: a batched matrix product in the type of the arithmetic."""
    dtype = compute_dtype(features)
    with torch.autocast(features.device.type, enabled=False):
        weights = masks.to(dtype).flatten(2)
        areas = weights.sum(2)
        shares = weights / torch.where(areas > 0, areas, torch.ones_like(areas))[..., None]
        pooled = shares @ features.to(dtype).permute(0, 2, 3, 1).flatten(1, 2)
    return pooled.to(features.dtype), areas


def reference(features: Tensor, labels: Tensor, num_regions: int) -> tuple[Tensor, Tensor]:
    """The same over a label map by `index_add` in plain PyTorch, any device."""
    dtype = compute_dtype(features)
    batch, channels = features.shape[:2]
    valid = (labels >= 0) & (labels < num_regions)
    offsets = torch.arange(batch, device=labels.device).view(-1, 1, 1) * (num_regions + 1)
    rows = (torch.where(valid, labels.long(), num_regions) + offsets).flatten()
    pixels = features.to(dtype).permute(0, 2, 3, 1).flatten(0, 2)
    sums = pixels.new_zeros(batch * (num_regions + 1), channels).index_add(0, rows, pixels)
    counts = pixels.new_zeros(batch * (num_regions + 1)).index_add(0, rows, torch.ones_like(rows, dtype=dtype))
    areas = counts.view(batch, num_regions + 1)[:, :-1]
    pooled = sums.view(batch, num_regions + 1, channels)[:, :-1] / areas.clamp(min=1.0)[..., None]
    return pooled.to(features.dtype), areas.clone()


def _check(features: Tensor, regions: Tensor, num_regions: int | None) -> None:
    if features.dim() != 4 or regions.dim() not in (3, 4):
        raise ValueError(
            f"region_pool reads features [B, C, H, W] and labels [B, H, W] or masks [B, K, H, W], not "
            f"{tuple(features.shape)} and {tuple(regions.shape)}"
        )
    if features.shape[0] != regions.shape[0] or features.shape[2:] != regions.shape[-2:]:
        raise ValueError(
            f"features are {tuple(features.shape)}, regions {tuple(regions.shape)}; images and pixels must agree"
        )
    if features.device != regions.device:
        raise ValueError(f"features are on {features.device}, regions on {regions.device}")
    if features.dtype not in DTYPES:
        raise TypeError(f"features are {features.dtype}; they must be one of {', '.join(map(str, DTYPES))}")
    if regions.dim() == 3:
        _check_labels(regions, num_regions)
    elif not (regions.dtype.is_floating_point or regions.dtype == torch.bool):
        raise TypeError(f"masks are {regions.dtype}; they must be floating point or bool (0 .. 255: divide by 255)")
    elif num_regions not in (None, regions.shape[1]):
        raise ValueError(f"num_regions is {num_regions}, but there are {regions.shape[1]} masks")


def _check_labels(labels: Tensor, num_regions: int | None) -> None:
    if labels.dtype not in (torch.uint8, torch.int64):
        raise TypeError(f"labels are {labels.dtype}; they must be uint8 or int64")
    if num_regions is None or num_regions < 1:
        raise ValueError(f"num_regions is {num_regions}; a label map needs the number of its regions, at least 1")


def _choose(impl: str, features: Tensor) -> str:
    """The implementation for a label map: fused | reference."""
    if impl not in IMPLS:
        raise ValueError(f"impl is {impl!r}; it must be one of {', '.join(IMPLS)}")
    if impl == "reference":
        return impl
    if has_kernel("region_pool", features.device.type):
        return "fused"
    if impl == "auto":
        return "reference"
    extension()  # says what is wrong with it, if that is the reason
    raise ExtensionError(f"facex._C was built without kernels for {features.device.type}: build it again, or use auto")


# -- what torch is told about the operator ----------------------------------------------------------------------------
def _is_channels_last(features: Tensor) -> bool:
    return not features.is_contiguous() and features.is_contiguous(memory_format=torch.channels_last)


def _fake(features: Tensor, labels: Tensor, num_regions: int) -> tuple[Tensor, Tensor]:
    torch._check(features.dim() == 4 and labels.dim() == 3)
    batch, channels = features.shape[:2]
    areas = features.new_empty((batch, num_regions), dtype=compute_dtype(features))
    return features.new_empty((batch, num_regions, channels)), areas


def _backward_fake(grad: Tensor, labels: Tensor, areas: Tensor, channels_last: bool) -> Tensor:
    shape = (grad.shape[0], grad.shape[2], *labels.shape[1:])
    order = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=order)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, labels, _ = inputs
    ctx.save_for_backward(labels, output[1])
    ctx.channels_last = _is_channels_last(features)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, None, None]:
    labels, areas = ctx.saved_tensors
    return torch.ops.facex.region_pool_backward(grad, labels, areas, ctx.channels_last), None, None


def register() -> None:
    """Register the fakes and autograd; called once, by `facex.ops.extension()`."""
    torch.library.register_fake("facex::region_pool", _fake)
    torch.library.register_fake("facex::region_pool_backward", _backward_fake)
    torch.library.register_autograd("facex::region_pool", _backward, setup_context=_setup_context)
