"""Nothing waits that need not: the product runs while the targets travel, and sampling asks no number from the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from facex import ops
from facex.errors import ConfigError
from facex.heads import CosFace, MarginHead, Rule
from facex.heads.sampler import ClassSampler
from tests.heads import cases


def test_sampling_by_labels_draws_as_by_positives() -> None:
    """The road without a number from the device, and the published one: the same classes from the same draws."""
    classes = torch.tensor([[3, -1], [7, 3], [-1, -1], [30, 0]])
    for rate in (0.5, 0.25, 0.02):  # more places than labels, exactly as many, fewer
        one, two = (ClassSampler(32, rate, seed=4) for _ in range(2))
        for _ in range(2):
            assert torch.equal(one.sample_labels(classes), two.sample(torch.tensor([0, 3, 7, 30])))
            assert torch.equal(one.get_state(), two.get_state())


class Peeking(CosFace):
    """Says that its rule for negatives does not depend on the targets, and reads them all the same."""

    negatives_follow_targets = False

    def negatives(self, cos: Tensor, valid: Tensor) -> Rule:
        return Rule("hard", threshold=cos[:, 0], hard_t=0.1 + cos.mean())


def test_a_margin_that_peeks_is_noticed() -> None:
    head = MarginHead(Peeking(), 8, 13, dtype=torch.float64, group="alone")
    x, labels, _ = cases.batch()
    with pytest.raises(ConfigError, match=r"Peeking\.negatives reads the target cosines"):
        head(x, labels)
    head.margin.negatives_follow_targets = True
    assert bool(torch.isfinite(head(x, labels).loss))


@pytest.mark.parametrize(
    ("name", "order"), [("arcface_st", ["sent", "product", "arrived"]), ("curricular", ["sent", "arrived", "product"])]
)
def test_the_product_runs_while_the_targets_travel(
    name: str, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    head, seen = cases.make_head(name).eval(), []
    later, product = head.ranks.sum_later, ops.cosine_logsumexp_forward

    def sum_later(values: Tensor) -> Callable[[], Tensor]:
        seen.append("sent")
        wait = later(values)
        return lambda: seen.append("arrived") or wait()

    def forward(*arguments: Any, **options: Any) -> Tensor:
        seen.append("product")
        return product(*arguments, **options)

    monkeypatch.setattr(head.ranks, "sum_later", sum_later)
    monkeypatch.setattr(ops, "cosine_logsumexp_forward", forward)
    x, labels, _ = cases.batch()
    head(x, labels)
    assert seen == order
