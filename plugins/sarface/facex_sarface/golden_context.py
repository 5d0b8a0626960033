"""What the runners of the training cases put in the trainer's place: a context of one rank with recorded draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facex.methods import Batch, Field, Method

ALMOST_ONE = 1 - 2.0**-24


class Recorded:
    """A network that keeps its inputs and outputs, call by call."""

    def __init__(self, network: Callable[..., Tensor]) -> None:
        self.network = network
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def __call__(self, images: Tensor, *rest: Tensor) -> Tensor:
        """As the network's."""
        found = self.network(images, *rest)
        self.inputs.append(images)
        self.outputs.append(found.detach())
        return found


@dataclass
class OneRank:
    """The trainer's context of a step: every gradient counts, the draws are recorded by stream."""

    method: Method
    nets: Mapping[str, Any]
    head: Any = None
    draws: dict[str, Tensor] = field(default_factory=dict)
    rank: int = 0
    world_size: int = 1
    training: bool = True
    step: int = 0

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """The recorded numbers [b, *shape]."""
        return self.draws[stream].reshape(-1, *shape)

    normal = uniform

    def value(self, schedule: str) -> float:
        """At the first step."""
        return self.method.schedules()[schedule].value(self.step, 1)

    def due(self, network: str) -> bool:
        """Losses and gradients are wanted of every batch."""
        return True

    def mean(self, values: Tensor, valid: Tensor | None = None) -> Tensor:
        """Over this rank's valid rows."""
        return values.mean() if valid is None else values[valid].mean()

    def all_reduce(self, tensor: Tensor, op: str = "sum") -> Tensor:
        """One rank: the tensor."""
        return tensor.detach().clone()


def uniform_of(actions: np.ndarray) -> Tensor:
    """Numbers in [0, 1) from which "u < p" draws the recorded `actions`, whatever p in (0, 1)."""
    return torch.from_numpy(np.where(actions > 0, 0.0, ALMOST_ONE).astype(np.float32))


def constant(value: float, count: int) -> Tensor:
    """[count] of one recorded number."""
    return torch.full((count,), float(value))


def batch_of(images: Tensor, regions: Tensor, labels: np.ndarray) -> Batch:
    """A prepared micro-batch."""
    count = torch.arange(len(images))
    fields = {"image": images, "regions": regions, "label": torch.from_numpy(labels).long()}
    return Batch(fields, {"image": Field("image"), "label": Field("label")}, "bgr", count, count)
