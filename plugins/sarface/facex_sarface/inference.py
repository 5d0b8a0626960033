"""SARFace in use: the masked picture as a view of its own in evaluations, and as a plain module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from facex.inference.embed import plain_nets
from facex.methods import Embedding, Method
from facex.methods.method import Nets

if TYPE_CHECKING:
    from facex_sarface.method import SARFace


class EvalView(Method):
    """A SARFace whose `embed` masks the picture."""

    def __init__(self, method: SARFace) -> None:
        super().__init__()
        self.method, self.input = method, method.input

    def networks(self) -> dict[str, nn.Module]:
        """The method's own."""
        return self.method.networks()

    def embed(
        self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
    ) -> Embedding:
        """See `SARFace.embed_masked`."""
        return self.method.embed_masked(images, nets, side, flip)


class Inference(nn.Module):
    """Normalised pictures [B, 3, H, W] -> raw embeddings of the masked pictures [B, D], and what was kept, [B, regions]."""

    def __init__(self, method: SARFace) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        found = self.method.embed_masked(images, plain_nets(self.method))
        return found.vector, found.maps["keep"]
