"""A convolution over the K masks of a label map, without the masks: a look-up of the weights by region.

    out[b, o, y, x] = sum_{i, j} weight[o, regions[b, s y + i - p, s x + j - p], i, j]

over the taps (i, j) that fall inside the map, with stride s and padding p. It is what a first layer that reads one mask a region
computes, for 1 / K of the additions, and nothing of the masks' size is made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from facex.ops.region_mask import check_ids, check_map, choose

DTYPES = (torch.float32, torch.float64)


def region_conv(regions: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, impl: str = "auto") -> Tensor:
    """[B, O, H', W'] of regions uint8 [B, H, W] and weight [O, K, kh, kw] (float32 or float64; 16-bit is computed in float32).

    H' = (H + 2 p - kh) // s + 1, and W' likewise. Differentiable in the weight. `impl`: "fused" is the compiled operator
    (CPU, a look-up; CUDA, where a convolution is as fast, over the masks of a few images at a time), "reference" `conv2d`
    over all masks, "auto" the first that is there.

    Raises ValueError for shapes that do not fit and for a region outside 0 .. K-1 (on CUDA a device assertion), ExtensionError where "fused" has no
    kernel.
    """
    _check(regions, weight, stride, padding)
    if weight.dtype not in DTYPES:
        weight = weight.float()
    if choose("region_conv", impl, weight.device.type) == "reference":
        return reference(regions, weight, stride, padding)
    with torch.autocast(weight.device.type, enabled=False):  # CUDA's convolution inside would go down to 16 bits
        found: Tensor = torch.ops.facex.region_conv(regions, weight, stride, padding)
    return found


def reference(regions: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """The same as `conv2d` over the masks, any device."""
    check_ids(regions, weight.shape[1])
    masks = functional.one_hot(regions.long(), weight.shape[1]).permute(0, 3, 1, 2).to(weight.dtype)
    return functional.conv2d(masks, weight, stride=stride, padding=padding)


def output_size(side: int, kernel: int, stride: int, padding: int) -> int:
    """How many places a kernel takes along a side."""
    return (side + 2 * padding - kernel) // stride + 1


def _check(regions: Tensor, weight: Tensor, stride: int, padding: int) -> None:
    check_map(regions)
    if weight.dim() != 4 or not weight.dtype.is_floating_point or weight.shape[1] < 1:
        raise ValueError(f"weight is {weight.dtype} {tuple(weight.shape)}; it must be floating point [O, K, kh, kw]")
    if stride < 1 or padding < 0:
        raise ValueError(f"stride is {stride}, padding {padding}; at least 1 and 0")
    sizes = [output_size(n, k, stride, padding) for n, k in zip(regions.shape[1:], weight.shape[2:], strict=True)]
    if min(sizes) < 1:
        raise ValueError(f"a kernel {tuple(weight.shape[2:])} does not fit into regions {tuple(regions.shape)}")
    if regions.device != weight.device:
        raise ValueError(f"regions are on {regions.device}, weight on {weight.device}")


# -- what torch is told about the operator ----------------------------------------------------------------------------
def _fake(regions: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    torch._check(regions.dim() == 3 and weight.dim() == 4)
    sizes = [output_size(n, k, stride, padding) for n, k in zip(regions.shape[1:], weight.shape[2:], strict=True)]
    return weight.new_empty((regions.shape[0], weight.shape[0], *sizes))


def _backward_fake(grad: Tensor, regions: Tensor, weight: list[int], stride: int, padding: int) -> Tensor:
    return grad.new_empty(weight)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    regions, weight, ctx.stride, ctx.padding = inputs
    ctx.save_for_backward(regions)
    ctx.weight = weight.shape


def _backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:
    (regions,) = ctx.saved_tensors
    return None, torch.ops.facex.region_conv_backward(grad, regions, ctx.weight, ctx.stride, ctx.padding), None, None


def register() -> None:
    """Register the fakes and autograd; called once, by `facex.ops.extension()`."""
    torch.library.register_fake("facex::region_conv", _fake)
    torch.library.register_fake("facex::region_conv_backward", _backward_fake)
    torch.library.register_autograd("facex::region_conv", _backward, setup_context=_setup_context)
