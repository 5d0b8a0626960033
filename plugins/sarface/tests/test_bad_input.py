"""Input at the edges: finite numbers, or an error that says what to do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from facex_sarface.masking import FIELD
from facex_sarface.options import BaselineConfig, EntropyConfig, ExplorationConfig, ParserConfig, RewardConfig
from facex_sarface.policy_network import PolicyNetwork
from facex_sarface.pretrain import SARFacePretrain

from facex.errors import ConfigError, DataError
from facex.heads import AdaFace
from facex.methods import InputSpec
from plugins.sarface.tests.tiny_sarface import PARSER, SIDE, SteadyContext, TinySARFace, batch_of, head_of, tiny

COMPLETED: dict[str, Any] = {
    "exploration": ExplorationConfig("mixture", 0.5, 0.05),
    "reward": RewardConfig("margin", sparsity="fraction", min_area=0.05),
    "baseline": BaselineConfig("loo", normalize=True),
    "entropy": EntropyConfig("true"),
}


def step(method: Any, batch: Any, head: Any = None) -> list[float]:
    """The losses of a step after their backward passes; every gradient must be finite."""
    head, losses = head or head_of(method), []
    for update in method.training_step(batch, SteadyContext(method, head, batch)):
        loss = sum(update.losses.values()) if update.embeddings is None else head(update.embeddings, update.labels).loss
        loss.backward()
        losses.append(float(loss.detach()))
        assert all(
            torch.isfinite(p.grad).all() for p in method.networks()[update.network].parameters() if p.grad is not None
        )
        assert all(torch.isfinite(v).all() for v in update.logs.values())
    return losses


@pytest.mark.parametrize("options", [{}, COMPLETED], ids=["published", "completed"])
@pytest.mark.parametrize("margin", [None, AdaFace(16.0)], ids=["cosface", "adaface"])
def test_a_batch_of_one(options: dict[str, Any], margin: Any) -> None:
    method = tiny(**options, **({} if margin is None else {"margin": margin})).train()
    method.policy.bn.eval()  # the small policy's statistics would be of one number
    head = head_of(method)
    losses = step(method, batch_of(method, 1), head)
    assert len(losses) == 2 and all(torch.isfinite(torch.tensor(losses)))
    assert all(torch.isfinite(b).all() for b in head.margin.buffers())


@pytest.mark.parametrize("stage", [TinySARFace, SARFacePretrain])
def test_a_batch_of_one_has_no_statistics(stage: type) -> None:
    method = tiny(stage, **({"rec_bn": "train"} if stage is TinySARFace else {})).train()
    batch = batch_of(method, 1)
    if stage is TinySARFace:
        method.policy.bn.eval()
    with pytest.raises(ConfigError, match="micro-batch of one picture"):
        step(method, batch)


def test_the_policy_of_one_picture() -> None:
    policy = PolicyNetwork().train()
    for side, fits in ((33, True), (32, False)):
        one = (torch.zeros(1, 3, side, side), torch.zeros(1, side, side, dtype=torch.uint8))
        if fits:
            assert torch.isfinite(policy(*one)).all()
        else:
            with pytest.raises(ConfigError, match="one small picture"):
                policy(*one)
            assert torch.isfinite(policy.eval()(*one)).all()


@pytest.mark.parametrize("options", [{}, COMPLETED], ids=["published", "completed"])
def test_a_picture_that_is_all_background(options: dict[str, Any]) -> None:
    method = tiny(**options).train()
    batch = batch_of(method, labels=torch.zeros(6, SIDE, SIDE, dtype=torch.uint8))
    assert set(batch["regions"].unique().tolist()) == {0, 14, 15, 16, 17}
    assert all(torch.isfinite(torch.tensor(step(method, batch))))
    fixed = tiny(center_pixel="fixed")
    assert 0 not in fixed.regions(batch["image"], {}, torch.zeros(6, SIDE, SIDE, dtype=torch.uint8))


def test_nothing_left_of_a_picture() -> None:
    method = tiny(removable=[14, 15, 16, 17], center_pixel="fixed").train()
    batch = batch_of(method, labels=torch.zeros(6, SIDE, SIDE, dtype=torch.uint8))
    masked, area = method.mask(batch["image"], batch["regions"], method.scheme.keep(torch.zeros(6, 4)))
    assert not masked.any() and area.tolist() == [0] * 6
    torch.nn.init.constant_(method.policy.fc.bias, -20.0)
    torch.nn.init.zeros_(method.policy.fc.weight)
    losses = step(method, batch)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert method.seen.rollout.rewards[0].tolist() == pytest.approx([5000] * 6, abs=1.1)


def test_a_label_that_no_class_has() -> None:
    method = tiny().train()
    labels = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    labels[1, 3, 7] = 40
    with pytest.raises(DataError, match=r"label map 1 .*class 40 at row 3, column 7"):
        method.regions(torch.zeros(2, 3, SIDE, SIDE), {}, labels)


def test_embeddings_of_length_zero() -> None:
    method = tiny(**COMPLETED).train()
    torch.nn.init.zeros_(method.backbone.output_layer[3].weight)
    torch.nn.init.zeros_(method.backbone.output_layer[3].bias)
    batch = batch_of(method)
    assert not method.eval().backbone(batch["image"]).any()
    assert all(torch.isfinite(torch.tensor(step(method.train(), batch))))
    assert torch.isfinite(method.eval().embed(batch["image"], method.networks(), flip=True).vector).all()


def test_no_picture_with_a_label() -> None:
    method = tiny(**COMPLETED).train()
    batch = batch_of(method)
    unknown = batch.with_fields(label=torch.full((6,), -1))
    ctx = SteadyContext(method, head_of(method), unknown)
    rollout = method.roll_out(unknown, ctx)
    assert torch.isfinite(method.baseline(rollout, ctx.all_reduce)).all() and not rollout.valid.any()


def test_what_is_missing_is_said() -> None:
    method = tiny()
    batch = batch_of(method)
    ctx = SteadyContext(method, None, batch)
    raw = batch.with_fields(image=torch.zeros(6, SIDE, SIDE, 3, dtype=torch.uint8))
    with pytest.raises(DataError, match="no field `parsing`"):
        method.prepare(raw, ctx)
    assert method.needs == {"image", "label", FIELD}
    parsed = tiny(parsing="parser", parser=PARSER)
    assert parsed.needs == {"image", "label"}
    with pytest.raises(ConfigError, match="the face parser has random weights"):
        parsed.prepare(raw, ctx)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rec_bn": "off"}, "rec_bn is frozen or train"),
        ({"eval_input": "half"}, "eval_input full, masked or both"),
        ({"samples": 0}, "samples: at least 1"),
        ({"removable": []}, "removable: at least one region"),
        ({"scheme": "sar25"}, "no region scheme 'sar25'"),
        ({"parsing": "file"}, "parsing is parser or data"),
        ({"input": InputSpec(48, 64, "bgr")}, "square pictures"),
        ({"input": InputSpec(48, 48), "parsing": "parser", "parser": PARSER}, "set input.color bgr"),
        ({"parsing": "parser", "parser": ParserConfig(options={"width": 3})}, "parser.options"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**options)


def test_options_of_the_first_stage_that_cannot_be() -> None:
    for options in ({"drop_probability": 1.5}, {"clean_probability": -1.0}, {"clean_per": "epoch"}):
        with pytest.raises(ConfigError, match=r"probability|clean_per"):
            tiny(SARFacePretrain, **options)
    with pytest.raises(ConfigError, match="multiple of 32"):
        ParserConfig(size=100)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ExplorationConfig, {"sigma": math.inf}, "sigma must be finite"),
        (RewardConfig, {"tau": math.inf}, "tau must be positive"),
        (RewardConfig, {"weight": math.nan}, "weight finite"),
        (EntropyConfig, {"weight": math.nan}, "must be finite"),
        (ParserConfig, {"table": [0, 25]}, r"label table: \[25\]"),
    ],
)
def test_numbers_that_cannot_be(kind: type, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**options)


def test_a_mask_of_the_actions_alone() -> None:
    method, images = tiny().eval(), torch.zeros(2, 3, SIDE, SIDE)
    side = {FIELD: torch.zeros(2, SIDE, SIDE, dtype=torch.uint8), "keep": torch.ones(2, 12)}
    with pytest.raises(ValueError, match=r"must be \(2, 24\)"):
        method.embed(images, method.networks(), side)
