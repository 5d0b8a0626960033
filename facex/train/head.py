"""The class-sharded head beside the network it follows: built from the method's HeadSpec, the config and the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from facex.errors import CheckpointError, ConfigError
from facex.methods import HeadSpec, LoadReport, Method
from facex.methods.loading import choose_format, read_state
from facex.methods.spec import Source
from facex.train import distributed
from facex.train.checkpoint_folder import open_checkpoint
from facex.train.config import HeadConfig, OptimizerConfig
from facex.train.launch import Ranks

if TYPE_CHECKING:
    from facex.heads.base import Margin
    from facex.heads.margin_head import MarginHead
    from facex.train.engines import NetworkEngine

Values = Callable[[str], float]  # the present value of one of the method's schedules
SMALL = 2**22  # class centres times dimension: 8,192 x 512


def _resolve(precision: str, numbers: int, device: torch.device) -> str:
    """What `auto` means for a head of so many numbers. The classes of all ranks count, so that every world size agrees."""
    if precision != "auto":
        return precision
    return "fp64" if device.type == "cpu" and numbers <= SMALL else "fp32"


class TrainedHead:
    """A MarginHead with its optimizer; `module` is called with embeddings and labels, `step` follows the network's steps."""

    def __init__(
        self,
        spec: HeadSpec,
        config: HeadConfig,
        network_optimizer: OptimizerConfig,
        classes: int,
        ranks: Ranks,
        seed: int,
    ) -> None:
        from facex.heads.margin_head import MarginHead

        self.network = spec.network
        self.config = config
        self.classes = classes
        self.optimizer = config.optimizer or network_optimizer
        self.sample_rate = spec.sample_rate if config.sample_rate is None else config.sample_rate
        self.decay = self.optimizer.weight_decay if config.weight_decay is None else config.weight_decay
        self.decay_schedule = spec.weight_decay_schedule if config.weight_decay is None else None
        # The head's rate is a multiple of the network's present rate.
        self._lr_ratio = config.lr_scale
        if config.optimizer is not None and network_optimizer.lr > 0:
            self._lr_ratio *= config.optimizer.lr / network_optimizer.lr
        self.precision = _resolve(config.precision, classes * spec.embedding_size, ranks.device)
        settings: dict[str, Any] = {
            "group": dist.group.WORLD if distributed.world_size() > 1 else None,
            "init": spec.init,
            "bias": spec.bias,
            "normalize": spec.normalize,
            "ignore_unlabelled": spec.ignore_unlabelled,
            "precision": "bf16" if self.precision == "bf16" else "fp32",
            "dtype": torch.float64 if self.precision == "fp64" else torch.float32,
            "sparse_update": config.sparse_update,
            "fused_step": config.fused_step,
            "seed": seed,
            **spec.options,
            **config.options,
            "sample_rate": self.sample_rate,
            "device": ranks.device,
        }
        try:
            self.module = MarginHead(spec.margin, spec.embedding_size, classes, **settings)
        except TypeError as error:
            raise ConfigError(f"head options {sorted({**spec.options, **config.options})}: {error}") from error
        self._build_optimizer()

    def _build_optimizer(self) -> None:
        o = self.optimizer
        if o.name not in ("sgd", "adamw"):
            raise ConfigError(f"the head's optimizer is sgd or adamw, not '{o.name}'; set head.optimizer")
        self.module.build_optimizer(
            name=o.name,
            lr=o.lr,
            momentum=o.momentum,
            nesterov=o.nesterov,
            weight_decay=self.decay,
            betas=o.betas,
            eps=o.eps,
            momentum_dtype=self.config.momentum_dtype,
        )

    def lr(self, network_lr: float) -> float:
        """The head's learning rate where the network's is `network_lr`."""
        return network_lr * self._lr_ratio

    def prepare(self, network_lr: float, value: Values | None = None) -> None:
        """Before a backward pass: the rate (and scheduled decay) of the step that it takes, with `fused_step`."""
        self._schedule_decay(value)
        self.module.prepare_step(self.lr(network_lr))

    def _schedule_decay(self, value: Values | None) -> None:
        if self.decay_schedule is not None and value is not None and self.module.optimizer is not None:
            self.module.optimizer.options.weight_decay = value(self.decay_schedule)

    def step(self, network_lr: float, loss_scale: float, coefficient: float, value: Values | None = None) -> None:
        """Apply the window. `coefficient` comes from joint clipping; the head's own clipping is done here. `value` gives
        the scheduled weight decay."""
        self._schedule_decay(value)
        if self.config.clip > 0:
            norm = float(self.module.grad_sq_norm(loss_scale).sqrt())
            coefficient *= min(1.0, self.config.clip / (norm + 1e-6))
        self.module.step(self.lr(network_lr), loss_scale=loss_scale, clip_coef=coefficient)


def refuse_fused_step(config: HeadConfig, engine: NetworkEngine) -> None:
    """ConfigError for a run in which the backward pass cannot take the head's step: it would have to know what comes after."""
    reasons = {
        f"{engine.window} micro-batches add up to a step of network '{engine.name}' (trainer.global_batch, micro_batch and "
        "networks.*.every must give one)": engine.window > 1,
        "fp16 drops a step after an overflow (use trainer.precision bf16)": engine.scale.active,
        "joint clipping needs the head's gradient norm first (use clip.scope network)": (
            engine.clip.norm > 0 and engine.clip.scope == "joint"
        ),
        "head.clip needs the gradient's norm first (set it to 0)": config.clip > 0,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ConfigError(
                f"head.fused_step steps inside the backward pass, but {reason}; or set head.fused_step false"
            )


def init_head(head: TrainedHead | None, method: Method, sources: Sequence[Source]) -> list[LoadReport]:
    """Take the class centres of every source that says `head: true`, with the margin's running values; each rank its rows.

    Raises CheckpointError or ConfigError: no centres there, another class count or embedding size, another margin's values.
    """
    reports = []
    for source in (s for s in sources if s.head):
        where = str(source.path)
        if head is None:
            raise ConfigError(f"init_from {where}: head is true, but {type(method).__name__} has no head")
        if Path(source.path).is_dir():
            folder = open_checkpoint(source.path).head_dir
            if not folder.is_dir():
                raise CheckpointError(f"{where}: holds no class centres; leave out `head: true`")
            head.module.load(folder, optimizer=False)
        else:
            state = read_state(source.path)
            content = choose_format(method, state, source.format, where).read(dict(state))
            if content.get("head") is None:
                raise CheckpointError(f"{where}: holds no class centres; leave out `head: true`")
            head.module.load_weight(content["head"])
            meta = content.get("meta", {})
            load_bias(head.module, meta.get("bias"), where)
            load_running_values(head.module.margin, meta.get("margin", {}), where)
        reports.append(LoadReport(f"{where} -> head", [f"{head.classes} class centres"]))
    return reports


def load_bias(head: MarginHead, bias: Tensor | None, where: str) -> None:
    """Take this rank's rows of a plain softmax's bias [C]; CheckpointError where only one of file and head has one."""
    if (bias is None) != (head.bias is None):
        has, lacks = ("head", "file") if bias is None else ("file", "head")
        raise CheckpointError(f"{where}: the {has} has a bias beside its class centres, the {lacks} none")
    if bias is not None and head.bias is not None:
        head.bias.data.copy_(bias[head.shard.start : head.shard.stop])


@torch.no_grad()
def load_running_values(margin: Margin, values: Mapping[str, Tensor], where: str) -> None:
    """Copy running values of an official file into the margin's buffers; CheckpointError for one that it does not have."""
    buffers = dict(margin.named_buffers())
    for name, value in values.items():
        if name not in buffers or buffers[name].numel() != value.numel():
            raise CheckpointError(
                f"{where}: the file holds the margin's running value {name} {list(value.shape)}, "
                f"{type(margin).__name__} has no such value: choose the margin it was trained with (--options)"
            )
        buffers[name].copy_(value.view_as(buffers[name]))
