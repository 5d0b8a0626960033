"""Method: what is particular about a way of training; the Trainer does what is common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from facex.methods.batch import Batch
from facex.methods.spec import (
    Embedding,
    Format,
    Frozen,
    Group,
    HeadSpec,
    InputSpec,
    LoadReport,
    Schedule,
    Source,
    Update,
    Visuals,
)

Nets = Mapping[str, Callable[..., Any]]


@runtime_checkable
class HeadScore(Protocol):
    """The part of MarginHead that a method may ask during a step."""

    def score(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Without gradient, over all shards: target cosine [b], best other cosine [b], its class int64 [b]."""
        ...


class Context(Protocol):
    """What the Trainer gives a method during a step."""

    nets: Nets  # engines of the trained networks and the frozen ones, in the right precision
    head: HeadScore | None
    rank: int
    world_size: int
    device: torch.device
    training: bool

    @property
    def step(self) -> int:
        """Applied steps so far (of the network that steps most often)."""
        ...

    @property
    def epoch(self) -> int:
        """The running epoch, from 0."""
        ...

    @property
    def total_steps(self) -> int:
        """Applied steps of the whole run."""
        ...

    def mean(self, values: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mean over the rows of all ranks in this micro-step, such that the engine's average over ranks gives the gradient
        of the global mean: W * (local sum) / (number of valid rows on all ranks). `values` [b], `valid` bool [b]."""
        ...

    def value(self, schedule: str) -> float:
        """The present value of one of `Method.schedules()`."""
        ...

    def due(self, network: str) -> bool:
        """Whether the gradients of an Update of `network` count in this global batch. False where the network is stepped on
        the last of several batches alone (`networks.NAME.every` without `accumulate`): the Update may be left out."""
        ...

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """Random numbers in [0, 1), float32 [b, *shape], keyed by (seed, batches consumed, position of each sample in the
        global batch, stream): the same for one rank and for many, and after a resume."""
        ...

    def normal(self, stream: str, *shape: int) -> Tensor:
        """As `uniform`, standard normal."""
        ...

    def all_reduce(self, tensor: Tensor, op: str = "sum") -> Tensor:
        """Sum, max or mean over ranks, without gradient; a new tensor."""
        ...

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Rows of all ranks in the order of the ranks, without gradient."""
        ...


class Method(nn.Module):
    """Base of every method. A subclass says `needs`, `input`, `head`, `networks`, `training_step` and `embed`;
    the rest has defaults that suit a plain recogniser."""

    needs: frozenset[str] = frozenset({"image", "label"})
    input: InputSpec = InputSpec()
    head: HeadSpec | None = None

    # -- what every method says ---------------------------------------------------------------------------------------
    def networks(self) -> dict[str, nn.Module]:
        """The trained networks by name. Each has an engine, an optimizer, a schedule and an accumulation of its own; parts
        that share a loss are one network with parameter groups. A network returns tensors, tuples or dicts."""
        raise NotImplementedError(f"{type(self).__name__} must define networks()")

    def training_step(self, batch: Batch, ctx: Context) -> Iterator[Update]:
        """Yield one Update per loss. A generator: all micro-batches of a global batch reach their n-th Update before it is
        applied, and go on afterwards. Networks are called through `ctx.nets` only; no Update is yielded inside a context
        manager."""
        raise NotImplementedError(f"{type(self).__name__} must define training_step()")

    def embed(
        self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
    ) -> Embedding:
        """Embed network-ready `images` [B, 3, H, W]; with `flip`, fuse the mirrored view as the method's authors do.
        `nets` are engines while training and plain modules elsewhere; `side` holds further fields (a mask flag)."""
        raise NotImplementedError(f"{type(self).__name__} must define embed()")

    # -- what it may say besides --------------------------------------------------------------------------------------
    def frozen(self) -> dict[str, Frozen]:
        """Networks without gradient: teacher, parser, peer."""
        return {}

    def param_groups(self, network: str) -> list[Group]:
        """How the parameters of `network` are grouped; every trainable parameter in exactly one group."""
        return [Group([p for p in self.networks()[network].parameters() if p.requires_grad])]

    def schedules(self) -> dict[str, Schedule]:
        """Values by applied step, read with `ctx.value(name)`."""
        return {}

    def init_from(self, sources: Sequence[Source]) -> list[LoadReport]:
        """Initialise networks from files, before the engines exist. The default reads any of `formats()`, strictly."""
        from facex.methods.loading import load_sources

        return load_sources(self, sources)

    def prepare(self, batch: Batch, ctx: Context) -> Batch:
        """On the device, without gradient: uint8 images to network input. Views, occlusion and mixup come here."""
        return batch.with_fields(image=self.input.to_tensor(batch["image"], batch.color))

    def after_update(self, network: str, ctx: Context) -> None:
        """Called after an applied step of `network` only: EMA teachers, running centres."""

    def visuals(self, batch: Batch, ctx: Context) -> Visuals:
        """Pictures and histograms, asked for only when they are due."""
        return Visuals()

    def views(self) -> dict[str, Method]:
        """Further ways of embedding by name (a masked picture, another flag), evaluated as results of their own beside
        `embed`; they share this method's networks."""
        return {}

    def inference_module(self, **mode: Any) -> nn.Module:
        """A plain module, tensors in and tensors out, for export."""
        raise NotImplementedError(f"{type(self).__name__} has no inference module")

    def formats(self) -> list[Format]:
        """Official checkpoint layouts that this method reads and writes."""
        return []

    @classmethod
    def recognise(cls, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """Constructor arguments (as a config writes them) for the official file with these tensors; None: not ours.
        `facex convert` asks every installed method."""
        return None
