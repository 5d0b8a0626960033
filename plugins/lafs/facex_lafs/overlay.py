"""Landmarks as pictures and numbers: overlays, and how far the patches of a picture overlap."""

from __future__ import annotations

import colorsys

import torch
from torch import Tensor


def draw_landmarks(images: Tensor, landmarks: Tensor, patch_size: int, enlarge: int = 3, boxes: bool = False) -> Tensor:
    """uint8 [B, s H, s W, 3] RGB, `enlarge` times as large as images uint8 [B, H, W, 3]: a dot at every landmark [B,
    N, 2], its colour by its number; with `boxes` the outline of its patch as well."""
    out = images.repeat_interleave(enlarge, 1).repeat_interleave(enlarge, 2).clone()
    height, width = out.shape[1:3]
    count = landmarks.shape[1]
    colours = torch.tensor([colorsys.hsv_to_rgb(n / count, 1.0, 1.0) for n in range(count)])
    colours = (colours * 255).to(torch.uint8)
    rows = torch.arange(len(images))[:, None].expand(-1, count)
    for dx, dy in _marks(patch_size * enlarge if boxes else 0):
        x = ((landmarks[..., 0] + 0.5) * enlarge + dx).floor().long()
        y = ((landmarks[..., 1] + 0.5) * enlarge + dy).floor().long()
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        out[rows[inside], y[inside], x[inside]] = colours.expand(len(images), -1, -1)[inside]
    return out


def _marks(side: int) -> list[tuple[int, int]]:
    """Offsets in pixels of a dot, and of a square's outline of that side (0: none)."""
    dot = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    if side < 2:
        return dot
    low, high = -(side // 2), side - side // 2 - 1
    edge = [(step, end) for step in range(low, high + 1) for end in (low, high)]
    return [*edge, *((b, a) for a, b in edge), *dot]


def overlap(landmarks: Tensor, patch_size: int, size: int) -> dict[str, Tensor]:
    """How the patches of each picture lie, float32 [B] each, from landmarks [B, N, 2] in a picture of `size` pixels a
    side.

    coverage: share of the pixels that some patch covers; depth: patches over a covered pixel, on average; outside:
    share of the patches' pixels that lie outside; nearest: mean distance in pixels from a landmark to the next one.
    """
    batch, count, _ = landmarks.shape
    first = (landmarks - patch_size / 2).round().long()
    inside = torch.zeros(batch, dtype=torch.float32)
    hits = torch.zeros(batch, size * size)
    ones = torch.ones(batch, count)
    for dx in range(patch_size):
        for dy in range(patch_size):
            x, y = first[..., 0] + dx, first[..., 1] + dy
            here = (x >= 0) & (x < size) & (y >= 0) & (y < size)
            inside += here.sum(1)
            hits.scatter_add_(1, torch.where(here, y * size + x, 0), ones * here)
    covered = hits > 0
    distances = torch.cdist(landmarks, landmarks)
    distances.diagonal(dim1=1, dim2=2).fill_(float("inf"))
    return {
        "coverage": covered.float().mean(1),
        "depth": hits.sum(1) / covered.sum(1).clamp(min=1),
        "outside": 1 - inside / (count * patch_size**2),
        "nearest": distances.amin(2).mean(1) if count > 1 else torch.zeros(batch),
    }
