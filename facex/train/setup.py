"""From a configuration to the parts of a run: data, plan, engines, head; everything is checked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from facex.data.loader import BatchLoader
from facex.data.order import BatchShape, Order
from facex.data.transforms import HorizontalFlip
from facex.errors import ConfigError, DataError
from facex.methods import HeadSpec, Method
from facex.methods.discovery import load_object
from facex.train.config import DataConfig, TrainConfig
from facex.train.engines import NetworkEngine, Plan
from facex.train.head import TrainedHead, refuse_fused_step
from facex.train.launch import Ranks, cores_per_rank
from facex.train.paths import expand
from facex.train.precision import FrozenNetwork, LossScale
from facex.train.samplers import build_order


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
    color, fields = data.color or method.input.color, tuple(sorted(method.needs))
    if data.dataset is not None:
        kind = load_object("facex.datasets", data.dataset)
        try:
            dataset = kind(expand(data.path, "data.path"), color=color, fields=fields, **data.dataset_options)
        except TypeError as error:
            raise ConfigError(f"data.dataset {data.dataset} does not accept its options: {error}") from error
        return _with_classes(data, dataset)
    dataset = open_dataset(
        expand(data.path, "data.path"),
        color=color,
        size=data.size,
        fields=fields,
        on_error=data.on_error,
        threads=data.threads or cores_per_rank(),
        allow_ignored=data.allow_ignored,
        root=None if data.root is None else expand(data.root, "data.root"),
    )
    return _with_classes(data, dataset)


def _with_classes(data: DataConfig, dataset: Any) -> Any:
    if data.num_classes is not None and dataset.num_classes != data.num_classes:
        raise DataError(
            f"{data.path} has {dataset.num_classes} classes, data.num_classes says {data.num_classes}; correct one of them"
        )
    return dataset


def make_plan(config: TrainConfig, ranks: Ranks, samples: int) -> Plan:
    """Micro-batch, accumulation and length of the run; ConfigError when they do not divide."""
    t = config.trainer
    _check_counts(config)
    micro = t.micro_batch or max(t.global_batch // ranks.world_size, 1)
    if t.global_batch % (micro * ranks.world_size):
        raise ConfigError(
            f"trainer.global_batch={t.global_batch} is not a multiple of micro_batch {micro} x {ranks.world_size} ranks; "
            f"the nearest that is: {max(t.global_batch // (micro * ranks.world_size), 1) * micro * ranks.world_size}"
        )
    if samples < t.global_batch:
        raise ConfigError(f"the data hold {samples} samples, fewer than trainer.global_batch={t.global_batch}")
    per_epoch = _order(config, samples, micro, ranks).batches_per_epoch
    if (t.epochs is None) == (t.steps is None):
        raise ConfigError("give the length of the run: either trainer.epochs or trainer.steps")
    total = t.steps if t.steps is not None else round((t.epochs or 0) * per_epoch)
    if total < 1:
        raise ConfigError(f"the run has no steps (epochs={t.epochs}, {per_epoch} batches an epoch)")
    return Plan(t.global_batch, micro, t.global_batch // (micro * ranks.world_size), per_epoch, total)


def _check_counts(config: TrainConfig) -> None:
    """Refuse numbers that would divide by zero, or be taken for "unset"."""
    t = config.trainer
    least = {
        "global_batch": 1,
        "micro_batch": 1,
        "log_every": 1,
        "max_steps": 1,
        "visuals_every": 0,
        "checkpoint_every": 0,
    }
    for name, low in least.items():
        value = getattr(t, name)
        if value is not None and value < low:
            raise ConfigError(f"trainer.{name}={value}: at least {low}")
    if config.evaluation.every < 0 or config.evaluation.batch_size < 1:
        raise ConfigError("evaluation.every must be at least 0 and evaluation.batch_size at least 1")
    for name, network in config.networks.items():
        if network.every < 1:
            raise ConfigError(f"networks.{name}.every={network.every}: at least 1")


def _order(config: TrainConfig, samples: int, micro: int, ranks: Ranks) -> Order:
    shape = BatchShape(config.trainer.global_batch, micro, ranks.rank, ranks.world_size)
    return build_order(config.data.order, samples, shape, config.trainer.seed)


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
        order=_order(config, len(dataset), plan.micro_batch, ranks),
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
    if config.head.fused_step:
        refuse_fused_step(config.head, engine)
    return TrainedHead(spec, config.head, engine.optimizer_config, classes, ranks, config.trainer.seed)
