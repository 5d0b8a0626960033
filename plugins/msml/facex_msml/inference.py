"""MSML for export: tensors in, tensors out."""

from __future__ import annotations

from torch import Tensor, nn

from facex_msml.network import MSMLNet


class Inference(nn.Module):
    """Normalised pictures [B, 3, H, W] -> raw embeddings [B, D]; with `masks` also the probability of occlusion, float32
    [B, H, W]."""

    def __init__(self, net: MSMLNet, masks: bool = False) -> None:
        super().__init__()
        self.net, self.masks = net, masks

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """See the class."""
        out = self.net(x)
        if not self.masks:
            return out["embedding"]
        return out["embedding"], out["segmentation"].float().softmax(1)[:, 0]
