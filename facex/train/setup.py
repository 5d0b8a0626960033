"""From a configuration to the parts of a run: data, plan, engines, head; everything is checked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from facex.data.loader import BatchLoader
from facex.data.transforms import HorizontalFlip
from facex.errors import ConfigError, DataError
from facex.methods import HeadSpec, Method
from facex.train.config import TrainConfig
from facex.train.engines import NetworkEngine, Plan
from facex.train.head import TrainedHead
from facex.train.launch import Ranks, cores_per_rank
from facex.train.paths import expand
from facex.train.precision import FrozenNetwork, LossScale


@dataclass
class Networks:
    """The networks of a run: engines of the trained ones, wrappers of the frozen ones, both by name."""

    engines: dict[str, NetworkEngine]
    frozen: dict[str, FrozenNetwork]

    def nets(self) -> dict[str, Callable[..., Any]]:
        """What a method calls."""
        return {**self.engines, **self.frozen}


def open_data(config: TrainConfig, method: Method, ranks: Ranks) -> Any:
    """The training set, with the fields that the method needs; its class count compared with the config's."""
    from facex.data import open_dataset

    data = config.data
    dataset = open_dataset(
        expand(data.path, "data.path"),
        color=data.color or method.input.color,
        size=data.size,
        fields=tuple(sorted(method.needs)),
        on_error=data.on_error,
        threads=data.threads or cores_per_rank(),
        allow_ignored=data.allow_ignored,
        root=None if data.root is None else expand(data.root, "data.root"),
    )
    if data.num_classes is not None and dataset.num_classes != data.num_classes:
        raise DataError(
            f"{data.path} has {dataset.num_classes} classes, data.num_classes says {data.num_classes}; correct one of them"
        )
    return dataset


def make_plan(config: TrainConfig, ranks: Ranks, samples: int) -> Plan:
    """Micro-batch, accumulation and length of the run; ConfigError when they do not divide."""
    t = config.trainer
    micro = t.micro_batch or max(t.global_batch // ranks.world_size, 1)
    if t.global_batch < 1 or t.global_batch % (micro * ranks.world_size):
        raise ConfigError(
            f"trainer.global_batch={t.global_batch} is not a multiple of micro_batch {micro} x {ranks.world_size} ranks; "
            f"the nearest that is: {max(t.global_batch // (micro * ranks.world_size), 1) * micro * ranks.world_size}"
        )
    per_epoch = samples // t.global_batch
    if per_epoch == 0:
        raise ConfigError(f"the data hold {samples} samples, fewer than trainer.global_batch={t.global_batch}")
    if (t.epochs is None) == (t.steps is None):
        raise ConfigError("give the length of the run: either trainer.epochs or trainer.steps")
    total = t.steps if t.steps is not None else round((t.epochs or 0) * per_epoch)
    if total < 1:
        raise ConfigError(f"the run has no steps (epochs={t.epochs}, {per_epoch} batches an epoch)")
    return Plan(t.global_batch, micro, t.global_batch // (micro * ranks.world_size), per_epoch, total)


def make_loader(config: TrainConfig, dataset: Any, plan: Plan, ranks: Ranks) -> BatchLoader:
    """The loader of this rank."""
    transforms = config.data.transforms
    return BatchLoader(
        dataset,
        plan.global_batch,
        plan.micro_batch,
        rank=ranks.rank,
        world_size=ranks.world_size,
        seed=config.trainer.seed,
        device=ranks.device,
        transforms=(HorizontalFlip(),) if transforms is None else tuple(transforms),
        prefetch=config.data.prefetch,
    )


def make_networks(
    config: TrainConfig, method: Method, plan: Plan, ranks: Ranks, scale: LossScale, universal: bool = False
) -> Networks:
    """Engines of the trained networks and wrappers of the frozen ones."""
    trained = method.networks()
    unknown = sorted(set(config.networks) - set(trained))
    if unknown:
        raise ConfigError(f"networks.{unknown[0]}: the method has no such network (it has: {', '.join(trained)})")
    t = config.trainer
    if t.precision == "fp16" and t.zero == 3:
        raise ConfigError(
            "fp16 needs whole gradients on their way: trainer.zero 0, 1 or 2; or use --trainer.precision bf16"
        )
    if t.zero == 3 and type(method).after_update is not Method.after_update:
        raise ConfigError(
            f"{type(method).__name__} reads parameters outside forward (after_update), which trainer.zero=3 shards; use 0, 1 or 2"
        )
    method.to(ranks.device)
    frozen = {}
    for name, part in method.frozen().items():
        if name in trained:
            raise ConfigError(f"network '{name}' is both trained and frozen")
        precision = t.precision if part.precision == "inherit" else part.precision
        frozen[name] = FrozenNetwork(part.module, part.mode, precision, ranks.device)
    engines = {name: NetworkEngine(name, method, config, plan, ranks, scale, universal) for name in trained}
    return Networks(engines, frozen)


def make_head(
    config: TrainConfig, spec: HeadSpec | None, networks: Networks, classes: int, ranks: Ranks
) -> TrainedHead | None:
    """The head of a method that wants one."""
    if spec is None:
        return None
    engine = networks.engines.get(spec.network)
    if engine is None:
        raise ConfigError(f"the head follows network '{spec.network}', which the method does not train")
    if classes < 2:
        raise DataError(f"{config.data.path} has {classes} class(es); a classifier needs at least two")
    return TrainedHead(spec, config.head, engine.optimizer_config, classes, ranks, config.trainer.seed)
