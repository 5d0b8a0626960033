"""Patches around landmarks: the compiled operator against grid_sample and plain arithmetic, its gradients, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from facex.ops import extension, sample_patches

extension()
SHAPES = [(2, 3, 20, 26, 9, 8), (1, 3, 17, 17, 4, 10), (3, 1, 12, 15, 5, 5), (2, 4, 9, 9, 3, 1)]  # B C H W N p


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Noise, and landmarks of which some lie outside."""
    batch, channels, height, width, count, patch = shape
    torch.manual_seed(0)
    landmarks = torch.rand(batch, count, 2, dtype=dtype) * (max(height, width) + 3 * patch) - 1.5 * patch
    return torch.randn(batch, channels, height, width, dtype=dtype), landmarks


def by_hand(image: np.ndarray, x: float, y: float, patch: int) -> np.ndarray:
    """One token, written as the formula says it: [p * p * C]."""
    channels, height, width = image.shape
    token = np.zeros((patch, patch, channels))
    for i in range(patch):
        for j in range(patch):
            px, py = x + i - patch / 2 - 0.5, y + j - patch / 2 - 0.5
            for ix in (int(np.floor(px)), int(np.floor(px)) + 1):
                for iy in (int(np.floor(py)), int(np.floor(py)) + 1):
                    if 0 <= ix < width and 0 <= iy < height:
                        token[i, j] += image[:, iy, ix] * (1 - abs(px - ix)) * (1 - abs(py - iy))
    return token.ravel()


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_the_formula(shape: tuple[int, ...], impl: str) -> None:
    images, landmarks = inputs(shape)
    tokens = sample_patches(images, landmarks, shape[-1], impl=impl)
    assert tokens.shape == (shape[0], shape[4], shape[5] ** 2 * shape[1])
    for b in range(shape[0]):
        for n in range(shape[4]):
            x, y = landmarks[b, n].tolist()
            np.testing.assert_allclose(tokens[b, n].numpy(), by_hand(images[b].numpy(), x, y, shape[-1]), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_fused_equals_reference_with_both_gradients(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    images, landmarks = (t.requires_grad_() for t in inputs(shape, dtype))
    results = []
    for impl in ("fused", "reference"):
        tokens = sample_patches(images, landmarks, shape[-1], impl=impl)
        upstream = torch.linspace(-1, 1, tokens.numel(), dtype=dtype).view_as(tokens)
        results.append((tokens, *torch.autograd.grad(tokens, (images, landmarks), upstream)))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12 if dtype is torch.float64 else 2e-5, atol=1e-5)


def test_gradcheck() -> None:
    images, landmarks = (t.requires_grad_() for t in inputs((2, 2, 9, 8, 3, 4)))
    assert torch.autograd.gradcheck(lambda i, k: sample_patches(i, k, 4, impl="fused"), (images, landmarks))


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
def test_opcheck(needs: tuple[bool, bool]) -> None:
    images, landmarks = inputs((2, 3, 12, 12, 4, 4))
    leaves = (images.requires_grad_(needs[0]), landmarks.requires_grad_(needs[1]))
    opcheck(torch.ops.facex.sample_patches.default, (*leaves, 4))
    grad = torch.randn(2, 4, 48, dtype=torch.float64)
    opcheck(torch.ops.facex.sample_patches_backward.default, (grad, images.detach(), landmarks.detach(), 4, *needs))


def test_compiles() -> None:
    images, landmarks = (t.requires_grad_() for t in inputs((2, 3, 12, 12, 4, 4)))

    def loss(i: Tensor, k: Tensor) -> Tensor:
        return sample_patches(i * 1.0, k, 4).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(images, landmarks), (images, landmarks))
    for a, b in zip(torch.autograd.grad(compiled(images, landmarks), (images, landmarks)), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_strided_and_16_bit_inputs_are_read_as_they_are() -> None:
    images, landmarks = inputs((2, 3, 12, 14, 5, 4), torch.float32)
    expected = sample_patches(images, landmarks, 4)
    strided = images.to(memory_format=torch.channels_last), landmarks.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(sample_patches(*strided, 4), expected)
    small = sample_patches(images.bfloat16(), landmarks, 4)
    assert small.dtype == torch.float32
    torch.testing.assert_close(small, sample_patches(images.bfloat16().float(), landmarks, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(sample_patches(images, landmarks, 4), expected)


def test_far_outside_is_black_and_without_gradient() -> None:
    images = torch.rand(1, 3, 10, 10, requires_grad=True)
    landmarks = torch.tensor([[[-1e6, 5.0], [5.0, 1e30], [-9.0, -9.0], [20.0, 3.0]]], requires_grad=True)
    tokens = sample_patches(images, landmarks, 8, impl="fused")
    assert not tokens.any()
    for gradient in torch.autograd.grad(tokens.sum(), (images, landmarks)):
        assert not gradient.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_a_landmark_that_is_not_finite_gives_nan_and_touches_nothing_else(value: float, impl: str) -> None:
    images, landmarks = inputs((1, 3, 12, 12, 3, 4), torch.float32)
    expected = sample_patches(images, landmarks, 4)
    landmarks[0, 1, 0] = value
    tokens = sample_patches(images, landmarks, 4, impl=impl)
    if impl == "fused":
        assert tokens[0, 1].isnan().all()
    torch.testing.assert_close(tokens[0, [0, 2]], expected[0, [0, 2]])


def test_empty() -> None:
    assert sample_patches(torch.rand(0, 3, 8, 8), torch.rand(0, 4, 2), 4).shape == (0, 4, 48)
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    tokens = sample_patches(images, torch.rand(2, 0, 2), 4)
    assert tokens.shape == (2, 0, 48)
    tokens.sum().backward()
    assert images.grad is not None
    assert not images.grad.any()


def test_threads_do_not_change_a_bit() -> None:
    images, landmarks = (t.requires_grad_() for t in inputs((5, 3, 30, 30, 40, 8), torch.float32))
    results = []
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        tokens = sample_patches(images, landmarks, 8)
        results.append((tokens, *torch.autograd.grad(tokens.square().sum(), (images, landmarks))))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("images", "landmarks", "patch", "impl", "message"),
    [
        ((3, 8, 8), (1, 2, 2), 4, "auto", r"images \[B, C, H, W\]"),
        ((2, 3, 8, 8), (1, 2, 2), 4, "auto", r"\(2, 3, 8, 8\) and \(1, 2, 2\)"),
        ((1, 3, 8, 8), (1, 2, 3), 4, "auto", "landmarks"),
        ((1, 3, 8, 8), (1, 2, 2), 0, "auto", "at least one pixel"),
        ((1, 3, 8, 8), (1, 2, 2), 4, "best", "auto, fused, reference"),
    ],
)
def test_bad_input(images: tuple[int, ...], landmarks: tuple[int, ...], patch: int, impl: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_patches(torch.rand(images), torch.rand(landmarks), patch, impl)


def test_the_operator_itself_refuses_what_would_read_beyond_memory() -> None:
    with pytest.raises(RuntimeError, match="landmarks"):
        torch.ops.facex.sample_patches(torch.rand(2, 3, 8, 8), torch.rand(1, 4, 2), 4)
    with pytest.raises(RuntimeError, match="float32 or both float64"):
        torch.ops.facex.sample_patches(torch.rand(1, 3, 8, 8), torch.rand(1, 4, 2).double(), 4)
    with pytest.raises(RuntimeError, match="gradient of another shape"):
        torch.ops.facex.sample_patches_backward(
            torch.rand(1, 4, 47), torch.rand(1, 3, 8, 8), torch.rand(1, 4, 2), 4, True, True
        )
