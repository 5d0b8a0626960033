"""What benchmarks/lafs.py compares with: LAFS written plainly, without facex.

One grid_sample call for each landmark; attention with its matrix stored; the DINO loss with a log_softmax for each pair of views;
dense soft targets; parameter by parameter in clipping and the teacher's average.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SCALE, MARGIN = 64.0, 0.4


def plain_patches(images: Tensor, landmarks: Tensor, patch: int = 8) -> Tensor:
    """Tokens [B, N, 3 p^2]: a grid_sample call for each landmark, a mosaic, and the mosaic cut again."""
    batch, count = landmarks.shape[:2]
    side, half = int(count**0.5), images.shape[2] / 2
    offset = torch.arange(patch, device=images.device, dtype=images.dtype) - patch / 2
    grid = torch.stack(torch.meshgrid(offset, offset, indexing="ij"), -1)
    pieces = []
    for n in range(count):
        places = (landmarks[:, n, None, None, :] + grid) / half - 1
        pieces.append(F.grid_sample(images, places, align_corners=False))
    rows = [torch.cat(pieces[r * side : (r + 1) * side], 3) for r in range(side)]
    mosaic = torch.cat(rows, 2)
    cut = mosaic.view(batch, 3, side, patch, side, patch).permute(0, 2, 4, 3, 5, 1)
    return cut.reshape(batch, count, 3 * patch * patch)


def plain_dino_loss(student: Tensor, teacher: Tensor, center: Tensor, views: int, temp: float, hot: float) -> Tensor:
    """Mean over pairs of views and over the batch."""
    parts = (student / temp).chunk(views)
    targets = F.softmax((teacher - center) / hot, dim=-1).detach().chunk(2)
    total, terms = torch.zeros((), device=student.device), 0
    for i, q in enumerate(targets):
        for j, part in enumerate(parts):
            if j != i:
                total = total + torch.sum(-q * F.log_softmax(part, dim=-1), dim=-1).mean()
                terms += 1
    return total / terms


def plain_cosface(x: Tensor, weight: Tensor, labels: Tensor, lam: float) -> Tensor:
    """Soft cross entropy under soft CosFace, with a dense B x C target."""
    hard = F.one_hot(labels, len(weight)).to(x.dtype)
    y = lam * hard + (1 - lam) * hard.flip(0)
    cos = F.linear(F.normalize(x), F.normalize(weight))
    return torch.sum(-y * F.log_softmax(SCALE * (cos - MARGIN * y), dim=-1), dim=-1).mean()


class PlainAttention(nn.Module):
    """Self-attention whose scores are stored."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, dim**-0.5
        self.qkv, self.out = nn.Linear(dim, 3 * heads * head_dim, bias=False), nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (t.view(b, n, self.heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        weights = (torch.einsum("bhid,bhjd->bhij", q, k) * self.scale).softmax(-1)
        return self.out(torch.einsum("bhij,bhjd->bhid", weights, v).transpose(1, 2).reshape(b, n, -1))


class PlainViT(nn.Module):
    """A ViT over tokens, without dropout."""

    def __init__(
        self, dim: int, depth: int, heads: int, head_dim: int, mlp: int, positions: int, features: int
    ) -> None:
        super().__init__()
        self.embed, self.cls = nn.Linear(features, dim), nn.Parameter(torch.randn(1, 1, dim))
        self.pos = nn.Parameter(torch.randn(1, positions + 1, dim))
        self.layers = nn.ModuleList()
        for _ in range(depth):
            feed = nn.Sequential(nn.Linear(dim, mlp), nn.GELU(), nn.Linear(mlp, dim))
            parts = [nn.LayerNorm(dim), PlainAttention(dim, heads, head_dim), nn.LayerNorm(dim), feed]
            self.layers.append(nn.ModuleList(parts))
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = torch.cat([self.cls.to(x.dtype).expand(len(x), -1, -1), x], 1)
        x = x + self.pos[:, : x.shape[1]]
        for norm1, attention, norm2, feed in self.layers:  # type: ignore[misc]
            x = x + attention(norm1(x))
            x = x + feed(norm2(x))
        return self.norm(x[:, 0])


class PlainHead(nn.Module):
    """The projection head with torch's weight_norm."""

    def __init__(self, dim: int, out: int, hidden: int, bottleneck: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            *(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck))
        )
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(bottleneck, out, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.normalize(self.mlp(x), dim=-1))


@dataclass(frozen=True)
class Sizes:
    """Of one SSL step."""

    batch: int
    local: int
    dim: int
    depth: int
    heads: int
    mlp: int
    out: int
    hidden: int
    head_dim: int = 64
    count: int = 196
    sampled: int = 36
    bottleneck: int = 256


def plain_step(
    sizes: Sizes, clean: list[Tensor], augmented: list[Tensor], landmarks: nn.Module, autocast: Any
) -> Callable[[], Tensor]:
    """A whole step of pre-training on given pictures."""
    s, device = sizes, clean[0].device
    net = PlainViT(s.dim, s.depth, s.heads, s.head_dim, s.mlp, s.count, 192)
    student = nn.ModuleDict({"net": net, "head": PlainHead(s.dim, s.out, s.hidden, s.bottleneck)}).to(device)
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, weight_decay=0.04)
    center = torch.zeros(1, s.out, device=device)

    def tokens(images: Tensor, at: Tensor, local: bool) -> Tensor:
        at = at + 5 * torch.randn_like(at)
        if local:
            index = torch.randint(0, s.count, (len(at), s.sampled, 1), device=device)
            at = at.gather(1, index.expand(-1, -1, 2))
        return plain_patches(images, at)

    def run(model: nn.ModuleDict, views: Sequence[Tensor]) -> Tensor:
        groups = [torch.cat(list(views[:2])), *([torch.cat(list(views[2:]))] if len(views) > 2 else [])]
        return model["head"](torch.cat([model["net"](g) for g in groups]))

    def step() -> Tensor:
        with torch.no_grad():
            views = [tokens(a, landmarks(c), k > 1) for k, (c, a) in enumerate(zip(clean, augmented, strict=True))]
        with autocast():
            with torch.no_grad():
                target = run(teacher, views[:2])
            logits = run(student, views)
            loss = plain_dino_loss(logits, target, center, len(views), 0.1, 0.05)
        optimizer.zero_grad()
        loss.backward()
        center.mul_(0.9).add_(target.float().mean(0, keepdim=True), alpha=0.1)
        for parameter in student.parameters():
            if parameter.grad is not None:
                coefficient = 3.0 / (parameter.grad.norm().item() + 1e-6)
                if coefficient < 1:
                    parameter.grad.mul_(coefficient)
        optimizer.step()
        with torch.no_grad():
            for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.mul_(0.996).add_(theirs, alpha=0.004)
        return loss.detach()

    return step
