"""The plain recogniser of the core: any registered backbone under any margin, written as a plugin would write it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from facex.errors import ConfigError
from facex.heads.margins import Margin
from facex.layouts import recognise_official, recogniser_formats
from facex.methods import Batch, Context, Embedding, Format, Group, HeadSpec, InputSpec, Method, Update, Visuals
from facex.methods.method import Nets
from facex.models import create_backbone

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


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
        norm_decay: weight decay on the parameters of normalisation layers too (insightface); False: on all others only,
            biases and PReLU slopes included (AdaFace).
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
        norm_decay: bool = True,
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
        self.norm_decay = norm_decay
        self._lengths: Tensor | None = None  # of the last training micro-batch, for the histogram

    def networks(self) -> dict[str, nn.Module]:
        """One network: `backbone`."""
        return {"backbone": self.backbone}

    def param_groups(self, network: str) -> list[Group]:
        """One group; with `norm_decay=False` the normalisation layers are a second one without weight decay."""
        if self.norm_decay:
            return super().param_groups(network)
        layers = [m for m in self.networks()[network].modules() if isinstance(m, _NORMS)]
        norms = {id(p) for m in layers for p in m.parameters(recurse=False)}
        parameters = [p for p in self.networks()[network].parameters() if p.requires_grad]
        return [
            Group([p for p in parameters if id(p) not in norms]),
            Group([p for p in parameters if id(p) in norms], name="norms", weight_decay=0.0),
        ]

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
        """The official layouts of insightface, AdaFace and CVLface that hold this backbone (facex.layouts)."""
        return recogniser_formats(list(self.backbone.state_dict()))

    @classmethod
    def recognise(cls, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """A file of insightface, AdaFace or CVLface with a published backbone."""
        return recognise_official(state)


def build_backbone(name: str, embedding_size: int, input: InputSpec, options: dict[str, Any]) -> nn.Module:
    """A registered backbone for pictures of `input`'s size. Options win over the size, so a net may resize inside."""
    return create_backbone(
        name, **{"embedding_size": embedding_size, "input_size": (input.height, input.width), **options}
    )
