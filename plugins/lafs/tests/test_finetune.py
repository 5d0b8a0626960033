"""The supervised method: loss with mixed labels against dense targets, groups, evaluation scale, mixup's draws, best rule."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from facex_lafs.finetune import LAFS, Decay, LandmarkRegulariser
from facex_lafs.mixup import TRIES, Mixup, mix
from facex_lafs.recipe import BestRule, finetune_schedule, scaled_lr
from torch import Tensor, nn

from facex.data.draws import Draws
from facex.errors import ConfigError
from facex.heads import MarginHead
from facex.methods import Batch, Field, InputSpec

SMALL: dict[str, Any] = {"dim": 16, "depth": 2, "heads": 2, "head_dim": 8, "mlp_dim": 16, "num_patches": 16}
PART = {**SMALL, "landmark_width": 0.25, "coordinate_max": 31.0}
INPUT = InputSpec(32, 32)
PUBLISHED_WEIGHTS = ((0, 7, 1000.0), (8, 13, 100.0), (14, 20, 1.0), (21, 27, 0.11))


def method(**options: Any) -> LAFS:
    torch.manual_seed(0)
    return LAFS(**{"backbone_options": PART, "input": INPUT, **options})


def batch(count: int = 6) -> Batch:
    torch.manual_seed(1)
    fields = {"image": torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8), "label": torch.arange(count) % 4}
    kinds = {"image": Field("image"), "label": Field("label")}
    return Batch(fields, kinds, "rgb", torch.arange(count), torch.arange(count))


def context(made: LAFS, epoch: int = 0, **nets: Any) -> Any:
    draws = Draws(0, 3, torch.arange(6))
    return SimpleNamespace(nets={**made.networks(), **nets}, epoch=epoch, uniform=draws.uniform, mean=torch.mean)


def dense_loss(embeddings: Tensor, weight: Tensor, labels: Tensor, lam: float, smoothing: float) -> Tensor:
    """CosFace with dense soft targets, as the paper writes it, in float64."""
    classes = len(weight)
    on, off = 1 - smoothing + smoothing / classes, smoothing / classes
    hard = torch.full((len(labels), classes), off, dtype=torch.float64)
    hard[torch.arange(len(labels)), labels] = on
    y = lam * hard + (1 - lam) * hard.flip(0)
    cos = nn.functional.normalize(embeddings) @ nn.functional.normalize(weight).T
    return -(y * (64 * (cos - 0.4 * y)).log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("lam", [1.0, 0.35, 0.5])
def test_two_labels_a_row_are_a_dense_target(lam: float, smoothing: float) -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(6, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, 16, dtype=torch.float64)
    labels = torch.tensor([0, 3, 5, 5, 8, 0])  # rows 0 and 5, 2 and 3 meet their own label
    made = method(label_smoothing=smoothing)
    assert made.head is not None
    head = MarginHead(made.head.margin, 16, 9, group="alone", dtype=torch.float64, **made.head.options)
    head.load_weight(weight)
    _, pairs, shares = mix(torch.zeros(6, 1), labels, torch.tensor(lam, dtype=torch.float64))
    leaf = weight.clone().requires_grad_()
    want = dense_loss(embeddings, leaf, labels, lam, smoothing)
    gradients = torch.autograd.grad(want, (embeddings, leaf))
    got = head(embeddings, pairs, shares).loss
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, embeddings)[0], gradients[0])
    torch.testing.assert_close(head.grads().full(), gradients[1])


def test_mixup_mixes_with_the_reverse_and_leaves_lambda_one_alone() -> None:
    x, labels = torch.rand(5, 3, 4, 4), torch.arange(5)
    mixed, pairs, shares = mix(x, labels, torch.tensor(0.3))
    torch.testing.assert_close(mixed, 0.3 * x + 0.7 * x.flip(0))
    assert pairs.tolist() == [[0, 4], [1, 3], [2, 2], [3, 1], [4, 0]]
    torch.testing.assert_close(shares, torch.tensor([[0.3, 0.7]]).expand(5, 2))
    assert torch.equal(mix(x, labels, torch.tensor(1.0))[0], x)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 2.0])
def test_lambda_is_beta(alpha: float) -> None:
    draws = Draws(0, 0, torch.arange(6000)).uniform("mixup", 1 + 2 * TRIES)
    lam = torch.stack([Mixup(alpha, 1.0).draw(row) for row in draws]).double().numpy()
    rng = np.random.default_rng(0).beta(alpha, alpha, 200_000)
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        below = np.quantile(rng, quantile)
        assert (lam < below).mean() == pytest.approx(quantile, abs=0.02)
    some = torch.stack([Mixup(alpha, 0.3).draw(row) for row in draws[:2000]])
    assert float((some < 1).float().mean()) == pytest.approx(0.3, abs=0.03)


def test_prepare_mixes_the_batch_and_keeps_the_scale() -> None:
    made = method(mixup=Mixup(0.2, 1.0))
    data = batch()
    prepared = made.prepare(data, context(made))
    lam = prepared.extras["shares"][0, 0]  # type: ignore[index]
    plain = data["image"].permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(prepared["image"], lam * plain + (1 - lam) * plain.flip(0), rtol=1e-5, atol=1e-5)
    assert prepared["label"].shape == (6, 2)
    off = method(mixup=Mixup(prob=0.0)).prepare(batch(), context(made))
    assert "shares" not in off.extras
    assert off["label"].shape == (6,)
    bgr = method().network_input(data["image"].flip(3), "bgr")
    torch.testing.assert_close(bgr, plain)


def test_one_learning_rate_unless_layers_are_asked_for() -> None:
    scales = {g.lr_scale for g in method().param_groups("backbone")}
    assert scales == {1.0}
    made = method(decay=Decay(layer=0.5))
    names = {id(p): n for n, p in made.backbone.named_parameters()}
    found = {names[id(p)]: g.lr_scale for g in made.param_groups("backbone") for p in g.parameters}
    assert found["cls_token"] == found["stn.features.0.0.weight"] == found["output_layer.1.bias"] == 0.5**3
    assert found["transformer.layers.0.0.fn.norm.weight"] == 0.5**2
    assert found["transformer.layers.1.1.fn.fn.net.3.bias"] == 0.5
    assert found["mlp_head.0.bias"] == 1


def test_weight_decay_by_kind() -> None:
    made = method()
    names = {id(p): n for n, p in made.backbone.named_parameters()}
    found = {names[id(p)]: g.weight_decay for g in made.param_groups("backbone") for p in g.parameters}
    assert found["pos_embedding"] == found["cls_token"] == found["output_layer.1.weight"] == 0.1
    assert found["stn.features.3.conv.0.weight"] == 0.05
    assert found["stn.features.3.conv.1.weight"] == found["patch_to_embedding.bias"] == found["mlp_head.0.weight"] == 0
    assert len(found) == len(names)


def test_the_regulariser_weighs_by_epoch_and_starts_at_the_loaded_landmarks() -> None:
    assert [LandmarkRegulariser(PUBLISHED_WEIGHTS).weight(e) for e in (0, 7, 8, 13, 14, 20, 21, 27, 28, 40)] == [
        *(1000, 1000, 100, 100, 1, 1, 0.11, 0.11, 0, 0)
    ]
    made = method(regulariser=LandmarkRegulariser(((0, 2, 10.0),)), mixup=Mixup(prob=0.0)).eval()
    made.init_from([])  # a start without files: the anchor is the network as it is
    x = made.network_input(batch()["image"], "rgb")
    same = made.landmark_loss(x, made.backbone.landmarks(x), {"anchor": made.anchor})  # type: ignore[dict-item,operator]
    assert float(same.detach().abs().max()) < 1e-10
    ready = batch().with_fields(image=x)
    (update,) = made.training_step(ready, context(made, 0, anchor=made.anchor))
    assert set(update.losses) == {"landmarks"}
    (update,) = made.training_step(ready, context(made, 3, anchor=made.anchor))
    assert update.losses == {}
    with pytest.raises(ConfigError, match="needs a Part fViT"):
        LAFS("fvit_b", SMALL, regulariser=LandmarkRegulariser(PUBLISHED_WEIGHTS), input=INPUT)


def test_evaluation_reads_the_published_scale_unless_told_otherwise() -> None:
    images = batch()["image"]
    x = INPUT.to_tensor(images, "rgb")
    official, train = method().eval(), method(eval_input_scale="train").eval()
    with torch.no_grad():
        nets = official.networks()
        half, whole = official.backbone(x / 2), official.backbone(x)
        torch.testing.assert_close(official.embed(x, nets).vector, half)
        torch.testing.assert_close(train.embed(x, nets).vector, whole)
        both = official.embed(x, nets, flip=True).vector
        torch.testing.assert_close(both, half + official.backbone(x.flip(3) / 2))


def test_published_arguments() -> None:
    assert scaled_lr(1e-3, 200, 2, 3) == pytest.approx(2.2913e-3, rel=1e-4)
    assert scaled_lr(1e-3, 168, 2, 3) == pytest.approx(2.1e-3)
    schedule, total = finetune_schedule(4_235_242, 200, 2, 3, 34, 5, 1e-3)
    assert total == 359_992 // 3
    assert schedule.lr(0) == 0
    assert schedule.lr(schedule.warmup.steps) == schedule.lr(schedule.warmup.steps + 1) == schedule.base_lr
    assert schedule.lr(total) < 2e-6


def test_the_rule_for_keeping_checkpoints() -> None:
    rows = [[0.5, 0.5, 0.5], [0.5, 0.4, 0.5], [0.5, 0.6, 0.4], [0.985, 0.1, 0.1]]
    rule = BestRule()
    assert rule.kept(rows) == [True, False, True, True]
    evaluations = [{name: {"accuracy": a} for name, a in zip("abc", row, strict=True)} for row in rows]
    assert [rule.keep(evaluations[: n + 1]) for n in range(4)] == rule.kept(rows)
    scores = [rule.score(evaluations[: n + 1]) for n in range(4)]
    assert scores == [pytest.approx(0.5), None, pytest.approx(0.5), pytest.approx(0.395)]
    assert BestRule(best=(0.99, 0.7, 0.7)).kept(rows) == [False, False, False, True]
    with pytest.raises(ConfigError, match=r"1 values of `best` for 2 sets in evaluation\.bins"):
        BestRule(best=(0.5,)).check(["lfw", "agedb_30"])


@pytest.mark.parametrize("bad", [Mixup(alpha=-1), Mixup(alpha=3), Mixup(prob=1.5)])
def test_mixup_that_cannot_be(bad: Mixup) -> None:
    with pytest.raises(ConfigError, match="mixup"):
        method(mixup=bad)


def test_pictures_show_the_landmarks() -> None:
    made = method().eval()
    data = made.prepare(batch(), context(made))
    shown = made.visuals(data, context(made)).images["landmarks"]
    assert shown.shape == (6, 96, 96, 3)
    assert shown.dtype == torch.uint8
