"""Mixed precision: autocast inside a network's forward, and one loss scale for all networks and the head (fp16).

fp16 takes the road that docs/architecture.md describes: DeepSpeed's engine stays in fp32 mode and sees true gradients; a
hook on every parameter divides by the scale and notes what is not finite before any of DeepSpeed's hooks runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from facex.errors import TrainingError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class LossScale:
    """The factor on the loss that keeps small fp16 gradients from vanishing: halved at an overflow, doubled after
    `growth_interval` applied steps without one. Constant 1 for bf16 and fp32.

    All networks and the head share it, and a window that is open holds gradients at the present value: what happened is
    noted (`overflowed`, `applied`) and takes effect in `settle`, when no window is open.
    """

    def __init__(self, precision: str, initial: float, growth_interval: int, minimum: float) -> None:
        self.active = precision == "fp16"
        self.value = float(initial) if self.active else 1.0
        self.growth_interval = growth_interval
        self.minimum = minimum
        self.good_steps = 0
        self._events: list[bool] = []

    def overflowed(self) -> None:
        """Note a dropped window."""
        self._events.append(False)

    def applied(self) -> None:
        """Note a good step."""
        self._events.append(True)

    def settle(self) -> None:
        """Change the scale as the noted steps ask for; TrainingError at the floor."""
        events, self._events = self._events, []
        if not self.active:
            return
        for good in events:
            self.good_steps = self.good_steps + 1 if good else 0
            if not good:
                self._lower()
            elif self.good_steps >= self.growth_interval:
                self.value *= 2
                self.good_steps = 0

    def _lower(self) -> None:
        if self.value / 2 < self.minimum:
            raise TrainingError(
                f"fp16: gradients overflow even at the smallest loss scale ({self.value:g}); the network itself produces "
                "inf or NaN. Lower the learning rate, or train with --trainer.precision bf16"
            )
        self.value /= 2

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"value": self.value, "good_steps": self.good_steps}

    def load(self, state: dict[str, float]) -> None:
        """Take a checkpoint's state (of a run in the same precision)."""
        if self.active:
            self.value = float(state["value"])
            self.good_steps = int(state["good_steps"])


class GradientUnscaler:
    """Hooks on the parameters of one network that divide each gradient by the loss scale and note a non-finite one.

    What is not finite is replaced by zeros, so that no NaN reaches DeepSpeed's buffers: the step is dropped anyway.
    """

    def __init__(self, parameters: list[nn.Parameter], scale: LossScale, device: torch.device) -> None:
        self.found = torch.zeros(1, device=device)
        self._scale = scale
        self._handles = [p.register_hook(self._unscale) for p in parameters if p.requires_grad]

    def _unscale(self, grad: Tensor) -> Tensor:
        true = grad.float() / self._scale.value
        # A new tensor: autograd may hand the same gradient to two parameters.
        bad = ~torch.isfinite(true).all()
        self.found.add_(bad)
        return torch.where(bad, torch.zeros_like(true), true)

    def note(self, loss: Tensor) -> None:
        """Count a loss that is not finite as an overflow."""
        self.found.add_(~torch.isfinite(loss.detach()))

    def clear(self) -> None:
        """Forget the overflow of the window that has closed."""
        self.found.zero_()

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()


def autocast_forward(module: nn.Module, precision: str, device_type: str) -> Callable[[], None]:
    """Make `module.forward` run under autocast, parameter names untouched. Returns the function that undoes it."""
    inner = module.forward

    @functools.wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, dtype=DTYPES[precision]):
            return inner(*args, **kwargs)

    module.forward = forward

    def undo() -> None:
        module.__dict__.pop("forward", None)

    return undo


class FrozenNetwork:
    """A frozen network as a method calls it: no gradient, its own mode and precision."""

    def __init__(self, module: nn.Module, mode: str, precision: str, device: torch.device) -> None:
        self.module = module.to(device).requires_grad_(False)
        self.mode = mode
        self._dtype = DTYPES[precision]
        self._device_type = device.type

    def set_mode(self) -> None:
        """Restore the mode after `Method.train()` has set all submodules alike."""
        self.module.train(self.mode == "train")

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Forward in the network's precision."""
        lowered = self._dtype != torch.float32
        with torch.autocast(self._device_type, dtype=self._dtype if lowered else None, enabled=lowered):
            return self.module(*args, **kwargs)
