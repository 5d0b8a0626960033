"""Every golden kind of training passes, and fails when one constant of the product changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from facex_sarface import actions, golden_training, groups, method, options, pretrain, rewards
from facex_sarface.masking import RegionRecogniser

from facex.heads import CosFace
from facex.train.engines import Cadence
from plugins.sarface.tests.golden_bites import Change, Goldens

GOLDENS = Goldens(golden_training.KINDS)


def other_cut(patch: pytest.MonkeyPatch) -> None:
    original = actions.Perturbed.__init__
    patch.setattr(actions.Perturbed, "__init__", lambda self, probs, floor: original(self, probs, 2**14 * floor))


def noise_always(patch: pytest.MonkeyPatch) -> None:
    original = actions.add_noise
    patch.setattr(
        golden_training, "add_noise", lambda probs, noise, coin, eps: original(probs, noise + 0.01, coin, 1.0)
    )


def entropy_of_the_policy(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(method, "pseudo_entropy", lambda log_prob: -log_prob.sum(-1))


def rewards_turned(patch: pytest.MonkeyPatch) -> None:
    original = rewards.flip_reward
    patch.setattr(rewards, "flip_reward", lambda full, masked, labels: -original(full, masked, labels))


def every_batch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cadence, "due", lambda self, batches: True)


def everything_kept(patch: pytest.MonkeyPatch) -> None:
    original = pretrain.SARFacePretrain.keep

    def changed(self: Any, batch: Any, ctx: Any) -> torch.Tensor:
        keep = original(self, batch, ctx)
        keep[:, 2] = 1
        return keep

    patch.setattr(pretrain.SARFacePretrain, "keep", changed)


def margin_on_top(patch: pytest.MonkeyPatch) -> None:
    original = CosFace.__init__
    patch.setattr(CosFace, "__init__", lambda self, s, m, **k: original(self, s, m * 1.01, **k))


def one_view(patch: pytest.MonkeyPatch) -> None:
    original = RegionRecogniser.embed
    patch.setattr(RegionRecogniser, "embed", lambda self, x, nets, side=None, flip=False: original(self, x, nets))


def slopes_do_not_decay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(groups, "NORMS", (torch.nn.PReLU,))


def a_faster_schedule(patch: pytest.MonkeyPatch) -> None:
    original = options.ExplorationConfig
    patch.setattr(golden_training, "ExplorationConfig", lambda steps, **k: original(steps=steps - 1, **k))


# case: changes with the output that each is to be seen in
CASES: list[tuple[str, Change, str]] = [
    ("actions_noise", other_cut, "log_prob"),
    ("actions_plain", noise_always, "probs_used"),
    ("step_ir18_plain", entropy_of_the_policy, "entropy"),
    ("step_ir18_plain", every_batch, "model_stepped|rec_after"),
    ("step_ir18_plain", rewards_turned, "rewards"),
    ("pretrain_ir18", everything_kept, "used_action"),
    ("pretrain_ir18", margin_on_top, "logits"),
    ("val_step", one_view, "emb"),
    ("optim_ir18", slopes_do_not_decay, "decay"),
    ("optim_ir18", a_faster_schedule, "epsilon"),
]


def test_every_kind_has_a_change() -> None:
    assert GOLDENS.kinds([name for name, _, _ in CASES]) == GOLDENS.kinds(GOLDENS.found) == set(golden_training.KINDS)


@pytest.mark.parametrize("name", sorted({name for name, _, _ in CASES}))
def test_it_passes(name: str) -> None:
    GOLDENS.passes(name)


@pytest.mark.parametrize(("name", "change", "output"), CASES, ids=[f"{n}-{c.__name__}" for n, c, _ in CASES])
def test_it_fails_when_a_constant_changes(
    name: str, change: Change, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    GOLDENS.fails(name, output)
