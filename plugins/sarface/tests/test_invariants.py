"""What must hold whatever is learnt: an unbiased gradient, no influence of the order, networks that leave each other alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from facex_sarface.actions import ActionDistribution, Mixture, Perturbed, deterministic
from facex_sarface.baselines import leave_one_out, surrogate
from facex_sarface.masking import PARSER
from facex_sarface.options import BaselineConfig, EntropyConfig, ExplorationConfig, RewardConfig
from torch import Tensor, nn

from plugins.sarface.tests.tiny_sarface import PARSER as SMALL_PARSER
from plugins.sarface.tests.tiny_sarface import SteadyContext, batch_of, head_of, tiny

ACTIONS = 4
COMPLETED: dict[str, Any] = {
    "exploration": ExplorationConfig("mixture", 0.5, 0.05, 100),
    "reward": RewardConfig("margin", sparsity="fraction", min_area=0.05),
    "entropy": EntropyConfig("true"),
    "clean_probability": 0.5,
}
PUBLISHED: dict[str, Any] = {}


# -- the gradient -----------------------------------------------------------------------------------------------------
@pytest.fixture
def world() -> tuple[Tensor, Tensor, Tensor]:
    """Logits [ACTIONS], every action [2^ACTIONS, ACTIONS], and an arbitrary reward for each, in float64."""
    generator = torch.Generator().manual_seed(0)
    actions = torch.tensor(list(itertools.product([0.0, 1.0], repeat=ACTIONS)), dtype=torch.float64)
    logits = torch.randn(ACTIONS, generator=generator, dtype=torch.float64).requires_grad_()
    return logits, actions, torch.randn(len(actions), generator=generator, dtype=torch.float64)


def perturbed(logits: Tensor) -> ActionDistribution:
    """The published policy without noise, the cut far away."""
    return Perturbed(logits.sigmoid(), 1e-12)


def mixture(logits: Tensor) -> ActionDistribution:
    return Mixture(logits, 0.3)


def exact(policy: ActionDistribution, actions: Tensor, rewards: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of every action [2^n], and the gradient of the exact expected reward."""
    probability = policy.log_prob(actions).sum(1).exp()
    (gradient,) = torch.autograd.grad((probability * rewards).sum(), logits, retain_graph=True)
    return probability.detach(), gradient


@pytest.mark.parametrize("make", [perturbed, mixture])
@pytest.mark.parametrize("baseline", ["none", "greedy", "ema"])
def test_the_expected_gradient_is_that_of_the_expected_reward(
    make: Callable[[Tensor], ActionDistribution], baseline: str, world: tuple[Tensor, Tensor, Tensor]
) -> None:
    logits, actions, rewards = world
    policy = make(logits)
    probability, wanted = exact(policy, actions, rewards, logits)
    best = int((actions == deterministic(logits.detach())).all(1).nonzero())
    advantages = rewards - {"none": 0.0, "greedy": float(rewards[best]), "ema": 0.7}[baseline]
    loss = surrogate(policy.log_prob(actions)[None], advantages[None])
    (found,) = torch.autograd.grad((probability * loss).sum(), logits)
    torch.testing.assert_close(-found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 2])
def test_leave_one_out_is_unbiased(samples: int, world: tuple[Tensor, Tensor, Tensor]) -> None:
    """Over all pairs of actions: of two pictures (one sample each), or of two samples of one picture."""
    logits, actions, rewards = world
    policy = mixture(logits)
    probability, wanted = exact(policy, actions, rewards, logits)
    log_prob, total = policy.log_prob(actions), torch.zeros_like(logits)
    for i, j in itertools.product(range(len(actions)), repeat=2):
        shape = (2, 1) if samples == 2 else (1, 2)
        pair = torch.stack([rewards[i], rewards[j]]).view(shape)
        valid = torch.ones(shape[1], dtype=torch.bool)
        advantages = pair - leave_one_out(pair, valid, lambda values: values)
        both = torch.stack([log_prob[i], log_prob[j]]).view(*shape, ACTIONS)
        loss = probability[i] * probability[j] * surrogate(both, advantages).mean()
        total = total - torch.autograd.grad(loss, logits, retain_graph=True)[0]
    torch.testing.assert_close(total, wanted, rtol=1e-9, atol=1e-12)


# -- the order of the batch -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [PUBLISHED, COMPLETED], ids=["published", "completed"])
def test_the_order_of_a_batch_changes_neither_masks_nor_rewards(options: dict[str, Any]) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    found = []
    for permutation in (torch.arange(6), order):
        method = tiny(**options, samples=2, baseline=BaselineConfig("greedy")).train()
        batch = batch_of(method)
        fields = {name: value[permutation] for name, value in batch.fields.items()}
        batch = batch.with_fields(**fields)
        batch.position = batch.position[permutation]
        ctx = SteadyContext(method, head_of(method), batch)
        rollout = method.roll_out(batch, ctx)
        images = method._training_images(batch, ctx)
        found.append((rollout.actions, rollout.rewards, rollout.greedy[None], rollout.log_prob.detach(), images[None]))
    for name, first, second in zip(("actions", "rewards", "greedy", "log_prob", "images"), *found, strict=True):
        exactly = {"rtol": 0, "atol": 0} if name in ("actions", "images") else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(first[:, order], second, **exactly, msg=name)


# -- who moves --------------------------------------------------------------------------------------------------------
def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("rec_bn", ["frozen", "train"])
def test_each_step_moves_its_own_network(rec_bn: str) -> None:
    method = tiny(parsing="parser", parser=SMALL_PARSER, rec_bn=rec_bn).train()
    batch, head = batch_of(method), head_of(method)
    ctx = SteadyContext(method, head, batch)
    ctx.nets = {**method.networks(), PARSER: method.parser}
    batch = batch.with_fields(regions=method.regions(batch["image"], ctx.nets))
    parser, centres, first = state(method.parser), head.weight.clone(), state(method.backbone)
    steps = method.training_step(batch, ctx)
    for name, other in (("policy", "recogniser"), ("recogniser", "policy")):
        update = next(steps)
        own, its = method.networks()[name], method.networks()[other]
        before, others = state(own), state(its)
        parameters = [p for group in method.param_groups(name) for p in group.parameters]
        loss = sum(update.losses.values()) if update.embeddings is None else head(update.embeddings, update.labels).loss
        loss.backward()
        torch.optim.SGD(parameters, 0.1).step()
        assert moved(own, before) == {n for n, _ in own.named_parameters()}
        assert not moved(its, others) and all(p.grad is None for p in its.parameters())
        own.zero_grad()
        assert torch.equal(head.weight, centres)
    assert next(steps, None) is None
    assert not moved(method.parser, parser) and not method.parser.training
    statistics = {n for n in first if "running" in n or "tracked" in n}
    assert moved(method.backbone, first) & statistics == (statistics if rec_bn == "train" else set())


def test_rewards_do_not_move_the_recognisers_statistics() -> None:
    method = tiny(rec_bn="train").train()
    batch = batch_of(method)
    before = state(method.backbone)
    method.roll_out(batch, SteadyContext(method, head_of(method), batch))
    assert not moved(method.backbone, before)


def test_a_margins_running_values_move_in_the_recognisers_pass_alone() -> None:
    from facex.heads import AdaFace

    method = tiny(margin=AdaFace(16.0)).train()
    batch, head = batch_of(method), head_of(method)
    steps = method.training_step(batch, SteadyContext(method, head, batch))
    next(steps)
    update = next(steps)
    assert float(head.margin.batch_mean) == 20
    head(update.embeddings, update.labels)
    assert float(head.margin.batch_mean) == pytest.approx(
        0.01 * float(update.embeddings.detach().norm(dim=1).clamp(1e-3, 100).mean()) + 0.99 * 20, rel=1e-5
    )
