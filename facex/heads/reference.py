"""The same classifier written plainly: all logits [B, C] in memory, one rank, ordinary autograd.

For golden values, tests and reading; MarginHead computes the same loss without the logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.heads.base import Margin, Rule
from facex.heads.labels import normalise_labels
from facex.ops import rules


@dataclass
class ReferenceOutput:
    """cosine [B, C] (dot products for normalize=False), logits [B, C] with margin and scale, norm [B], cross entropy
    per row [B] (0 for unlabelled rows), and the loss with its parts."""

    cosine: Tensor
    logits: Tensor
    norm: Tensor
    per_row: Tensor
    loss_id: Tensor
    loss_reg: Tensor
    loss: Tensor


class ReferenceClassifier(nn.Module):
    """`margin` over class centres `weight` [C, D], a parameter with an ordinary gradient; rows without label are
    ignored."""

    def __init__(self, margin: Margin, weight: Tensor, bias: Tensor | None = None, normalize: bool = True) -> None:
        super().__init__()
        if type(margin).row_loss is not Margin.row_loss:
            raise ConfigError(f"{type(margin).__name__} has a loss of its own; the plain classifier is a softmax")
        self.margin, self.normalize = margin, normalize
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    def cosines(self, embeddings: Tensor) -> Tensor:
        """[B, C] cosines (dot products for normalize=False) with every class."""
        x = embeddings.to(self.weight.dtype)
        if not self.normalize:
            return x @ self.weight.T
        return F.normalize(x, eps=1e-12) @ F.normalize(self.weight, eps=1e-12).T

    def forward(self, embeddings: Tensor, labels: Tensor, label_weights: Tensor | None = None) -> ReferenceOutput:
        with torch.autocast(embeddings.device.type, enabled=False):
            return self._loss(embeddings.to(self.weight.dtype), labels, label_weights)

    def _loss(self, x: Tensor, labels: Tensor, label_weights: Tensor | None) -> ReferenceOutput:
        labels, weights = normalise_labels(labels, label_weights, self.weight.shape[0])
        valid, norm, cosine = labels >= 0, torch.linalg.vector_norm(x, dim=1), self.cosines(x)
        cos = torch.where(valid, cosine.gather(1, labels.clamp(min=0)), 0.0)
        rule = self._rule(cos.detach(), norm.detach(), valid)
        target = self.margin.target(cos, norm[:, None].expand_as(cos), weights.to(cos.dtype))
        logits = self.margin.scale * apply_rule(rule, cosine)
        for k in range(labels.shape[1]):
            replaced = logits.scatter(1, labels[:, k : k + 1].clamp(min=0), target[:, k : k + 1])
            logits = torch.where(valid[:, k : k + 1], replaced, logits)
        if self.bias is not None:
            logits = logits + self.bias
        chosen = torch.where(valid, logits.gather(1, labels.clamp(min=0)), 0.0) * weights.to(logits.dtype)
        per_row = torch.where(valid.any(1), logits.logsumexp(1) - chosen.sum(1), 0.0)
        return self._reduce(cosine, logits, norm, per_row, valid.any(1))

    @torch.no_grad()
    def _rule(self, cos: Tensor, norm: Tensor, valid: Tensor) -> Rule:
        if self.training:
            rows = torch.arange(len(norm), device=norm.device)
            self.margin.observe({"norm": norm, "cos": cos, "valid": valid, "row": rows}, lambda values: values)
        return self.margin.negatives(cos, valid)

    def _reduce(
        self, cosine: Tensor, logits: Tensor, norm: Tensor, per_row: Tensor, counted: Tensor
    ) -> ReferenceOutput:
        count = counted.sum().clamp(min=1)
        loss_id, extra = per_row.sum() / count, self.margin.regulariser(norm)
        loss_reg = torch.zeros_like(loss_id) if extra is None else torch.where(counted, extra, 0.0).sum() / count
        return ReferenceOutput(cosine, logits, norm, per_row, loss_id, loss_reg, loss_id + loss_reg)


def apply_rule(rule: Rule, cos: Tensor) -> Tensor:
    """The rule for negatives on a whole [B, C] matrix."""
    limit = rule.limit()
    if limit is not None:
        limit = torch.as_tensor(limit, dtype=cos.dtype, device=cos.device).expand(len(cos))
    return rules.apply_rule(rule.name, cos, limit, torch.as_tensor(rule.hard_t, device=cos.device))
