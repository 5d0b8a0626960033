"""Rewards and baselines, against the definitions written out."""

from __future__ import annotations

import pytest
import torch
from facex_sarface.baselines import leave_one_out, moments, normalized, surrogate
from facex_sarface.options import BaselineConfig, RewardConfig
from facex_sarface.rewards import Scores, flip_reward, margin_reward, recognition_reward, sparsity
from torch import Tensor

from facex.errors import ConfigError
from plugins.sarface.tests.tiny_sarface import CLASSES, DIM, head_of, tiny

ROWS = 64


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def alone(values: Tensor) -> Tensor:
    """A reduction over one rank."""
    return values


@pytest.fixture(scope="module")
def scored() -> tuple[Scores, Scores, Tensor, Tensor, Tensor]:
    """Scores of two sets of embeddings, their labels, and both matrices of cosines."""
    head = head_of(tiny())
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    embeddings = [torch.randn(ROWS, DIM, generator=generator) for _ in range(2)]
    cosines = [
        torch.nn.functional.normalize(e.double()) @ torch.nn.functional.normalize(head.weight).T for e in embeddings
    ]
    full, masked = (Scores.of(head, e, labels) for e in embeddings)
    return full, masked, labels, *cosines


def test_flip_says_whether_the_identification_changed(scored: tuple[Scores, Scores, Tensor, Tensor, Tensor]) -> None:
    full, masked, labels, before, after = scored
    right = [cos.argmax(1) == labels for cos in (before, after)]
    wanted = torch.where(~right[0] & right[1], 1.0, torch.where(right[0] & ~right[1], -1.0, 0.0))
    assert torch.equal(flip_reward(full, masked, labels), wanted)
    assert {-1.0, 0.0, 1.0} == set(wanted.tolist())


def test_of_equal_cosines_the_first_class_counts() -> None:
    tied = Scores(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]), torch.tensor([2, 2]))
    assert tied.correct(torch.tensor([1, 3])).tolist() == [True, False]


def test_margin_is_dense_and_has_flips_sign(scored: tuple[Scores, Scores, Tensor, Tensor, Tensor]) -> None:
    full, masked, labels, before, after = scored

    def gap(cos: Tensor) -> Tensor:
        own = cos.gather(1, labels[:, None])[:, 0]
        return own - cos.scatter(1, labels[:, None], -2.0).amax(1)

    wanted = ((gap(after) - gap(before)) / 0.3).clamp(-1, 1).float()
    found = margin_reward(full, masked, 0.3)
    torch.testing.assert_close(found, wanted)
    flips = flip_reward(full, masked, labels)
    assert torch.equal(found.sign()[flips != 0], flips[flips != 0])
    assert (found != 0).all()


def test_sparsity() -> None:
    area = torch.tensor([0.0, 1.0, 6000.0])
    published = sparsity(area, 12544, RewardConfig())
    assert published.tolist() == pytest.approx([5000, 0.05, 0.05 / 6000], rel=1e-4)
    fraction = sparsity(area, 12544, RewardConfig(sparsity="fraction"))
    assert fraction.tolist() == pytest.approx([0.05, 0.05 * (1 - 1 / 12544), 0.05 * (1 - 6000 / 12544)])
    assert sparsity(area, 12544, RewardConfig(sparsity="none")).tolist() == [0, 0, 0]


def test_a_mask_that_leaves_too_little_loses(scored: tuple[Scores, Scores, Tensor, Tensor, Tensor]) -> None:
    full, masked, labels, *_ = scored
    area = torch.full((ROWS,), 1000.0)
    area[:3] = 99.0
    r = recognition_reward(full, masked, labels, area, 1000, RewardConfig("margin", min_area=0.1))
    assert r[:3].tolist() == [-1, -1, -1]
    assert torch.equal(r[3:], margin_reward(full, masked, 0.1)[3:])


def test_leave_one_out_over_the_batch_of_all_ranks() -> None:
    rewards, valid = torch.randn(1, 6), torch.tensor([True, True, False, True, True, True])
    found = leave_one_out(rewards, valid, alone)[0]
    for i in range(6):
        others = [float(rewards[0, j]) for j in range(6) if j != i and valid[j]]
        assert float(found[i]) == pytest.approx(sum(others) / 4 if valid[i] else 0, abs=1e-6)
    halves = [(rewards[:, rank::2], valid[rank::2]) for rank in range(2)]

    def reduce(values: Tensor) -> Tensor:  # what all-reduce makes of the two ranks' sums
        return torch.stack(
            [sum(torch.where(v, r, 0).sum() for r, v in halves), torch.tensor(float(valid.sum()))]  # type: ignore[list-item]
        )

    for rank, (mine, counted) in enumerate(halves):
        torch.testing.assert_close(leave_one_out(mine, counted, reduce)[0], found[rank::2])


def test_leave_one_out_over_an_images_samples() -> None:
    rewards = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 4.0]])
    found = leave_one_out(rewards, torch.ones(2, dtype=torch.bool), alone)
    assert found.tolist() == [[-0.5, 3.0], [0.0, 2.0], [0.5, 1.0]]
    assert leave_one_out(torch.ones(1, 1), torch.ones(1, dtype=torch.bool), alone).tolist() == [[0.0]]


def test_normalisation_has_a_floor() -> None:
    values, valid = torch.randn(2, 50), torch.ones(50, dtype=torch.bool)
    mean, variance = moments(values, valid, alone)
    assert (float(mean), float(variance)) == pytest.approx(
        (float(values.mean()), float(values.var(correction=0))), rel=1e-4
    )
    assert float(normalized(values, valid, alone).std(correction=0)) == pytest.approx(1, rel=1e-4)
    equal = normalized(torch.full((1, 4), 0.5), torch.ones(4, dtype=torch.bool), alone)
    assert equal[0].tolist() == pytest.approx([500.0] * 4)


def test_advantages_are_constants() -> None:
    log_prob, advantages = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    loss = surrogate(log_prob, advantages).sum()
    (grad,) = torch.autograd.grad(loss, log_prob)
    assert torch.equal(grad, (-advantages / 2)[..., None].expand_as(grad))
    assert torch.autograd.grad(surrogate(log_prob, advantages).sum(), advantages, allow_unused=True) == (None,)


def test_options_that_cannot_be() -> None:
    for wrong in ({"kind": "dense"}, {"sparsity": "area"}, {"tau": 0.0}, {"min_area": 1.0}):
        with pytest.raises(ConfigError, match="reward"):
            RewardConfig(**wrong)  # type: ignore[arg-type]
    for wrong in ({"kind": "mean"}, {"momentum": 1.0}):
        with pytest.raises(ConfigError, match="baseline"):
            BaselineConfig(**wrong)  # type: ignore[arg-type]
