"""Drawing actions: likelihoods against torch's distributions and float64, exploration, keyed draws."""

from __future__ import annotations

import pytest
import torch
from facex_sarface.actions import Mixture, Perturbed, add_noise, bernoulli_entropy, deterministic, pseudo_entropy
from facex_sarface.exploration import Explorer
from facex_sarface.options import FP16_FLOOR, ExplorationConfig
from torch.distributions import Bernoulli

from facex.errors import ConfigError
from plugins.sarface.tests.tiny_sarface import SteadyContext, batch_of, tiny

LOGITS = torch.tensor([[-3.0, -0.5, 0.0, 2.0], [200.0, -200.0, 30.0, 1e-3]], dtype=torch.float64)


def every_action(count: int) -> torch.Tensor:
    """All 2^count actions, float64 [2^count, count]."""
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * count)


def test_perturbed_is_torchs_bernoulli_with_its_cut() -> None:
    probs = torch.tensor([[0.0, 1.0, 0.3, 1e-8, 0.9999]])
    for actions in (torch.ones(1, 5), torch.zeros(1, 5)):
        wanted = Bernoulli(probs=probs).log_prob(actions)
        assert torch.equal(Perturbed(probs).log_prob(actions), wanted)
        half = Bernoulli(probs=probs.half(), validate_args=False).log_prob(actions.half())
        assert torch.equal(Perturbed(probs.half(), FP16_FLOOR).log_prob(actions.half()), half)
    assert Perturbed(probs).log_prob(torch.ones(1, 5))[0, 0] == pytest.approx(-15.942, abs=1e-3)


def test_the_published_gradient_dies_where_a_cut_is_active() -> None:
    probs = torch.tensor([[0.5, 0.5, 0.5, 0.02]], requires_grad=True)
    noise = torch.tensor([[0.1, 0.7, -0.7, 0.0]])
    used = add_noise(probs, noise, torch.tensor(0.1), 0.2)
    (grad,) = torch.autograd.grad(Perturbed(used).log_prob(torch.ones(1, 4)).sum(), probs)
    assert (grad == 0).tolist() == [[False, True, True, False]]
    assert grad[0, 0] == pytest.approx(1 / 0.6)
    (mixture,) = torch.autograd.grad(Mixture(probs.logit(), 0.2).log_prob(torch.ones(1, 4)).sum(), probs)
    assert (mixture > 0).all()


def test_no_noise_where_the_coin_is_not_below_eps() -> None:
    probs, noise = torch.tensor([[0.5]]), torch.tensor([[0.3]])
    assert [float(add_noise(probs, noise, torch.tensor(c), 0.2)) for c in (0.19, 0.2, 0.9)] == pytest.approx(
        [0.8, 0.5, 0.5]
    )


@pytest.mark.parametrize("eps", [0.0, 0.3, 1.0])
def test_mixture_is_a_distribution(eps: float) -> None:
    mixture, actions = Mixture(LOGITS[0], eps), every_action(4)
    likelihood = mixture.log_prob(actions).sum(1).exp()
    assert float(likelihood.sum()) == pytest.approx(1, abs=1e-12)
    p = (1 - eps) * LOGITS[0].sigmoid() + eps / 2
    wanted = torch.where(actions > 0, p, 1 - p).prod(1)
    torch.testing.assert_close(likelihood, wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(mixture.probs, p)


def test_mixture_never_saturates() -> None:
    logits = LOGITS.float().requires_grad_()
    for eps in (0.0, 0.05):
        for actions in (torch.ones(2, 4), torch.zeros(2, 4)):
            log_prob = Mixture(logits, eps).log_prob(actions)
            (grad,) = torch.autograd.grad(log_prob.sum(), logits)
            assert torch.isfinite(log_prob).all() and torch.isfinite(grad).all()
    assert float(Mixture(logits, 0.0).log_prob(torch.zeros(2, 4))[1, 0].detach()) == -200


def test_entropies() -> None:
    torch.testing.assert_close(bernoulli_entropy(LOGITS), Bernoulli(logits=LOGITS).entropy().sum(1))
    assert torch.isfinite(bernoulli_entropy(LOGITS.float())).all()
    log_prob = torch.tensor([[-0.5, -2.0]])
    assert float(pseudo_entropy(log_prob)) == pytest.approx(0.5 * 0.60653066 + 2 * 0.13533528)
    assert deterministic(LOGITS)[0].tolist() == [0, 0, 1, 1]


def test_the_share_of_exploration_follows_the_steps() -> None:
    falling = Explorer(ExplorationConfig(eps=0.5, eps_end=0.05, steps=15000)).schedule()
    assert [falling.value(i, 0) for i in (0, 1, 15000, 99999)] == pytest.approx([0.5, 0.5 - 0.45 / 15000, 0.05, 0.05])
    assert Explorer(ExplorationConfig()).schedule().value(7, 0) == 0.2


@pytest.mark.parametrize("kind", ["noise", "mixture"])
def test_draws_belong_to_a_pictures_place(kind: str) -> None:
    method = tiny(exploration=ExplorationConfig(kind=kind, eps=1.0))
    batch = batch_of(method)
    logits = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    moved = batch_of(method)
    moved.position = batch.position[order]
    found = []
    for one, rows in ((batch, logits), (moved, logits[order])):
        ctx = SteadyContext(method, None, one)
        policy = method.explorer.distribution(rows, 1.0, "explore", one, ctx)
        found.append((policy.probs, method.explorer.draw(policy, "explore", ctx, 3)))
    assert torch.equal(found[0][0][order], found[1][0])
    assert torch.equal(found[0][1][:, order], found[1][1])
    assert found[0][1].shape == (3, 6, 12) and len({tuple(k.flatten().tolist()) for k in found[0][1]}) == 3


def test_the_coin_is_one_for_the_micro_batch() -> None:
    method = tiny()
    batch, logits = batch_of(method), torch.zeros(6, 12)
    perturbed = []
    for number in range(300):
        ctx = SteadyContext(method, None, batch, batches=number)
        moved = (method.explorer.distribution(logits, 0.2, "explore", batch, ctx).probs != 0.5).any(1)
        assert moved.all() or not moved.any()
        perturbed.append(float(moved[0]))
    assert 0.13 < sum(perturbed) / 300 < 0.27


@pytest.mark.parametrize(
    "options", [{"kind": "greedy"}, {"eps": 1.2}, {"eps_train": -0.1}, {"floor": 0.5}, {"steps": 0}, {"sigma": -1.0}]
)
def test_exploration_that_cannot_be(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="exploration"):
        ExplorationConfig(**options)  # type: ignore[arg-type]
