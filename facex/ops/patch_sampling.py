"""Patches of an image around landmarks, in one call, differentiable in the image and in the landmarks.

    token[n, (i * p + j) * C + c] = image[c] at X = x_n + i - p/2 - 1/2, Y = y_n + j - p/2 - 1/2,   i, j = 0 .. p-1

read bilinearly, X and Y in pixels with centres at integers, 0 outside the image. The first axis of a patch runs along
x, so every patch is the transpose of its region, half a pixel up and left: what `grid_sample` gives for a grid of
(landmark + offset) / (size / 2) - 1 with `align_corners=False`, and what checkpoints of landmark transformers expect
(Part fViT: Sun and Tzimiropoulos, BMVC 2022; LAFS: Sun et al., CVPR 2024).
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from facex.errors import ExtensionError
from facex.ops.extension import extension, has_kernel

IMPLS = ("auto", "fused", "reference")


def sample_patches(images: Tensor, landmarks: Tensor, patch_size: int = 8, impl: str = "auto") -> Tensor:
    """Tokens [B, N, patch_size^2 * C] of images [B, C, H, W] around landmarks [B, N, 2] = (x, y) in pixels.

    Computed in float32 (float64 if either is), whatever the autocast; landmarks may lie outside the image. A landmark
    that is not finite gives a token of NaN. `impl`: "fused" is the compiled operator (CPU and CUDA; on CUDA the
    image's gradient adds up in no fixed order), "reference" plain PyTorch, "auto" the first that is there.

    Raises ValueError for shapes that do not fit, ExtensionError where "fused" has no kernel.
    """
    _check(images, landmarks, patch_size)
    dtype = torch.float64 if torch.float64 in (images.dtype, landmarks.dtype) else torch.float32
    images, landmarks = images.to(dtype), landmarks.to(dtype)
    if _choose(impl, images) == "reference":
        return reference(images, landmarks, patch_size)
    return torch.ops.facex.sample_patches(images, landmarks, patch_size)


def reference(images: Tensor, landmarks: Tensor, patch_size: int) -> Tensor:
    """The same with `torch.nn.functional.grid_sample`, over one grid [B, N * p, p, 2]."""
    (batch, channels, height, width), count, p = images.shape, landmarks.shape[1], patch_size
    offset = torch.arange(p, device=images.device, dtype=images.dtype) - p / 2
    x = (landmarks[..., 0, None] + offset) / (width / 2) - 1
    y = (landmarks[..., 1, None] + offset) / (height / 2) - 1
    grid = torch.stack([x[..., :, None].expand(-1, -1, p, p), y[..., None, :].expand(-1, -1, p, p)], -1)
    # the meta device, on which FLOPs are counted, has no autocast to switch off
    plain = contextlib.nullcontext() if images.is_meta else torch.autocast(images.device.type, enabled=False)
    with plain:
        found = grid_sample(images, grid.reshape(batch, count * p, p, 2), padding_mode="zeros", align_corners=False)
    return found.view(batch, channels, count, p, p).permute(0, 2, 3, 4, 1).reshape(batch, count, p * p * channels)


def _check(images: Tensor, landmarks: Tensor, patch_size: int) -> None:
    if images.dim() != 4 or landmarks.dim() != 3 or landmarks.shape[2] != 2 or len(images) != len(landmarks):
        raise ValueError(
            f"sample_patches reads images [B, C, H, W] and landmarks [B, N, 2], not {tuple(images.shape)} and "
            f"{tuple(landmarks.shape)}"
        )
    if patch_size < 1:
        raise ValueError(f"patch_size is {patch_size}; a patch has at least one pixel")


def _choose(impl: str, images: Tensor) -> str:
    if impl not in IMPLS:
        raise ValueError(f"impl is {impl!r}; it must be one of {', '.join(IMPLS)}")
    if impl == "reference":
        return impl
    if has_kernel("sample_patches", images.device.type):
        return "fused"
    if impl == "auto":
        return "reference"
    extension()  # says what is wrong with it, if that is the reason
    raise ExtensionError(f"facex._C was built without kernels for {images.device.type}: build it again, or use auto")


# -- what torch is told about the operator ----------------------------------------------------------------------------
def _fake(images: Tensor, landmarks: Tensor, patch_size: int) -> Tensor:
    torch._check(images.dim() == 4 and landmarks.dim() == 3)
    return images.new_empty((images.shape[0], landmarks.shape[1], patch_size * patch_size * images.shape[1]))


def _backward_fake(
    grad: Tensor, images: Tensor, landmarks: Tensor, patch_size: int, image_grad: bool, landmark_grad: bool
) -> tuple[Tensor, Tensor]:
    none = images.new_empty(0)
    # not empty_like: the kernel's gradients are contiguous whatever the memory order of their inputs
    return (
        images.new_empty(images.shape) if image_grad else none,
        landmarks.new_empty(landmarks.shape) if landmark_grad else none.clone(),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    images, landmarks, ctx.patch_size = inputs
    ctx.save_for_backward(images, landmarks)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    images, landmarks = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dimages, dlandmarks = torch.ops.facex.sample_patches_backward(
        grad, images, landmarks, ctx.patch_size, needs[0], needs[1]
    )
    return dimages if needs[0] else None, dlandmarks if needs[1] else None, None


def register() -> None:
    """Register the fakes and autograd; called once, by `facex.ops.extension()`."""
    torch.library.register_fake("facex::sample_patches", _fake)
    torch.library.register_fake("facex::sample_patches_backward", _backward_fake)
    torch.library.register_autograd("facex::sample_patches", _backward, setup_context=_setup_context)
