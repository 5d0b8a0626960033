"""The small records with which a method describes itself to the Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

Color = Literal["rgb", "bgr"]


@dataclass(frozen=True)
class InputSpec:
    """What a network reads: part of every checkpoint, compared with every data set.

    The network's input is `(pixel - mean) / std`, pixel in 0..255, float32 [B, 3, height, width] in `color` order.
    """

    height: int = 112
    width: int = 112
    color: Color = "rgb"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)

    def to_tensor(self, images: Tensor, color: str) -> Tensor:
        """uint8 [B, H, W, 3] in `color` order -> float32 [B, 3, height, width] as the network reads it (resized bilinearly,
        antialiased, where the size differs)."""
        x = images.permute(0, 3, 1, 2).float()
        if color != self.color:
            x = x.flip(1)
        if x.shape[-2:] != (self.height, self.width):
            x = nn.functional.interpolate(
                x, (self.height, self.width), mode="bilinear", align_corners=False, antialias=True
            )
        mean = torch.tensor(self.mean, device=x.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=x.device).view(1, 3, 1, 1)
        return ((x - mean) / std).contiguous()


@dataclass
class HeadSpec:
    """The classifier that a method wants: class-sharded, trained by MarginHead beside the network it follows.

    `margin` is an object of `facex.heads.margins` (or a plugin's); the class count comes from the data.
    """

    margin: Any
    embedding_size: int
    network: str  # the network whose accumulation, loss scale and skipped steps the head follows
    init: Literal["normal", "unit", "xavier"] = "normal"  # N(0, 0.01) | uniform(-1, 1), unit length | Xavier uniform
    sample_rate: float = 1.0  # share of the classes that take part at a step (Partial FC)
    bias: bool = False  # a plain softmax with bias instead of cosines
    normalize: bool = True
    ignore_unlabelled: bool = True  # rows with label -1 neither cost nor count; False: insightface's 69.08 a row
    weight_decay_schedule: str | None = None  # name in Method.schedules(); its value replaces the centres' weight decay
    options: dict[str, Any] = field(default_factory=dict)  # further MarginHead options by name (docs/architecture.md)


@dataclass
class Frozen:
    """A network that the optimizer never sees: a teacher, a parser, a peer."""

    module: nn.Module
    mode: Literal["eval", "train"] = "eval"
    precision: Literal["fp32", "bf16", "fp16", "inherit"] = "inherit"
    saved: bool = False  # part of the checkpoint (an EMA teacher is, a downloaded parser need not be)


@dataclass
class Group:
    """Parameters of one network with settings of their own; unset values are the network's."""

    parameters: list[nn.Parameter]
    name: str = "default"
    lr_scale: float = 1.0
    weight_decay: float | None = None
    weight_decay_schedule: str | None = None  # name in Method.schedules(); its value replaces weight_decay at each step
    clip_scope: Literal["global", "per_tensor", "none"] = "global"
    frozen_until: int = 0  # gradients are dropped while the applied step is below this
    frozen_epochs: float = 0.0  # the same in epochs; the later of the two counts


@dataclass(frozen=True)
class Schedule:
    """A value by applied step: EMA momentum, temperature, exploration. Pure function of the step, so a resume is exact."""

    value: Callable[[int, int], float]  # (applied step, total steps) -> value

    @staticmethod
    def constant(value: float) -> Schedule:
        return Schedule(lambda step, total: value)

    @staticmethod
    def cosine(start: float, end: float) -> Schedule:
        """From `start` to `end` along half a cosine over the whole run."""
        return Schedule(lambda step, total: end + 0.5 * (start - end) * (1 + math.cos(math.pi * step / max(total, 1))))

    @staticmethod
    def linear(start: float, end: float, steps: int) -> Schedule:
        """From `start` to `end` in `steps` applied steps, then constant."""
        return Schedule(lambda step, total: start + (end - start) * min(step / max(steps, 1), 1.0))


@dataclass
class Embedding:
    """What a face becomes: `vector` float32 [B, D] (raw: its length may be the quality), `quality` float32 [B] (higher is
    better), `maps` pictures that explain it."""

    vector: Tensor
    quality: Tensor | None = None
    maps: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Update:
    """One loss, one backward, one network (and the head, if there are embeddings).

    The Trainer adds up `losses` and the head's loss, runs backward, and applies the step when every micro-batch of the
    global batch has reached this Update.
    """

    network: str
    losses: dict[str, Tensor] = field(default_factory=dict)  # weighted scalar means, made with ctx.mean
    embeddings: Tensor | None = None  # [b, D] raw, fp32 -> MarginHead; None for MAE, DINO, a policy
    labels: Tensor | None = None  # int64 [b], or [b, K] with label_weights; -1 = unlabelled
    label_weights: Tensor | None = None  # float32 [b, K]: mixup
    logs: dict[str, Tensor] = field(default_factory=dict)  # detached; read only when logging is due


@dataclass
class Visuals:
    """Pictures uint8 [N, H, W, 3] RGB and histogram values [N] for TensorBoard and the report, made only when due."""

    images: dict[str, Tensor] = field(default_factory=dict)
    histograms: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class LoadReport:
    """What an initialisation took from a file, and what it left."""

    source: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} tensors loaded"]
        for title, names in (("not in the file", self.missing), ("left over in the file", self.unexpected)):
            if names:
                shown = ", ".join(names[:8]) + (f", ... ({len(names)})" if len(names) > 8 else "")
                lines.append(f"  {title}: {shown}")
        return "\n".join(lines)


@dataclass
class Format:
    """An official checkpoint layout: recognised by its keys, read strictly, written back.

    `recognise(state)` looks at the flat {key: tensor} mapping of a file. `read(state)` returns
    {"networks": {name: state_dict}, "head": Tensor [C, D] | None, "meta": dict}; `write` is its inverse. `container`: the
    name under which a torch file of this layout keeps the mapping ("" = the file is the mapping). `nested`: the file holds several
    mappings, whose names stand before the first dot of the keys (`teacher.backbone...`).
    """

    name: str
    recognise: Callable[[dict[str, Any]], bool]
    read: Callable[[dict[str, Any]], dict[str, Any]]
    write: Callable[[dict[str, Any]], dict[str, Any]]
    describe: str = ""
    container: str = "state_dict"
    nested: bool = False


@dataclass
class Source:
    """Where a network is initialised from (`init_from` in a config): a facex run or checkpoint, or an official file.

    network: take this network alone, or the file's only one for it. format: name of the official layout, where several could
    be meant. strict: refuse tensors that are missing or left over. head: take the class centres too, which must be of the same
    classes (they are not taken otherwise: class numbers mean something else in another data set).
    """

    path: Path
    network: str | None = None
    format: str | None = None
    strict: bool = True
    head: bool = False
