"""Label smoothing against a brute-force cross entropy with dense soft labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facex.errors import ConfigError
from facex.heads import AdaFace, CosFace, Margin, MarginHead, Softmax
from tests.golden.distributed import run_ranks
from tests.heads import cases

Logits = Callable[[Tensor, Tensor], Tensor]  # products [B, C], soft labels [B, C] -> logits [B, C]
EPS = 0.1
CASES: dict[str, tuple[Margin, Logits]] = {
    # the label's own column has more than eps / C
    "cosface": (CosFace(16, 0.2), lambda cos, y: 16 * (cos - 0.2 * (y > 0.02).double())),
    "soft margin (LAFS)": (CosFace(16, 0.2, soft=True), lambda cos, y: 16 * (cos - 0.2 * y)),
    "softmax with bias": (Softmax(), lambda dot, y: dot),
}


def expected(name: str, labels: Tensor, shares: Tensor, classes: Tensor) -> dict[str, Any]:
    """Loss and gradients from whole matrices."""
    plain = name.startswith("softmax")
    x, _, weight = cases.batch()
    bias = torch.linspace(-1, 1, cases.CLASSES, dtype=torch.float64).requires_grad_()
    x, weight = x.requires_grad_(), weight.requires_grad_()
    soft = torch.zeros(len(x), cases.CLASSES, dtype=torch.float64)
    for k in range(labels.shape[1]):
        here = labels[:, k] >= 0
        soft[here] = soft[here].scatter_add(1, labels[here, k : k + 1], shares[here, k : k + 1])
    valid = soft.sum(1) > 0
    soft = soft[:, classes] / soft.sum(1, keepdim=True).clamp(min=1e-12)
    soft = soft * (1 - EPS) + EPS / len(classes)
    rows = weight[classes]
    product = x @ rows.T + bias[classes] if plain else F.normalize(x) @ F.normalize(rows).T
    per_row = -(soft * CASES[name][1](product, soft).log_softmax(1)).sum(1)
    loss = per_row[valid].mean()
    loss.backward()
    return {"loss": float(loss.detach()), "grad_x": x.grad, "grad_w": weight.grad, "grad_b": bias.grad}


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("name", list(CASES))
def test_equals_dense_soft_labels(name: str, world_size: int, rate: float, mixed: bool) -> None:
    ranks = run_ranks(world_size, "tests.heads.cases:smoothed", CASES[name][0], rate, mixed)
    classes = torch.cat([r["classes"] for r in ranks]) if rate < 1 else torch.arange(cases.CLASSES)
    _, labels, shares = cases.mixup_batch()
    if not mixed:
        labels = cases.batch()[1][:, None]
        shares = torch.ones_like(labels, dtype=torch.float64)
    wanted = expected(name, labels, shares, classes)
    assert all(r["loss"] == pytest.approx(wanted["loss"], rel=1e-9) for r in ranks)
    names = ["grad_x", "grad_w"] + (["grad_b"] if name.startswith("softmax") and not mixed else [])
    for part in names:
        torch.testing.assert_close(torch.cat([r[part] for r in ranks]), wanted[part])


def test_refusals() -> None:
    x, labels, _ = cases.batch()
    head = MarginHead(CosFace(interclass_filter=0.2), 8, 13, group="alone", label_smoothing=0.1, dtype=torch.float64)
    with pytest.raises(ConfigError, match="CosFace gives them the rule 'zero_above'"):
        head(x, labels)
    head = MarginHead(AdaFace(), 8, 13, group="alone", label_smoothing=0.1, dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"bound 0\.999"):
        head(x, labels)
    with pytest.raises(ConfigError, match=r"label_smoothing must be in \[0, 1\)"):
        MarginHead(CosFace(), 8, 13, group="alone", label_smoothing=1.0)
