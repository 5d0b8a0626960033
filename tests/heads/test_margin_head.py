"""MarginHead on one rank: gradients, windows, labels, dtypes, errors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facex.errors import ConfigError, DataError
from facex.heads import ArcFace, CosFace, MagFace, Margin, MarginHead, Rule, Softmax
from facex.heads.margin_head import LOSS_CAP
from facex.heads.reference import ReferenceClassifier
from facex.heads.shards import Shard
from facex.ops import generic
from tests.heads import cases


# The others are straight-through, or let no gradient through the norm.
@pytest.mark.parametrize("name", [n for n in cases.MARGINS if n not in ("arcface_st", "adaface", "adaface_cvlface")])
def test_gradcheck(name: str) -> None:
    head = cases.make_head(name).eval()
    x, labels, _ = cases.batch(6)
    assert torch.autograd.gradcheck(lambda e: head(e, labels).loss, (x.requires_grad_(),))


@pytest.mark.parametrize("rate", [1.0, 0.6])
def test_window_equals_one_big_batch(rate: float) -> None:
    small, big = (cases.make_head("cosface", sample_rate=rate) for _ in range(2))
    x, labels, _ = cases.batch(unlabelled=False)
    for head in (small, big):  # the same classes whatever the positives of a micro-batch are
        head.sampler.sample_labels = lambda classes: labels.unique()  # type: ignore[method-assign]
    for part in (slice(0, 5), slice(5, 10)):
        (small(x[part], labels[part]).loss * 0.5).backward()
    big(x, labels).loss.backward()
    torch.testing.assert_close(small.grads().full(), big.grads().full())
    assert float(small.grad_sq_norm()) == pytest.approx(float(big.grads().full().square().sum()))


def test_merging_rows_of_different_samples() -> None:
    head = cases.make_head("cosface", sample_rate=0.5)
    total = torch.zeros(cases.CLASSES, cases.DIM, dtype=torch.float64)
    for seed in range(3):
        x, labels, _ = cases.batch(4, seed=seed)
        one = cases.make_head("cosface", sample_rate=0.5)
        one.sampler.set_state(head.sampler.get_state())
        for target in (one, head):
            target(x, labels).loss.backward()
        total += one.grads().full()
    torch.testing.assert_close(head.grads().full(), total)
    head.skip()
    assert float(head.grad_sq_norm()) == 0


def test_sparse_update_leaves_other_rows_alone() -> None:
    for name in ("sgd", "adamw"):
        heads = [cases.make_head("cosface", sample_rate=0.5, sparse_update=sparse) for sparse in (True, False)]
        x, labels, before = cases.batch()
        for head in heads:
            head.build_optimizer(name, lr=0.1, weight_decay=0.1)
            head(x, labels).loss.backward()
            head.step()
        taken = heads[0].sampler.last_index
        assert taken is not None
        others = torch.ones(cases.CLASSES, dtype=torch.bool).index_fill(0, taken, False)
        assert torch.equal(heads[0].weight[others], before[others])
        assert bool((heads[1].weight[others] != before[others]).any(1).all())
        torch.testing.assert_close(heads[0].weight[taken], heads[1].weight[taken])


def test_jhmfr_adamw_corrects_every_step_as_the_first() -> None:
    head = cases.make_head("cosface", sample_rate=0.5, sparse_update=True)
    head.build_optimizer("adamw", lr=0.01, weight_decay=0.1, bias_correction="first")
    weight, first, second = cases.batch()[2], *(torch.zeros(2, cases.CLASSES, cases.DIM, dtype=torch.float64))
    for seed in range(3):
        x, labels, _ = cases.batch(seed=seed)
        head(x, labels).loss.backward()
        index, rows = head.grads().index, head.grads().rows
        assert index is not None
        assert rows is not None
        first[index] = 0.9 * first[index] + 0.1 * rows
        second[index] = 0.999 * second[index] + 0.001 * rows.square()
        decayed = weight[index] * (1 - 0.01 * 0.1)
        weight[index] = decayed - 0.01 * (first[index] / 0.1) / ((second[index] / 0.001).sqrt() + 1e-8)
        head.step()
    torch.testing.assert_close(head.weight.detach(), weight)


def test_unlabelled_rows() -> None:
    x, labels, weight = cases.batch()
    ignoring, official = cases.make_head("cosface"), cases.make_head("cosface", ignore_unlabelled=False)
    kept = labels >= 0
    ignored, alone = ignoring(x, labels), cases.make_head("cosface")(x[kept], labels[kept])
    torch.testing.assert_close(ignored.loss, alone.loss)
    assert float(ignored.per_row[3]) == 0
    x.requires_grad_()
    out = official(x, labels)
    assert float(out.per_row[3]) == pytest.approx(69.0776, abs=1e-4)
    out.loss.backward()
    lse = (30 * F.normalize(x[3:4].detach().requires_grad_()) @ F.normalize(weight).T).logsumexp(1)
    row = x[3:4].detach().requires_grad_()
    (30 * F.normalize(row) @ F.normalize(weight).T).logsumexp(1).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[3:4], row.grad / len(x))
    assert bool(torch.isfinite(lse).all())


def test_loss_cap_cuts_the_value_and_not_the_gradient() -> None:
    x, labels, _ = cases.batch()
    capped, free = (cases.make_head("arcface_st", loss_cap=cap) for cap in (LOSS_CAP / 10, None))
    outs = []
    for head in (capped, free):
        e = x.clone().requires_grad_()
        out = head(e, labels)
        out.loss.backward()
        outs.append((out, e.grad))
    assert float(outs[0][0].per_row.max()) == pytest.approx(LOSS_CAP / 10)
    torch.testing.assert_close(outs[0][0].per_row, outs[1][0].per_row.clamp(max=LOSS_CAP / 10))
    torch.testing.assert_close(outs[0][1], outs[1][1])


def test_zero_embedding() -> None:
    x, labels, _ = cases.batch(5)
    x[1] = 0
    e = x.clone().requires_grad_()
    head = cases.make_head("magface")
    head(e, labels).loss.backward()
    assert e.grad is not None
    assert bool(torch.isfinite(e.grad).all())
    skipping = cases.make_head("magface", skip_zero_norm=True)
    e = x.clone().requires_grad_()
    out = skipping(e, labels)
    out.loss.backward()
    assert float(out.per_row[1]) == 0
    assert e.grad is not None
    assert bool((e.grad[1] == 0).all())


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_plain_softmax_with_bias(rate: float) -> None:
    x, labels, weight = cases.batch(unlabelled=False)
    options = {"normalize": False, "bias": True, "dtype": torch.float64, "sample_rate": rate}
    head = MarginHead(Softmax(), 8, 13, group="alone", **options)
    head.load_weight(weight)
    assert head.bias is not None
    head.bias.data.copy_(torch.linspace(-1, 1, 13))
    x, w, b = x.requires_grad_(), weight.requires_grad_(), head.bias.detach().clone().requires_grad_()
    out = head(x, labels)
    out.loss.backward()
    taken = head.sampler.last_index if rate < 1 else torch.arange(13)
    assert taken is not None
    e = x.detach().requires_grad_()
    loss = F.cross_entropy(e @ w[taken].T + b[taken], torch.searchsorted(taken, labels))
    loss.backward()
    torch.testing.assert_close(out.loss, loss)
    torch.testing.assert_close(x.grad, e.grad)
    torch.testing.assert_close(head.grads().full(), w.grad)
    torch.testing.assert_close(head.grads().bias, b.grad)
    head.build_optimizer("sgd", lr=0.1)
    head.step()
    optimizer = torch.optim.SGD([w, b], lr=0.1, momentum=0.9, weight_decay=5e-4)
    optimizer.step()
    torch.testing.assert_close(head.weight.detach(), w.detach())
    torch.testing.assert_close(head.bias.detach(), b.detach())


def test_autocast_and_half_inputs_do_not_reach_the_loss() -> None:
    head = MarginHead(MagFace(), 8, 13, group="alone")
    x, labels, _ = cases.batch()
    half = x.half()
    plain = head(half.float(), labels).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(half, labels).loss
    assert inside.dtype == torch.float32
    assert torch.equal(plain, inside)


def test_bf16_operands_are_close() -> None:
    torch.manual_seed(0)
    heads = [MarginHead(CosFace(), 64, 500, group="alone", precision=p) for p in ("fp32", "bf16")]
    x, labels = torch.randn(32, 64) * 5, torch.randint(0, 500, (32,))
    losses, grads = [], []
    for head in heads:
        e = x.clone().requires_grad_()
        out = head(e, labels)
        out.loss.backward()
        losses.append(float(out.loss.detach()))
        grads.append(e.grad)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert float((grads[1] - grads[0]).norm() / grads[0].norm()) < 1e-2


class Uni(Margin):
    """A user's margin with a rule of its own for negatives."""

    def target(self, cos: Tensor, norm: Tensor, weight: Tensor | None = None) -> Tensor:
        return self.scale * (cos - 0.1)

    def negatives(self, cos: Tensor, valid: Tensor) -> Rule:
        return Rule(lambda c: c + 0.2 * c * c)


def test_a_users_rule_for_negatives() -> None:
    x, labels, weight = cases.batch()
    head = MarginHead(Uni(16), 8, 13, dtype=torch.float64, group="alone")
    head.load_weight(weight)
    plain = ReferenceClassifier(Uni(16), weight)
    x.requires_grad_()
    loss = plain(x, labels).loss
    (expected,) = torch.autograd.grad(loss, x)
    out = head(x, labels)
    (grad,) = torch.autograd.grad(out.loss, x)
    torch.testing.assert_close(out.loss, loss)
    torch.testing.assert_close(grad, expected)
    torch.testing.assert_close(head.grads().full(), torch.autograd.grad(plain(x, labels).loss, plain.weight)[0])


def test_weights_train_without_gradient_to_the_embeddings() -> None:
    head = cases.make_head("cosface")
    x, labels, _ = cases.batch()
    head(x, labels).loss.backward()  # a frozen backbone
    assert float(head.grad_sq_norm()) > 0
    head.zero_grad()
    with torch.no_grad():
        head(x, labels)
    assert float(head.grad_sq_norm()) == 0


def test_non_finite_gradients_are_noticed() -> None:
    for rate in (1.0, 0.5):
        head = cases.make_head("cosface", sample_rate=rate)
        x, labels, _ = cases.batch()
        head(x, labels).loss.backward()
        assert bool(head.grads_finite())
        (head(x, labels).loss * math.inf).backward()
        assert not bool(head.grads_finite())
        head.skip()
        assert bool(head.grads_finite())
        head(x, labels).loss.backward()
        assert bool(head.grads_finite())


def test_the_same_centres_on_any_number_of_ranks() -> None:
    from facex.heads.shards import initialise

    whole = torch.empty(9000, 4)
    initialise(whole, Shard.of(9000, 1, 0), "normal", 7)
    parts = []
    for rank in range(4):
        shard = Shard.of(9000, 4, rank)
        part = torch.empty(shard.size, 4)
        initialise(part, shard, "normal", 7)
        parts.append(part)
    assert torch.equal(torch.cat(parts), whole)
    assert float(whole.std()) == pytest.approx(0.01, rel=0.02)
    unit = MarginHead(ArcFace(), 4, 10, init="unit", group="alone").weight
    torch.testing.assert_close(unit.detach().norm(dim=1), torch.ones(10))
    sizes = [Shard.of(37, 2, rank) for rank in range(2)]
    assert [(s.start, s.size) for s in sizes] == [(0, 19), (19, 18)]


def test_errors() -> None:
    head = cases.make_head("cosface")
    x, labels, weight = cases.batch()
    with pytest.raises(DataError, match="label 13 does not exist: the head has 13 classes"):
        head(x, labels.clamp(min=13))
    with pytest.raises(DataError, match="label 13 does not exist"):
        head.score(x, labels.clamp(min=13))
    with pytest.raises(DataError, match="label_weights"):
        head(x, labels[:, None].expand(-1, 2))
    with pytest.raises(ConfigError, match="8"):
        head(x[:, :7], labels)
    with pytest.raises(ConfigError, match="build_optimizer"):
        head.step()
    with pytest.raises(ConfigError, match="shape"):
        head.load_weight(weight[1:])
    with pytest.raises(ConfigError, match="momentm"):
        head.build_optimizer(momentm=0.9)
    with pytest.raises(ConfigError, match="sgd, adamw"):
        head.build_optimizer("lamb")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="normalize=False"):
        MarginHead(CosFace(), 8, 13, bias=True)
    with pytest.raises(ConfigError, match="sample_rate"):
        MarginHead(CosFace(), 8, 13, sample_rate=1.5)


@pytest.mark.parametrize("name", ["adaface", "adaface_cvlface", "arcface_st", "curricular", "elastic", "uniface"])
def test_built_in_margins_run_on_the_compiled_op(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> Tensor:
        raise AssertionError("the generic path ran")

    monkeypatch.setattr(generic, "forward", refuse)
    monkeypatch.setattr(generic, "backward", refuse)
    x, labels, _ = cases.batch()
    cases.make_head(name)(x.requires_grad_(), labels).loss.backward()
    assert x.grad is not None
