"""SARFace as a method: what is embedded, the masks, the recogniser's cadence, baselines, pictures, options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from facex_sarface.masking import PARSER
from facex_sarface.method import SARFace
from facex_sarface.options import BaselineConfig, RewardConfig
from facex_sarface.pretrain import SARFacePretrain
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.heads import CosFace
from plugins.sarface.tests.tiny_sarface import PARSER as SMALL_PARSER
from plugins.sarface.tests.tiny_sarface import SteadyContext, batch_of, head_of, tiny


@pytest.fixture(scope="module")
def method() -> SARFace:
    return tiny(parsing="parser", parser=SMALL_PARSER, eval_input="masked").eval()


def nets(method: SARFace) -> dict[str, nn.Module]:
    return {**method.networks(), PARSER: method.parser}


def cut(images: Tensor, regions: Tensor, keep: Tensor) -> Tensor:
    """Region after region made black."""
    out = images.clone()
    for picture, (ids, kept) in enumerate(zip(regions, keep, strict=True)):
        for k, stays in enumerate(kept):
            if not stays:
                out[picture][:, ids == k] = 0
    return out


@torch.no_grad()
def test_the_masked_picture_is_embedded(method: SARFace) -> None:
    images = batch_of(method)["image"]
    regions = method.regions(images, nets(method))
    keep = torch.ones(6, 24)
    keep[:, 12:] = (method.policy(images, regions).sigmoid() >= 0.5).float()
    assert 0 < float(keep[:, 12:].mean()) < 1
    seen = cut(images, regions, keep)
    assert torch.equal(method.mask(images, regions, keep)[0], seen)
    found = method.embed(images, nets(method))
    torch.testing.assert_close(found.vector, method.backbone(seen))
    assert torch.equal(found.maps["keep"], keep)
    assert torch.equal(found.maps["kept"] == 255, keep.gather(1, regions.long().flatten(1)).view(regions.shape) > 0)
    flipped = method.embed(images, nets(method), flip=True)
    torch.testing.assert_close(flipped.vector, method.backbone(seen) + method.backbone(seen.flip(3)))
    torch.testing.assert_close(flipped.quality, flipped.vector.norm(dim=1))
    vector, kept = method.inference_module(masks=True)(images)
    torch.testing.assert_close(vector, found.vector)
    assert torch.equal(kept, keep)


@torch.no_grad()
def test_label_maps_and_masks_may_be_given(method: SARFace) -> None:
    images = batch_of(method)["image"]
    labels = torch.randint(0, 19, (6, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    regions = method.regions(images, {}, labels)
    keep = torch.ones(6, 24)
    keep[:, 5] = keep[:, 20] = 0
    given = method.embed(images, nets(method), {"parsing": labels, "keep": keep})
    torch.testing.assert_close(given.vector, method.backbone(cut(images, regions, keep)))
    full = tiny(eval_input="full").eval()
    torch.testing.assert_close(full.embed(images, full.networks()).vector, full.backbone(images))
    with pytest.raises(ConfigError, match="no face parser here"):
        full.embed_masked(images, full.networks())


@torch.no_grad()
def test_both_is_the_whole_picture_and_a_view(method: SARFace) -> None:
    both = tiny(parsing="parser", parser=SMALL_PARSER, eval_input="both").eval()
    images = batch_of(both)["image"]
    torch.testing.assert_close(both.embed(images, nets(both)).vector, both.backbone(images))
    (view,) = both.views().values()
    assert list(both.views()) == ["masked"] and not method.views()
    torch.testing.assert_close(view.embed(images, nets(both)).vector, method.embed(images, nets(method)).vector)


@torch.no_grad()
def test_a_mask_that_leaves_too_little_is_not_applied() -> None:
    strict = tiny(reward=RewardConfig(min_area=0.999), eval_input="masked").eval()
    batch = batch_of(strict)
    found = strict.embed(batch["image"], strict.networks(), {"parsing": batch["regions"] * 0})
    torch.testing.assert_close(found.vector, strict.backbone(batch["image"]))
    images = strict._training_images(batch, SteadyContext(strict, head_of(strict), batch))
    assert torch.equal(images, batch["image"])


def test_the_recogniser_is_left_out_where_it_is_not_due() -> None:
    method = tiny().train()
    batch = batch_of(method)
    ctx = SteadyContext(method, head_of(method), batch)
    ctx.due = lambda network: network != "recogniser"  # type: ignore[method-assign]
    assert [u.network for u in method.training_step(batch, ctx)] == ["policy"]
    assert int(method.policy.bn.num_batches_tracked) == 2  # as where it is due: the policy looks twice


def test_the_recogniser_learns_from_new_masks_and_some_whole_faces() -> None:
    batch = batch_of(tiny())
    whole = {}
    for share in (0.0, 0.5, 1.0):
        method = tiny(clean_probability=share).train()
        images = method._training_images(batch, SteadyContext(method, head_of(method), batch))
        whole[share] = (images == batch["image"]).flatten(1).all(1)
        assert torch.equal(images[~whole[share]] != 0, (images != 0)[~whole[share]])
    assert not whole[0.0].any() and whole[0.5].any() and not whole[0.5].all() and whole[1.0].all()


def test_the_losses_of_a_step() -> None:
    """-mean_i A_i sum_j l_ij - weight * mean_i H_i, under each baseline."""
    for kind in ("none", "loo", "greedy", "ema"):
        method = tiny(baseline=BaselineConfig(kind), samples=2).train()
        batch = batch_of(method)
        batch = batch.with_fields(label=torch.where(batch.position == 2, -1, batch["label"]))
        ctx = SteadyContext(method, head_of(method), batch)
        update = next(method.training_step(batch, ctx))
        r = method.seen.rollout
        base = {"none": 0, "loo": r.rewards.flip(0), "greedy": r.greedy, "ema": 0}[kind]
        counted = batch["label"] >= 0
        wanted = -((r.rewards - base) * r.log_prob.sum(2)).mean(0)[counted].mean()
        torch.testing.assert_close(update.losses["reinforce"].detach(), wanted)
        entropy = -(r.log_prob.exp() * r.log_prob).sum(2).mean(0)[counted].mean()
        torch.testing.assert_close(update.losses["entropy"].detach(), -0.01 * entropy)
        assert (r.greedy is not None) == (kind == "greedy")


def test_the_running_baseline_takes_in_a_whole_step() -> None:
    method = tiny(baseline=BaselineConfig("ema", momentum=0.9)).train()
    rewards = []
    for _ in range(2):  # two micro-batches of one step
        batch = batch_of(method)
        ctx = SteadyContext(method, head_of(method), batch, seed=len(rewards))
        next(method.training_step(batch, ctx))
        rewards.append(method.seen.rollout.rewards.flatten())
    method.after_update("recogniser", ctx)
    assert float(method.baseline.mean) == 0
    method.after_update("policy", ctx)
    assert float(method.baseline.mean) == pytest.approx(0.1 * float(torch.cat(rewards).mean()), rel=1e-5)
    assert "baseline.mean" in method.state_dict() and "baseline.mean" not in tiny().state_dict()


def test_what_is_shown() -> None:
    method = tiny(samples=2).train()
    batch = batch_of(method)
    ctx = SteadyContext(method, head_of(method), batch)
    assert not method.visuals(batch, ctx).images
    update = next(method.training_step(batch, ctx))
    rollout = method.seen.rollout
    assert not rollout.log_prob.requires_grad
    visuals = method.visuals(batch, ctx)
    assert visuals.images["regions"].shape == (6, 48, 3 * 48, 3)
    assert visuals.histograms["reward"].shape == visuals.histograms["area"].shape == (12,)
    keep = {k.removeprefix("keep/"): float(v) for k, v in update.logs.items() if k.startswith("keep/")}
    assert list(keep) == [method.scheme.names[k].replace(" ", "_") for k in range(12, 24)]
    assert list(keep.values()) == pytest.approx(rollout.actions.mean((0, 1)).tolist())
    assert float(update.logs["kept_regions"]) == pytest.approx(12 + sum(keep.values()), rel=1e-5)
    shown = tiny(SARFacePretrain).train()
    next(shown.training_step(batch, ctx))
    assert shown.visuals(batch, ctx).images["masked"].shape == (6, 48, 2 * 48, 3)


# -- stage 1 ----------------------------------------------------------------------------------------------------------
def kept(count: int = 400, **options: Any) -> Tensor:
    method = tiny(SARFacePretrain, **options)
    batch = batch_of(method)
    return torch.cat([method.keep(batch, SteadyContext(method, None, batch, batches=i)) for i in range(count // 6)])


def test_random_dropping() -> None:
    published = kept().view(-1, 6, 24)
    clean = (published == 1).all(2)
    assert (clean.all(1) | ~clean.any(1)).all()
    assert 0.35 < float(clean.float().mean()) < 0.65
    rest = published[~clean.all(1)]
    assert 0.45 < float(rest.mean()) < 0.55 and (rest.mean((0, 1)) < 1).all()
    single = (kept(clean_per="image", clean_probability=0.2, drop_probability=0.9) == 1).all(1).view(-1, 6)
    assert 0.1 < float(single.float().mean()) < 0.3 and (single.any(1) & ~single.all(1)).any()
    only = kept(drop_only_removable=True, clean_probability=0.0)
    assert (only[:, :12] == 1).all() and 0.45 < float(only[:, 12:].mean()) < 0.55


@pytest.mark.parametrize(("scheme", "regions", "actions"), [("sar24", 24, 12), ("legacy23", 23, 8), ("raw19", 19, 5)])
def test_schemes(scheme: str, regions: int, actions: int) -> None:
    method = tiny(scheme=scheme).train()
    batch = batch_of(method)
    ctx = SteadyContext(method, head_of(method), batch)
    assert [u.network for u in method.training_step(batch, ctx)] == ["policy", "recogniser"]
    assert method.seen.rollout.actions.shape == (1, 6, actions)
    assert kept(12, scheme=scheme, clean_probability=0.0).shape == (12, regions)


def test_other_regions_may_be_removable() -> None:
    method = tiny(removable=[9, 1, 12]).train()
    batch = batch_of(method)
    next(method.training_step(batch, SteadyContext(method, head_of(method), batch)))
    assert method.seen.rollout.actions.shape == (1, 6, 3)
    assert method.scheme.keep(torch.tensor([[0.0, 1.0, 0.0]])).sum() == 22
    with pytest.raises(ConfigError, match="removable"):
        SARFace(CosFace(), removable=[24])
