"""MagFace's method: defaults of the official code, input, quality, flip fusion, one step, histograms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from facex_magface import MagFace

from facex.methods import Batch, Field

SMALL: dict[str, Any] = {
    "backbone": "iresnet18",
    "embedding_size": 8,
    "backbone_options": {"width": 0.125, "input_size": 32},
}


def batch(size: int = 32) -> Batch:
    torch.manual_seed(0)
    fields = {"image": torch.randint(0, 256, (4, size, size, 3), dtype=torch.uint8), "label": torch.arange(4)}
    kinds = {"image": Field("image"), "label": Field("label")}
    return Batch(fields, kinds, "rgb", torch.arange(4), torch.arange(4))


def test_published_defaults() -> None:
    method = MagFace(**SMALL)
    assert method.head is not None
    margin = method.head.margin
    assert (margin.l_a, margin.u_a, margin.l_margin, margin.u_margin, margin.lambda_g) == (10, 110, 0.45, 0.8, 35)
    assert (margin.scale, margin.form, margin.easy_margin) == (64, "arc", True)
    assert (method.head.init, method.head.network, method.head.embedding_size) == ("unit", "backbone", 8)
    assert margin.lambda_min == pytest.approx(22.5867, abs=1e-4)  # what the official script prints
    assert method.backbone.bn1.momentum == 0.9


def test_input_is_bgr_between_0_and_1() -> None:
    method = MagFace(**SMALL)
    images = batch(112)["image"]
    x = method.input.to_tensor(images, "rgb")
    assert torch.equal(x[:, 0], images[..., 2].float() / 255)  # channel 0 is blue
    assert torch.equal(x[:, 2], images[..., 0].float() / 255)


def test_a_step_and_its_histograms() -> None:
    method = MagFace(**SMALL).train()
    b = batch().with_fields(image=torch.rand(4, 3, 32, 32))
    ctx: Any = SimpleNamespace(nets=method.networks())
    assert method.visuals(b, ctx).histograms == {}
    updates = list(method.training_step(b, ctx))
    assert len(updates) == 1
    assert (updates[0].network, updates[0].losses) == ("backbone", {})
    assert updates[0].embeddings is not None
    shown = method.visuals(b, ctx).histograms
    torch.testing.assert_close(shown["magnitude"], updates[0].embeddings.detach().norm(dim=1))
    assert shown["margin"].shape == (4,)


def test_quality_is_the_length_and_flip_adds_both_views() -> None:
    method = MagFace(**SMALL).eval()
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        a, b = method.backbone(x), method.backbone(x.flip(3))
        plain, fused = method.embed(x, method.networks()), method.embed(x, method.networks(), flip=True)
    torch.testing.assert_close(plain.vector, a)
    torch.testing.assert_close(plain.quality, a.norm(dim=1))
    torch.testing.assert_close(fused.vector, a + b)
    torch.testing.assert_close(fused.quality, (a.norm(dim=1) + b.norm(dim=1)) / 2)
