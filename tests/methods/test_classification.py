"""The core's recogniser: any backbone under any margin, and how views are fused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from facex.classification import Recogniser
from facex.errors import ConfigError
from facex.heads.margins import AdaFace, CosFace
from facex.methods import Batch, Field, InputSpec


def small(**options: Any) -> Recogniser:
    torch.manual_seed(0)
    return Recogniser(CosFace(), "resface_xs", embedding_size=8, **options)


def test_head_and_input() -> None:
    method = Recogniser(
        AdaFace(),
        "resface_xs",
        16,
        input=InputSpec(64, 64, "bgr"),
        init="xavier",
        sample_rate=0.3,
        head_options={"a": 1},
    )
    assert method.head is not None
    assert isinstance(method.head.margin, AdaFace)
    assert (method.head.embedding_size, method.head.network, method.head.init) == (16, "backbone", "xavier")
    assert (method.head.sample_rate, method.head.options) == (0.3, {"a": 1})
    assert method.input.color == "bgr"
    assert method.backbone.input_size == (64, 64)


def test_default_input_is_rgb_between_minus_one_and_one() -> None:
    spec = small().input
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).expand(1, 112, 112, 3)
    x = spec.to_tensor(images, "rgb")
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))


def test_the_size_may_be_left_to_the_network() -> None:
    method = small(backbone_options={"input_size": 32})
    assert (method.input.height, method.backbone.input_size) == (112, (32, 32))
    assert method.backbone.eval()(torch.zeros(1, 3, 112, 112)).shape == (1, 8)


def test_training_step_hands_embeddings_to_the_head() -> None:
    method = small().train()
    fields = {"image": torch.rand(4, 3, 112, 112), "label": torch.tensor([0, 1, -1, 2])}
    kinds = {"image": Field("image"), "label": Field("label")}
    batch = Batch(fields, kinds, "rgb", torch.arange(4), torch.arange(4))
    ctx: Any = SimpleNamespace(nets=method.networks())
    (update,) = list(method.training_step(batch, ctx))
    assert update.embeddings is not None
    assert update.embeddings.requires_grad
    assert torch.equal(update.labels, fields["label"])
    assert list(method.visuals(batch, ctx).histograms) == ["magnitude"]


def test_flip_adds_both_views() -> None:
    method = small().eval()
    x = torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        a, b = method.backbone(x), method.backbone(x.flip(3))
        fused = method.embed(x, method.networks(), flip=True)
    torch.testing.assert_close(fused.vector, a + b)
    assert fused.quality is not None
    torch.testing.assert_close(fused.quality, (a.norm(dim=1) + b.norm(dim=1)) / 2)


def test_no_inference_options() -> None:
    method = small()
    assert method.inference_module() is method.backbone
    with pytest.raises(ConfigError, match="mask"):
        method.inference_module(mask=True)
