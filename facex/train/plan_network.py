"""What a backbone costs: parameters, operations, and the memory that its activations take until the backward pass.

Measured on fake tensors: the network is built and run without memory and without arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from facex.models.registry import describe_backbone, get_backbone


@dataclass(frozen=True)
class NetworkCost:
    """Of one backbone in one precision. FLOPs count a multiplication and an addition as two; bytes are for one image, but
    `fixed_bytes`, which any batch takes (weights cast to the operands' type)."""

    name: str
    parameters: int
    embedding_size: int
    forward_flops: int
    activation_bytes: int
    largest_bytes: int  # the largest activation
    fixed_bytes: int
    image_numbers: int


class _Saved:
    """Counts the storages that autograd keeps, parameters and inputs apart."""

    def __init__(self, module: nn.Module) -> None:
        self._own = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
        self.kept: dict[int, Tensor] = {}
        self.largest = 0

    def __call__(self, tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in self._own:
            self.kept[key] = tensor
            self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return tensor

    def total(self) -> int:
        return sum(t.untyped_storage().nbytes() for t in self.kept.values())


def network_cost(name: str, precision: str, checkpointing: bool = False, **options: Any) -> NetworkCost:
    """The cost of the backbone `name` in training; `precision` is that of its operands (bf16, fp16: autocast)."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    info = describe_backbone(name, **options)
    with torch.device("meta"):
        module = get_backbone(name)(**options).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        module.to_empty(device="cpu")
        if checkpointing:
            for part in module.modules():
                if hasattr(part, "activation_checkpointing"):
                    part.activation_checkpointing = True  # type: ignore[assignment]
        two, four = (_saved_bytes(module, info.input_size, batch, precision) for batch in (2, 4))
    each = (four.total() - two.total()) // 2
    return NetworkCost(
        name=name,
        parameters=info.parameters,
        embedding_size=info.embedding_size,
        forward_flops=info.flops,
        activation_bytes=each,
        largest_bytes=four.largest // 4,
        fixed_bytes=max(0, two.total() - 2 * each),
        image_numbers=3 * info.input_size[0] * info.input_size[1],
    )


def _saved_bytes(module: nn.Module, size: tuple[int, int], batch: int, precision: str) -> _Saved:
    saved, low = _Saved(module), {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    images = torch.empty(batch, 3, *size)
    with (
        torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor),
        torch.autocast("cpu", dtype=low, enabled=low is not None),
    ):
        out = module(images)
        saved(out)
    return saved
