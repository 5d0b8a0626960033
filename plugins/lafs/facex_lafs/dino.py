"""What self-distillation adds to a backbone: projection head, multi-crop wrapper, teacher average, temperature.

Source: DINO (Caron et al., ICCV 2021) as LAFS (Sun et al., CVPR 2024) uses it. Parameter names are the official ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facex.errors import ConfigError


class WeightNormLinear(nn.Module):
    """x [B, in] -> x w^T [B, out] with rows w = g v / |v|; no bias. A g that is not `free` stays 1."""

    def __init__(self, dim: int, out_dim: int, free: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1), requires_grad=free)
        self.weight_v = nn.Parameter(nn.Linear(dim, out_dim, bias=False).weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """[B, in] -> [B, out]."""
        return F.linear(x, self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True)))


class DinoHead(nn.Module):
    """MLP, unit length, weight-normalised classifier: features [B, in_dim] -> logits [B, out_dim].

    Args:
        in_dim: length of the features.
        out_dim: prototypes.
        hidden_dim: width of the MLP.
        bottleneck_dim: length of the unit vector before the classifier.
        nlayers: Linears of the MLP.
        use_bn: BatchNorm after each of its Linears but the last.
        norm_last_layer: rows of the classifier keep unit length.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        nlayers: int = 3,
        use_bn: bool = False,
        norm_last_layer: bool = True,
    ) -> None:
        super().__init__()
        sizes = [in_dim, *[hidden_dim] * (max(nlayers, 1) - 1), bottleneck_dim]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if use_bn else []), nn.GELU()]
        del layers[len(layers) - 1 - use_bn :]  # the last Linear stands alone
        self.mlp = nn.Sequential(*layers)
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.last_layer = WeightNormLinear(bottleneck_dim, out_dim, free=not norm_last_layer)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, not divided by a temperature."""
        return self.last_layer(F.normalize(self.mlp(x), eps=1e-12))


class MultiCrop(nn.Module):
    """A backbone over views of several sizes, and a head over all of its features at once.

    Views that follow each other and have equally many tokens go through the backbone as one batch. Rows of the result
    are view by view.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module | None) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(
        self, views: Sequence[Tensor], positions: Sequence[Tensor | None] | None = None, features: bool = False
    ) -> Tensor:
        """Views [B, n, 3 p^2] each -> logits [V * B, K], or `features` [V * B, D] without the head.

        `positions`: int64 [B, n] for a view whose tokens take other rows of the position embedding than the first.
        """
        where = positions if positions is not None else [None] * len(views)
        found = []
        for _, group in itertools.groupby(range(len(views)), lambda v: (views[v].shape[1:], where[v] is None)):
            members = list(group)
            rows = torch.cat([views[v] for v in members])
            places = [where[v] for v in members]
            found.append(self._embed(rows, None if places[0] is None else torch.cat(places)))  # type: ignore[arg-type]
        joined = torch.cat(found)
        return joined if features or self.head is None else self.head(joined)

    def _embed(self, tokens: Tensor, positions: Tensor | None) -> Tensor:
        extra: dict[str, Any] = {} if positions is None else {"positions": positions}
        return self.backbone(tokens, **extra)


class Teacher(MultiCrop):
    """The teacher of a student, with the running centre of its logits."""

    center: Tensor

    def __init__(self, backbone: nn.Module, head: nn.Module | None, out_dim: int) -> None:
        super().__init__(backbone, head)
        self.register_buffer("center", torch.zeros(1, out_dim))

    @torch.no_grad()
    def follow(self, student: MultiCrop, momentum: float) -> None:
        """Every parameter p becomes momentum * p + (1 - momentum) * the student's."""
        own: list[Tensor] = list(self.parameters())
        theirs: list[Tensor] = list(student.parameters())
        torch._foreach_lerp_(own, theirs, 1 - momentum)

    @torch.no_grad()
    def recentre(self, mean: Tensor, momentum: float) -> None:
        """The centre becomes momentum * centre + (1 - momentum) * the mean logits [K] of this step."""
        self.center.mul_(momentum).add_(mean.view_as(self.center).to(self.center.dtype), alpha=1 - momentum)


def teacher_temperature(epoch: int, warmup: float, final: float, warmup_epochs: int) -> float:
    """The temperature of an epoch (from 0): evenly from `warmup` to `final`, both reached, in `warmup_epochs`, then
    `final`."""
    if epoch >= warmup_epochs:
        return final
    return warmup + (final - warmup) * epoch / max(warmup_epochs - 1, 1)


def split_decay(named: Iterable[tuple[str, nn.Parameter]]) -> tuple[list[str], list[str]]:
    """Names of the trainable parameters with weight decay, and of those without: biases and everything of one
    dimension."""
    decayed: list[str] = []
    plain: list[str] = []
    for name, parameter in named:
        if parameter.requires_grad:
            dimensions = len(getattr(parameter, "ds_shape", parameter.shape))
            (plain if name.endswith(".bias") or dimensions == 1 else decayed).append(name)
    return decayed, plain


def check_temperatures(student: float, warmup: float, final: float) -> list[str]:
    """What to warn of; ConfigError for temperatures that are not positive."""
    if min(student, warmup, final) <= 0:
        raise ConfigError(f"temperatures are positive, not {student:g} (student), {warmup:g} and {final:g} (teacher)")
    if max(warmup, final) > 0.07:
        return [f"teacher temperature {max(warmup, final):g} is above 0.07: DINO becomes unstable there"]
    return []
