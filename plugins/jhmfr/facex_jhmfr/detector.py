"""A small network that tells whether a face wears a mask, so that FaceT's flag need not be given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from torch import Tensor, nn

from facex.errors import ConfigError
from facex.methods import Batch, Context, Embedding, InputSpec, Method, Update
from facex.methods.method import Nets

WIDTHS = (8, 16, 32, 32)


class MaskDetector(nn.Module):
    """Images float32 [B, 3, H, W] -> the logit of "wears a mask" float32 [B].

    Four convolutions of stride 2, each with batch norm and ReLU; the mean over the last map goes through a linear
    layer. 15 thousand parameters.

    Args:
        widths: channels of the convolutions.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((3, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.score = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, 3, H, W] -> float32 [B]."""
        return self.score(self.features(x).mean((2, 3))).float()[:, 0]


class JHMFRDetector(Method):
    """Train a `MaskDetector` on faces whose field `flag` says who wears a mask.

    Args:
        input: what the network reads.
        flags: batch: the flag that the data set (`MaskedCopies`) or a transform (`MaskFaces`) made; companion: the data
            set's companion field `flag` too.
    """

    needs = frozenset({"image"})

    def __init__(self, input: InputSpec | None = None, flags: Literal["batch", "companion"] = "batch") -> None:
        super().__init__()
        self.input = input or InputSpec(56, 56)
        self.detector = MaskDetector()
        if flags == "companion":
            self.needs = frozenset({"image", "flag"})

    def networks(self) -> dict[str, nn.Module]:
        """One network: `detector`."""
        return {"detector": self.detector}

    def training_step(self, batch: Batch, ctx: Context) -> Iterator[Update]:
        """Cross-entropy of the flag."""
        if "flag" not in batch:
            raise ConfigError("a mask detector learns from the field `flag`: add the transform MaskFaces to the data")
        logits, flags = ctx.nets["detector"](batch["image"]), batch["flag"].float()
        loss = nn.functional.binary_cross_entropy_with_logits(logits, flags, reduction="none")
        right = ((logits.detach() > 0) == (flags > 0)).float()
        yield Update("detector", {"bce": ctx.mean(loss)}, logs={"accuracy": right.mean()})

    def embed(
        self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
    ) -> Embedding:
        """The logit [B, 1], of both views' mean with `flip`; quality: the probability of a mask."""
        logit = nets["detector"](images)
        if flip:
            logit = (logit + nets["detector"](images.flip(3))) / 2
        return Embedding(logit[:, None], logit.sigmoid())
