"""ElasticFace's draws and UniFace's threshold."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from facex.errors import ConfigError
from facex.heads import ElasticFace, MarginHead, UniFace
from facex.heads.reference import ReferenceClassifier
from facex.ops.keyed import normal
from tests.golden.distributed import run_ranks
from tests.heads import cases


def test_draws_are_normal_and_keyed() -> None:
    step, rows = torch.tensor([3]), torch.arange(40_000)
    draws = normal(7, step, rows)
    assert abs(float(draws.mean())) < 0.02
    assert float(draws.std()) == pytest.approx(1, abs=0.02)
    assert float((draws.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.01)
    assert torch.equal(normal(7, step, rows[100:200]), draws[100:200])
    for other in (normal(8, step, rows), normal(7, step + 1, rows)):
        assert abs(float(torch.corrcoef(torch.stack([draws, other]))[0, 1])) < 0.02


@pytest.mark.parametrize("form", ["arc", "cos"])
def test_elastic_margins_are_the_rows_own(form: str) -> None:
    margin = ElasticFace(16, 0.3, 0.1, form=form)  # type: ignore[arg-type]
    cos, norm = torch.linspace(-0.9, 0.9, 6, dtype=torch.float64)[:, None], torch.ones(6, 1)
    for step in range(2):
        margin.observe({"cos": cos, "row": torch.arange(6)}, lambda values: values)
        own = 0.3 + 0.1 * normal(0, torch.tensor([step]), torch.arange(6))[:, None]
        expected = (cos.acos() + own).cos() if form == "arc" else cos - own
        torch.testing.assert_close(margin.target(cos, norm), 16 * expected)
    mean = (cos.acos() + 0.3).cos() if form == "arc" else cos - 0.3
    torch.testing.assert_close(margin.eval().target(cos, norm), 16 * mean)
    assert torch.autograd.gradcheck(margin.train().target, (cos.requires_grad_(), norm.double()))


def test_elastic_draws_alike_on_any_number_of_ranks() -> None:
    one, two = (run_ranks(w, "tests.heads.cases:elastic") for w in (1, 2))
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-12)
    torch.testing.assert_close(torch.cat([rank["grad_x"] for rank in two]), one[0]["grad_x"])
    fixed = MarginHead(ElasticFace(16, 0.3, 0.0), cases.DIM, cases.CLASSES, dtype=torch.float64, group="alone")
    x, labels, weight = cases.batch()
    fixed.load_weight(weight)
    assert float(fixed(x, labels).loss.detach()) != pytest.approx(one[0]["loss"], rel=1e-6)


def test_elastic_draws_go_on_after_a_checkpoint(tmp_path: Path) -> None:
    heads = [MarginHead(ElasticFace(16, 0.3, 0.1), cases.DIM, cases.CLASSES, group="alone") for _ in range(2)]
    x, labels, _ = cases.batch()
    first = heads[0](x, labels).loss
    heads[0].save(tmp_path)
    heads[1].load(tmp_path)
    second = [head(x, labels).loss for head in heads]
    assert torch.equal(second[0], second[1])
    assert not torch.equal(first, second[0])


def uniface_loss(b: torch.Tensor) -> torch.Tensor:
    """The mean loss at a threshold, from all logits."""
    x, labels, weight = cases.batch(unlabelled=False)
    cos = F.normalize(x) @ F.normalize(weight).T
    hot = labels[:, None] == torch.arange(cases.CLASSES)
    others = (16 * cos).masked_fill(hot, float("-inf")).logsumexp(1)
    return (F.softplus(b - 16 * (cos[hot] - 0.3)) + F.softplus(others - b)).mean()


def test_uniface_threshold_follows_the_loss_downhill() -> None:
    head = MarginHead(UniFace(16, 0.3, 0.2, rate=0.5), cases.DIM, cases.CLASSES, dtype=torch.float64, group="alone")
    x, labels, weight = cases.batch(unlabelled=False)
    head.load_weight(weight)
    b = torch.tensor([3.2], dtype=torch.float64, requires_grad=True)
    for _ in range(3):
        loss = uniface_loss(b)
        torch.testing.assert_close(head(x, labels).loss.detach(), loss.detach())
        (slope,) = torch.autograd.grad(loss, b)
        b = (b - 0.5 * slope).detach().requires_grad_()
        torch.testing.assert_close(head.margin.b, b.detach())
    head.eval()(x, labels)
    torch.testing.assert_close(head.margin.b, b.detach())


def test_uniface_threshold_is_one_on_all_ranks() -> None:
    grids = [run_ranks(w, "tests.heads.test_new_margins:threshold") for w in (1, 2)]
    same = functools.partial(torch.testing.assert_close, grids[0][0])
    for ranks in grids:
        for b in ranks:
            same(b)


def threshold(rank: int, world_size: int) -> torch.Tensor:
    head = cases.make_head("uniface", world_size)
    x, labels, _ = cases.batch(6)
    head(head.ranks.mine(x), head.ranks.mine(labels))
    return head.margin.b


def test_errors() -> None:
    with pytest.raises(ConfigError, match="arc, cos"):
        ElasticFace(form="sphere")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="negative"):
        ElasticFace(std=-1)
    with pytest.raises(ConfigError, match="UniFace has a loss of its own"):
        ReferenceClassifier(UniFace(), torch.ones(3, 4))
