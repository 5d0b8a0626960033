"""facex::region_pool and its form for soft masks against means taken region by region in float64."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from facex.errors import ExtensionError
from facex.ops import extension, region_pool

extension()

EPS = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}
cuda = pytest.param(
    "cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
)
DEVICES = ["cpu", cuda]
# (B, C, H, W, K): one pixel, more channels than a step and no multiple of it, more regions than a CUDA block keeps
SHAPES = [(1, 1, 1, 1, 1), (2, 19, 7, 9, 4), (3, 33, 12, 11, 5), (2, 16, 8, 8, 70)]


def make(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, labels: torch.dtype = torch.int64) -> list[Tensor]:
    """Features, a label map with some pixels of no region and an empty region where there are several, an upstream gradient."""
    batch, channels, height, width, regions = shape
    g = torch.Generator().manual_seed(7)
    features = torch.randn(batch, channels, height, width, generator=g).to(dtype)
    low = 0 if labels == torch.uint8 else -1
    chosen = torch.randint(low, regions + 1, (batch, height, width), generator=g)
    if regions > 1:
        chosen[chosen == 1] = 0
    return [features, chosen.to(labels), torch.randn(batch, regions, channels, generator=g).to(dtype)]


def brute_force(features: Tensor, labels: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """pooled, areas and the features' gradient, a region at a time."""
    features, grad = features.double(), grad.double()
    batch, regions = grad.shape[:2]
    pooled, areas, dfeatures = grad.new_zeros(grad.shape), grad.new_zeros(batch, regions), torch.zeros_like(features)
    for b in range(batch):
        for k in range(regions):
            inside = labels[b] == k
            areas[b, k] = inside.sum()
            if inside.any():
                pooled[b, k] = features[b][:, inside].mean(1)
                dfeatures[b][:, inside] = (grad[b, k] / inside.sum())[:, None]
    return pooled, areas, dfeatures


def check(impl: str, features: Tensor, labels: Tensor, grad: Tensor, device: str) -> None:
    truth = brute_force(features, labels, grad)
    # the memory order must survive the copy to the device
    leaf = features.to(device).requires_grad_()
    pooled, areas = region_pool(leaf, labels.to(device), grad.shape[1], impl=impl)
    assert pooled.dtype == features.dtype
    assert not areas.requires_grad
    (dfeatures,) = torch.autograd.grad(pooled, leaf, grad.to(device))
    eps = EPS[features.dtype]
    assert torch.equal(areas.cpu().double(), truth[1])
    torch.testing.assert_close(pooled.cpu().double(), truth[0], rtol=eps, atol=eps / 10)
    torch.testing.assert_close(dfeatures.cpu().double(), truth[2], rtol=eps, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("labels", [torch.uint8, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_label_map(shape: tuple[int, ...], dtype: torch.dtype, labels: torch.dtype, impl: str, device: str) -> None:
    features, chosen, grad = make(shape, dtype, labels)
    check(impl, features, chosen, grad, device)
    check(impl, features.contiguous(memory_format=torch.channels_last), chosen, grad, device)
    check(impl, torch.stack([features, features], -1)[..., 0], chosen.transpose(1, 2).contiguous().mT, grad, device)


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("label", [-1, 3, 255, 2**40, -(2**40)])
def test_labels_outside_belong_to_no_region(label: int, impl: str) -> None:
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    pooled, areas = region_pool(features, torch.full((2, 4, 4), label), 3, impl=impl)
    assert torch.equal(pooled, torch.zeros(2, 3, 3))
    assert torch.equal(areas, torch.zeros(2, 3))
    pooled.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))  # type: ignore[arg-type]


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)], ids=str)
def test_empty(shape: tuple[int, ...], impl: str) -> None:
    features = torch.zeros(shape, requires_grad=True)
    labels = torch.zeros(shape[0], *shape[2:], dtype=torch.uint8)
    pooled, areas = region_pool(features, labels, 2, impl=impl)
    assert pooled.shape == (shape[0], 2, shape[1])
    assert areas.sum() == labels.numel()
    pooled.sum().backward()
    assert features.grad is not None
    assert features.grad.shape == shape


def test_large_values_and_areas() -> None:
    """The sum of a region leaves float16's range, its mean does not; and a million ones in float32 are counted exactly."""
    for dtype, value in ((torch.float16, 6e4), (torch.float32, 1.0)):
        features = torch.full((1, 2, 1100, 1100), value, dtype=dtype)
        pooled, areas = region_pool(features, torch.zeros(1, 1100, 1100, dtype=torch.uint8), 1)
        torch.testing.assert_close(pooled, features[:, None, :, 0, 0], rtol=1e-7, atol=0)
        assert areas.item() == 1100**2


@pytest.mark.parametrize("device", DEVICES)
def test_not_a_number_shows_in_its_region(device: str) -> None:
    features, labels, _ = make((2, 5, 6, 6, 3), torch.float32)
    labels[0, 2, 3] = 2
    features[0, 4, 2, 3] = float("nan")
    pooled, _ = region_pool(features.to(device), labels.to(device), 3)
    wrong = pooled.isnan()
    assert wrong[0, 2, 4]
    assert wrong.sum() == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", EPS, ids=str)
def test_hard_masks_equal_labels(dtype: torch.dtype, device: str) -> None:
    features, labels, grad = make((3, 7, 6, 5, 4), dtype)
    masks = labels[:, None] == torch.arange(4).view(1, 4, 1, 1)
    for given in (masks, masks.float(), masks.double()):
        for order in (torch.contiguous_format, torch.channels_last):
            leaf = features.to(device).contiguous(memory_format=order).requires_grad_()
            pooled, areas = region_pool(leaf, given.to(device))
            truth = brute_force(features, labels, grad)
            torch.testing.assert_close(pooled.cpu().double(), truth[0], rtol=EPS[dtype], atol=EPS[dtype])
            assert torch.equal(areas.cpu().double(), truth[1])
            (dfeatures,) = torch.autograd.grad(pooled, leaf, grad.to(device))
            torch.testing.assert_close(dfeatures.cpu().double(), truth[2], rtol=EPS[dtype], atol=1e-6)


def test_soft_masks() -> None:
    """Weighted means by a loop; an empty mask gives 0, and no NaN in any gradient."""
    features, _, grad = make((2, 5, 4, 3, 3))
    masks = torch.rand(2, 3, 4, 3, dtype=torch.float64)
    masks[1, 2] = 0
    leaves = features.requires_grad_(), masks.requires_grad_()
    pooled, areas = region_pool(*leaves)
    for b in range(2):
        for k in range(3):
            w = masks[b, k].detach()
            assert torch.allclose(areas[b, k], w.sum())
            mean = (features[b] * w).sum((1, 2)) / (w.sum() if w.any() else 1)
            torch.testing.assert_close(pooled[b, k], mean)
    dfeatures, dmasks = torch.autograd.grad(pooled, leaves, grad)
    assert dfeatures.isfinite().all() and dmasks.isfinite().all()


def test_gradcheck() -> None:
    features, labels, _ = make((2, 3, 3, 4, 3))
    features.requires_grad_()
    for impl in ("fused", "reference"):
        assert torch.autograd.gradcheck(lambda f, i=impl: region_pool(f, labels, 3, impl=i)[0], (features,))
    masks = torch.rand(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(region_pool, (features, masks))


@pytest.mark.parametrize("labels", [torch.uint8, torch.int64], ids=str)
def test_opcheck(labels: torch.dtype) -> None:
    features, chosen, grad = make((2, 3, 3, 4, 3), torch.float32, labels)
    for order in (torch.contiguous_format, torch.channels_last):
        leaf = features.clone(memory_format=order).requires_grad_()
        opcheck(torch.ops.facex.region_pool.default, (leaf, chosen, 3))
        areas = torch.rand(2, 3)
        opcheck(torch.ops.facex.region_pool_backward.default, (grad, chosen, areas, order == torch.channels_last))


def test_compiles() -> None:
    features, labels, _ = make((2, 3, 4, 4, 3), torch.float32)
    masks = torch.rand(2, 3, 4, 4)
    features.requires_grad_()

    def loss(features: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            first, areas = region_pool(features * 1.0, labels, 3)
            return first.square().sum() + region_pool(features, masks)[0].square().sum() + areas.sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (expected,) = torch.autograd.grad(loss(features), features)
    torch.testing.assert_close(torch.autograd.grad(compiled(features), features)[0], expected)


@pytest.mark.parametrize(
    ("regions", "number", "error", "what"),
    [
        (torch.zeros(2, 4, 4, dtype=torch.int64), None, ValueError, "num_regions is None"),
        (torch.zeros(2, 4, 4, dtype=torch.int64), 0, ValueError, "num_regions is 0"),
        (torch.zeros(2, 4, 4, dtype=torch.int32), 2, TypeError, "labels are torch.int32"),
        (torch.zeros(2, 4, 4), 2, TypeError, "labels are torch.float32"),
        (torch.zeros(2, 5, 4, dtype=torch.int64), 2, ValueError, r"regions \(2, 5, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), 2, ValueError, "images and pixels"),
        (torch.zeros(4, 4, dtype=torch.int64), 2, ValueError, r"labels \[B, H, W\]"),
        (torch.zeros(2, 2, 4, 4, dtype=torch.uint8), None, TypeError, "divide by 255"),
        (torch.zeros(2, 2, 4, 4), 3, ValueError, "there are 2 masks"),
        (torch.zeros(2, 2, 4, 4, device="meta"), None, ValueError, "regions on meta"),
    ],
)
def test_bad_arguments_are_named(regions: Tensor, number: Any, error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=what):
        region_pool(torch.ones(2, 3, 4, 4), regions, number)


def test_bad_features_are_named() -> None:
    labels = torch.zeros(2, 4, 4, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"features are torch\.int64"):
        region_pool(torch.ones(2, 3, 4, 4).long(), labels, 2)
    with pytest.raises(ValueError, match="impl"):
        region_pool(torch.ones(2, 3, 4, 4), labels, 2, impl="fastest")
    with pytest.raises(ValueError, match=r"expected \[B, C, H, W\]"):
        torch.ops.facex.region_pool(torch.ones(2, 3, 5, 4), labels, 2)
    with pytest.raises(TypeError, match="uint8 or int64"):
        torch.ops.facex.region_pool(torch.ones(2, 3, 4, 4), labels.int(), 2)


def test_works_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["facex.ops.region_pool"]
    features, labels, _ = make((2, 3, 4, 4, 3), torch.float32)
    expected = region_pool(features, labels, 3, impl="fused")
    monkeypatch.setattr(module, "has_kernel", lambda op, device: False)
    for value, other in zip(region_pool(features, labels, 3), expected, strict=True):
        torch.testing.assert_close(value, other)
    with pytest.raises(ExtensionError, match="built without kernels for cpu"):
        region_pool(features, labels, 3, impl="fused")
