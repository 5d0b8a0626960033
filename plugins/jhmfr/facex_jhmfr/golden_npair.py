"""Golden cases of the N-pair loss."""

from __future__ import annotations

from typing import Any

import torch

from facex_jhmfr.npair import NPairLoss


def run_npair(case: Any) -> dict[str, Any]:
    """One loss, called in each of its forms."""
    p = case.params
    loss = NPairLoss(p["args"]["s"], p["args"]["m"])
    labels = torch.from_numpy(case.inputs[p["target"]]).long().reshape(-1)
    found: dict[str, Any] = {}
    for call in p["calls"]:
        anchor, positive = (torch.from_numpy(case.inputs[p[k]]).requires_grad_() for k in ("anchor", "positive"))
        value = loss(anchor, positive, labels, margin=call["arclogit"], mean_anchors=call["mean_logit"])
        value.backward()
        assert anchor.grad is not None and positive.grad is not None
        found |= {call["value"]: value.detach().numpy(), call["grad_anchor"]: anchor.grad.numpy()}
        found[call["grad_positive"]] = positive.grad.numpy()
    return found


KINDS = {"jhmfr/loss_npair": run_npair}
