"""The plain recogniser of the core: any registered backbone under any margin, written as a plugin would write it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from facex.errors import ConfigError
from facex.heads.margins import Margin
from facex.methods import Batch, Context, Embedding, Format, HeadSpec, InputSpec, Method, Update, Visuals
from facex.methods.formats import bare_format, prefixed_format
from facex.methods.method import Nets
from facex.models import create_backbone
from facex.models.iresnet import architecture_of


class Recogniser(Method):
    """Softmax-family training: a backbone's embedding against class centres, under a margin.

    Args:
        margin: a margin of facex.heads.margins or of a plugin (`ArcFace`, `CosFace`, `AdaFace`, ...).
        backbone: a registered backbone (`facex info --backbones` lists them).
        embedding_size: length of the embedding.
        backbone_options: further arguments of the backbone (width, dropout, bn_momentum, ...).
        input: what the network reads: size, colour order, mean and std. The default is insightface's: RGB, +-1.
        init: class centres at the start: normal N(0, 0.01), unit (uniform, unit length), xavier.
        sample_rate: share of the classes that take part at a step (Partial FC).
        bias: a plain softmax with bias.
        normalize: cosines (True) or plain dot products.
        ignore_unlabelled: rows labelled -1 neither cost nor count.
        head_options: further options of MarginHead by name.
    """

    def __init__(
        self,
        margin: Margin,
        backbone: str = "r50",
        embedding_size: int = 512,
        backbone_options: dict[str, Any] | None = None,
        input: InputSpec | None = None,
        init: Literal["normal", "unit", "xavier"] = "normal",
        sample_rate: float = 1.0,
        bias: bool = False,
        normalize: bool = True,
        ignore_unlabelled: bool = True,
        head_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.input = input or InputSpec()
        self.backbone = build_backbone(backbone, embedding_size, self.input, backbone_options or {})
        self.head = HeadSpec(
            margin=margin,
            embedding_size=embedding_size,
            network="backbone",
            init=init,
            sample_rate=sample_rate,
            bias=bias,
            normalize=normalize,
            ignore_unlabelled=ignore_unlabelled,
            options=dict(head_options or {}),
        )
        self._lengths: Tensor | None = None  # of the last training micro-batch, for the histogram

    def networks(self) -> dict[str, nn.Module]:
        """One network: `backbone`."""
        return {"backbone": self.backbone}

    def training_step(self, batch: Batch, ctx: Context) -> Iterator[Update]:
        """Embed, and leave the loss to the head."""
        embeddings = ctx.nets["backbone"](batch["image"])
        self._lengths = embeddings.detach().norm(dim=1)
        yield Update("backbone", embeddings=embeddings, labels=batch["label"])

    def embed(
        self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
    ) -> Embedding:
        """Raw embedding; with `flip` the sum of both views' (insightface). Quality: the mean length over the views."""
        vector = nets["backbone"](images).float()
        quality = vector.norm(dim=1)
        if flip:
            mirrored = nets["backbone"](images.flip(3)).float()
            vector, quality = vector + mirrored, (quality + mirrored.norm(dim=1)) / 2
        return Embedding(vector, quality)

    def visuals(self, batch: Batch, ctx: Context) -> Visuals:
        """Histogram of the embeddings' lengths in the last micro-batch."""
        return Visuals(histograms={} if self._lengths is None else {"magnitude": self._lengths})

    def inference_module(self, **mode: Any) -> nn.Module:
        """Normalised pictures [B, 3, H, W] -> raw embeddings [B, D]."""
        if mode:
            raise ConfigError(f"{type(self).__name__} has no inference options {sorted(mode)}")
        return self.backbone

    def formats(self) -> list[Format]:
        """insightface's `model.pt` (the bare backbone), and the same under DataParallel's or DDP's prefix."""
        keys = list(self.backbone.state_dict())
        return [
            bare_format("insightface", "backbone", keys, "insightface model.pt: the backbone's state dict"),
            prefixed_format("insightface-ddp", "backbone", keys, "module.", describe="model.pt saved from inside DDP"),
        ]

    @classmethod
    def recognise(cls, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """insightface's bare IResNet, with or without DDP's prefix."""
        for prefix in ("", "module."):
            found = architecture_of(state, prefix)
            if found is not None:
                depth, embedding_size = found
                margin = {"class_path": "facex.heads.margins.ArcFace"}
                return {"margin": margin, "backbone": f"r{depth}", "embedding_size": embedding_size}
        return None


def build_backbone(name: str, embedding_size: int, input: InputSpec, options: dict[str, Any]) -> nn.Module:
    """A registered backbone for pictures of `input`'s size. Options win over the size, so a net may resize inside."""
    return create_backbone(
        name, **{"embedding_size": embedding_size, "input_size": (input.height, input.width), **options}
    )
