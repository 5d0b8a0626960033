"""What the operators do to one batch: face maps, masks and purified maps of every stage."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from facex_msml.fm import FMOperator
from facex_msml.network import MSMLNet


@torch.no_grad()
def explain_stages(net: MSMLNet, images: Tensor) -> dict[str, Tensor]:
    """For each stage with an operator, under a label of its height and arithmetic (`56_mul`): LABEL/features, LABEL/mask and
    LABEL/purified, float32 [B, C, H, W]: the map before masking, the mask, and their arithmetic before peer and skip terms."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(number: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            seen[number] = (inputs[0], inputs[1])

        return hook

    handles = [m.register_forward_hook(keep(i)) for i, m in enumerate(net.frb.fm_ops) if isinstance(m, FMOperator)]
    try:
        net(images)
        found: dict[str, Tensor] = {}
        for number, (features, segmentation) in sorted(seen.items()):
            operator = net.frb.fm_ops[number]
            assert isinstance(operator, FMOperator)
            mask, purified = operator.explain(features, segmentation)
            label = f"{features.shape[2]}_{operator.config.arith}"
            found |= {f"{label}/features": features.float(), f"{label}/mask": mask, f"{label}/purified": purified}
        return found
    finally:
        for handle in handles:
            handle.remove()
