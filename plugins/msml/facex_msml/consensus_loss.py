"""The segmentation loss: structure by consensus over the two regions of a picture's occlusion mask (CVPR 2020).

P are the two class probabilities, s a label (0 occluded, 1 clean), B the pixels with it in one picture, a their number,
q_c the mean of P_c over B:

    L_avg(s) = mean over pictures of -log q_s                       the region votes for its label
    L_dev(s) = mean over pixels and classes of q_c (log q_c - log P_c)   and no pixel of it disagrees
    loss     = mean over the labels that occur of alpha * L_avg + beta * L_dev

Loss and gradient are computed together, in closed form and in float32: with two classes the gradient of one logit is the
negative of the other's, so that a single map is kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from facex.errors import ConfigError
from facex.models.common import no_autocast

Reduce = Callable[[Tensor], Tensor]


class ConsensusLoss(nn.Module):
    """Logits [N, 2, H, W] (channel 0 occluded, 1 clean) and a mask [N, H, W] -> scalar, float32 whatever the autocast says.

    Args:
        alpha: weight of the regions' votes.
        beta: weight of the deviations within a region.
        clamp_min: mean probabilities are raised to this before their logarithm; 0: not (published), so that the loss is
            infinite where a whole region gets a probability that underflows to 0.
        statistics: the batch whose pictures, pixels and labels are counted: this rank's (local, published) or that of
            all ranks (global).
    """

    def __init__(
        self,
        alpha: float = 10.0,
        beta: float = 5.0,
        clamp_min: float = 0.0,
        statistics: Literal["local", "global"] = "local",
    ) -> None:
        super().__init__()
        if statistics not in ("local", "global"):
            raise ConfigError(f"statistics must be local or global, not {statistics!r}")
        if not 0 <= clamp_min < 1:
            raise ConfigError(f"clamp_min must be in [0, 1), not {clamp_min}")
        self.alpha, self.beta, self.clamp_min, self.statistics = float(alpha), float(beta), float(clamp_min), statistics

    def forward(self, logits: Tensor, clean: Tensor, all_reduce: Reduce | None = None) -> Tensor:
        """`clean`: bool or integer, 1 where the face is visible, 0 where it is occluded. `all_reduce` sums a tensor over
        ranks; it is used for `statistics` global only, and then the mean of what the ranks return is the global batch's.

        Raises:
            ConfigError: shapes that do not belong together; global statistics without `all_reduce`.
        """
        if logits.ndim != 4 or logits.shape[1] != 2 or clean.shape != (logits.shape[0], *logits.shape[2:]):
            raise ConfigError(
                f"the segmentation loss needs logits [N, 2, H, W] and a mask [N, H, W], "
                f"got {tuple(logits.shape)} and {tuple(clean.shape)}"
            )
        if self.statistics == "local":
            all_reduce = None
        elif all_reduce is None:
            raise ConfigError("statistics global needs an all_reduce (Context.all_reduce)")
        with no_autocast(logits):
            x = logits if logits.dtype == torch.float64 else logits.float()
            loss: Tensor = _Consensus.apply(x, clean != 0, self.alpha, self.beta, self.clamp_min, all_reduce)
            return loss

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, beta={self.beta:g}, statistics={self.statistics}"


class _Consensus(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, clean: Tensor, alpha: float, beta: float, clamp_min: float, reduce: Reduce | None
    ) -> Tensor:
        margin = (logits[:, 1] - logits[:, 0]).flatten(1)
        regions = torch.stack([~clean, clean], 1).flatten(2)
        loss, slope = _loss_and_slope(margin, regions, alpha, beta, clamp_min, reduce)
        ctx.save_for_backward(slope.view(clean.shape))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        slope = slope * grad
        return torch.stack([-slope, slope], 1), None, None, None, None, None


def _loss_and_slope(
    margin: Tensor, regions: Tensor, alpha: float, beta: float, clamp_min: float, reduce: Reduce | None
) -> tuple[Tensor, Tensor]:
    """The loss, and its derivative by the clean logit [N, P]. `margin` [N, P] clean minus occluded logit, `regions` bool
    [N, 2, P]. Axes below: picture n, label s, class c."""
    probability = torch.stack([torch.sigmoid(-margin), torch.sigmoid(margin)], 1)
    log = nn.functional.logsigmoid(torch.stack([-margin, margin], 1))
    area = regions.sum(2, dtype=margin.dtype)
    some = area > 0
    safe = area.clamp(min=1)[:, :, None]
    mean = _region_sums(probability, regions) / safe
    mean_log = _region_sums(log, regions) / safe
    pictures, pixels, labels, ranks = _batch_statistics(area, reduce)
    weight = torch.where(some, ranks / labels, 0.0)

    kept = mean.clamp(min=clamp_min) if clamp_min else mean
    # a region without pixels has weight 0; 1 keeps its logarithm finite
    log_mean = torch.where(some[:, :, None], kept, 1.0).log()
    vote = -log_mean.diagonal(dim1=1, dim2=2)
    deviation = (area[:, :, None] * torch.where(mean > 0, mean * (log_mean - mean_log), 0.0)).sum(2)
    per_pixel = beta / (2 * pixels).clamp(min=1)
    loss = (weight * (alpha / pictures * vote + per_pixel * deviation)).sum()

    inside = (mean >= clamp_min).to(mean)
    own = torch.eye(2, dtype=mean.dtype, device=mean.device)
    pull = torch.where(some[:, :, None], -alpha / pictures * own * inside / (safe * kept), 0.0)
    factor = weight[:, :, None] * (pull + per_pixel[:, None] * (log_mean + inside - mean_log))
    constant = weight[:, :, None] * per_pixel[:, None] * -mean
    table = torch.stack([factor[..., 1] - factor[..., 0], constant[..., 1], constant[..., 0]], 2)
    product, first, second = (_by_region(table[..., i], regions) for i in range(3))
    occluded, clean = probability.unbind(1)
    return loss, occluded * clean * product + occluded * first - clean * second


def _region_sums(values: Tensor, regions: Tensor) -> Tensor:
    """[N, 2 (c), P] and [N, 2 (s), P] -> [N, s, c]; sums, not a matrix product, which may round its operands."""
    return torch.stack([(values * regions[:, s : s + 1]).sum(2) for s in range(2)], 1)


def _by_region(table: Tensor, regions: Tensor) -> Tensor:
    """A number per picture and label [N, 2] -> per pixel [N, P]."""
    return torch.where(regions[:, 1], table[:, 1:2], table[:, :1])


def _batch_statistics(area: Tensor, reduce: Reduce | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures, pixels of each label [2], labels that occur, ranks."""
    counts = torch.cat([area.new_tensor([len(area), 1.0]), area.sum(0)]).double()
    if reduce is not None:
        counts = reduce(counts)
    counts = counts.to(area.dtype)
    return counts[0], counts[2:], (counts[2:] > 0).sum().clamp(min=1), counts[1]
