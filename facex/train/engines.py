"""One trained network: its DeepSpeed engine, optimizer, schedule, clipping, and the window over which gradients add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facex.errors import CheckpointError, ConfigError
from facex.methods import Group, Method
from facex.train.clipping import Clipper
from facex.train.config import ClipConfig, NetworkConfig, OptimizerConfig, TrainConfig
from facex.train.dsconfig import engine_config
from facex.train.launch import Ranks
from facex.train.optim import build_optimizer, check_groups, resolve_groups, set_rates
from facex.train.precision import GradientUnscaler, LossScale, autocast_forward
from facex.train.schedules import build_schedule


@dataclass(frozen=True)
class Plan:
    """How many samples go where: global = micro * accumulation * ranks."""

    global_batch: int
    micro_batch: int
    accumulation: int
    batches_per_epoch: int
    total_batches: int


@dataclass(frozen=True)
class Cadence:
    """How often a network is stepped: once in `every` global batches, on the mean gradient of all of them, or without
    `accumulate` on the last one's."""

    every: int = 1
    accumulate: bool = True

    @property
    def window(self) -> int:
        """Global batches whose gradients add up."""
        return self.every if self.accumulate else 1

    def due(self, batches: int) -> bool:
        """Whether the gradients of the global batch that follows `batches` consumed ones count."""
        return self.accumulate or (batches + 1) % self.every == 0


class NetworkEngine:
    """A network of a method under DeepSpeed. Call it like the network; `backward` and `step` belong to the trainer."""

    def __init__(
        self,
        name: str,
        method: Method,
        config: TrainConfig,
        plan: Plan,
        ranks: Ranks,
        scale: LossScale,
        universal: bool = False,
    ) -> None:
        self.name = name
        self.module: nn.Module = method.networks()[name]
        own = config.networks.get(name, NetworkConfig())
        self.optimizer_config: OptimizerConfig = own.optimizer or config.optimizer
        settings: Any = self.optimizer_config  # its Literal fields are plain strings to facex.train.optim
        plan_of_rates: Any = own.schedule or config.schedule
        self.clip: ClipConfig = own.clip or config.trainer.clip
        self.every = own.every
        self.cadence = Cadence(own.every, own.accumulate)
        self.lr_scale = own.lr_scale
        self.scale = scale
        self.zero = config.trainer.zero
        self.window = plan.accumulation * self.cadence.window
        # what a micro-batch's loss is divided by
        self._share = self.cadence.window if config.trainer.accumulation == "sum" else self.window
        groups = method.param_groups(name)
        check_groups(name, self.module, groups)
        steps_per_epoch = max(plan.batches_per_epoch // self.every, 1)
        self.groups = [in_steps(group, steps_per_epoch) for group in resolve_groups(settings, groups)]
        self.schedule = build_schedule(
            plan_of_rates,
            steps_per_epoch,
            plan.total_batches / self.every / steps_per_epoch,
            self.optimizer_config.lr,
        )
        self.applied = 0
        self.last_lr = 0.0
        self.skipped = 0
        self.batches_open = 0  # global batches whose gradients wait in the open window
        self._undo: list[Callable[[], None]] = []
        prepare_module(self.module, config, ranks.device)
        self.clipper = Clipper(name, self.clip, self.groups, self.zero)
        self.optimizer = build_optimizer(settings, self.groups)
        self.engine = self._initialize(config, plan, ranks, universal)
        if config.trainer.channels_last and self.zero == 0:
            # only now: DeepSpeed broadcasts contiguous weights; above ZeRO-0 they are slices of a flat buffer, and the
            # images' memory order alone chooses the kernels
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.unscaler: GradientUnscaler | None = None
        if scale.active:
            self.unscaler = GradientUnscaler(list(self.module.parameters()), scale, ranks.device)
            self._undo.append(autocast_forward(self.module, "fp16", ranks.device.type))
            self._undo.append(self.unscaler.remove)

    def _initialize(self, config: TrainConfig, plan: Plan, ranks: Ranks, universal: bool) -> Any:
        import deepspeed

        settings = engine_config(
            config.trainer,
            config.deepspeed,
            micro=plan.micro_batch,
            window=self.window,
            world=ranks.world_size,
            clip_norm=self.clipper.deepspeed_norm,
        )
        if universal:
            settings["checkpoint"] = {"load_universal": True, **settings.get("checkpoint", {})}
        engine, *_ = deepspeed.initialize(
            model=self.module, optimizer=self.optimizer, config=settings, dist_init_required=False
        )
        return engine

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Forward through the engine, in the run's precision."""
        return self.engine(*args, **kwargs)

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of one micro-batch's loss to the window; `last`: the window closes with it."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * (self.scale.value / self._share), scale_wrt_gas=False)

    def closes(self) -> bool:
        """Whether the window closes with the global batch that is being trained on."""
        return self.batches_open + 1 >= self.cadence.window

    def overflow(self) -> Tensor | None:
        """This rank's fp16 overflow flag of the window, [1]; None without a loss scale."""
        return None if self.unscaler is None else self.unscaler.found

    def lr(self) -> float:
        """The learning rate of the next step, before group scales."""
        return self.schedule.lr(self.applied) * self.lr_scale

    def apply(self, value: Callable[[str], float], head_square: Callable[[], Tensor] | None) -> float:
        """Step on the window's gradient. Returns the factor by which joint clipping shrank it (for the head).

        `value` gives a schedule's present value; `head_square` the squared norm of the head's gradient over all ranks.
        """
        self.last_lr = self.lr()
        set_rates(self.optimizer.param_groups, self.last_lr, value)
        self._drop_frozen()
        coefficient = self.clipper.clip(head_square)
        self.engine.step()
        self.applied += 1
        self._close()
        return coefficient

    def skip(self) -> None:
        """Drop the window's gradient: an overflow somewhere."""
        if self.zero == 0:
            self.engine.zero_grad()
            self.engine.micro_steps += 1
        else:
            force_overflow(self.engine)
        self.skipped += 1
        self._close()

    def _close(self) -> None:
        self.batches_open = 0
        if self.unscaler is not None:
            self.unscaler.clear()

    def _drop_frozen(self) -> None:
        for group in self.groups:
            if group.frozen_until > self.applied:
                for parameter in group.parameters:
                    parameter.grad = None

    def grad_norm(self) -> float | None:
        """Norm of the last gradient before clipping, where something computed it."""
        norm = self.clipper.last_norm if self.zero == 0 else self.engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def load(self, folder: Path, tag: str) -> None:
        """Load weights and optimizer state that the engine saved; settings (decay, momentum) stay this run's."""
        settings = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        try:
            path, _ = self.engine.load_checkpoint(str(folder), tag=tag)
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{folder}: network '{self.name}' cannot take this state: {error}") from error
        if path is None:
            raise CheckpointError(f"{folder}: there is no state of network '{self.name}'")
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)

    def state(self) -> dict[str, Any]:
        """Counters for a checkpoint (weights and optimizer are DeepSpeed's)."""
        return {"applied": self.applied, "skipped": self.skipped, "last_lr": self.last_lr}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take a checkpoint's counters."""
        self.applied, self.skipped, self.last_lr = int(state["applied"]), int(state["skipped"]), float(state["last_lr"])

    def buffers(self) -> dict[str, Tensor]:
        """The network's buffers (BatchNorm statistics differ from rank to rank)."""
        return dict(self.module.named_buffers())

    def release(self) -> None:
        """Take every hook off the network, so that it can be used and trained again."""
        for undo in self._undo:
            undo()
        self.engine.destroy()


def in_steps(group: Group, steps_per_epoch: int) -> Group:
    """The group with its frozen epochs as applied steps."""
    return replace(group, frozen_until=max(group.frozen_until, round(group.frozen_epochs * steps_per_epoch)))


def force_overflow(engine: Any) -> None:
    """Make a ZeRO engine drop its gradients by its own road: one step in which it believes to have seen an overflow."""
    optimizer = engine.optimizer
    saved = optimizer.__dict__.get("check_grad_overflow")

    def overflow(*args: Any, **kwargs: Any) -> None:
        optimizer.overflow = True

    optimizer.check_grad_overflow = True
    optimizer.check_overflow = overflow
    try:
        engine.step()
    finally:
        del optimizer.check_overflow
        optimizer.check_grad_overflow = saved


def prepare_module(module: nn.Module, config: TrainConfig, device: torch.device) -> None:
    """Move a network to its device and apply the run's options to it, in place."""
    trainer = config.trainer
    if trainer.sync_bn:
        if device.type != "cuda":
            raise ConfigError(
                "trainer.sync_bn needs GPUs (torch's SyncBatchNorm has no CPU form); use --trainer.sync_bn false"
            )
        nn.SyncBatchNorm.convert_sync_batchnorm(module)
    module.to(device)
    if trainer.activation_checkpointing:
        parts = [m for m in module.modules() if hasattr(m, "activation_checkpointing")]
        if not parts:
            raise ConfigError(f"{type(module).__name__} offers no activation checkpointing; switch it off")
        for part in parts:
            part.activation_checkpointing = True  # type: ignore[assignment]
    if trainer.compile:
        module.compile()
