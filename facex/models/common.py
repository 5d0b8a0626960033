"""What the backbones share: stages with or without checkpointing, the float32 tail, sizes, initialisation."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facex.errors import ConfigError
from facex.models.checkpointing import checkpointed


def run_stage(stage: nn.Module, x: Tensor, recompute: bool) -> Tensor:
    """One stage of blocks, each checkpointed if `recompute` (and a gradient is wanted)."""
    if not (recompute and torch.is_grad_enabled()):
        return stage(x)
    for block in stage.children():
        x = checkpointed(block, x)
    return x


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Inside, no autocast on x's device: what is computed here keeps the precision of its operands."""
    # the meta device, on which FLOPs are counted, has no autocast to switch off
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def float_tail(x: Tensor, *modules: nn.Module) -> Tensor:
    """The last modules, one after another, outside any autocast and in the precision of their weights; float32 out.

    The length of an embedding is a result, so its last layers do not round to 16 bits.
    """
    dtype = next(modules[0].parameters()).dtype
    with no_autocast(x):
        x = x.to(dtype)
        for module in modules:
            x = module(x)
        return x.float()


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v of queries, keys and values [..., n, d]; no dropout.

    torch's fused kernel for the CPU is several times slower in 16 bits than the two products (backward above all), so
    there they are written out.
    """
    if q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16):
        return ((q * scale) @ k.transpose(-1, -2)).softmax(-1, dtype=torch.float32).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def check_input(module: nn.Module, x: Tensor) -> None:
    """Refuse a picture of another size than the network was built for; its last Linear would complain about matrices."""
    if tuple(x.shape[-2:]) != module.input_size:
        raise ConfigError(
            f"{type(module).__name__} was built for {module.input_size[0]}x{module.input_size[1]} pictures, "  # type: ignore[index]
            f"got {tuple(x.shape)}: set input_size"
        )


def as_size(size: int | Sequence[int]) -> tuple[int, int]:
    """One side or (height, width) -> (height, width)."""
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    if min(height, width) < 16:
        raise ConfigError(f"input_size {size} is too small: at least 16 pixels a side")
    return int(height), int(width)


def map_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the last map after four halvings: 7x7 for 112x112."""
    return -(-size[0] // 16), -(-size[1] // 16)


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, as a multiple of 8."""
    return max(8, 8 * round(channels * width / 8))


def initialise_convs(module: nn.Module, how: str) -> None:
    """Fresh convolutions ("kaiming": fan_out for ReLU; "normal": N(0, 0.1)); BatchNorms start at 1 and 0 anyway."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            if how == "kaiming":
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.normal_(m.weight, 0, 0.1)


def initialise_linears(module: nn.Module) -> None:
    """Fresh Linears, Kaiming normal over fan_out, biases 0 (AdaFace's nets and MobileFaceNet)."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
