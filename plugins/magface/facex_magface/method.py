"""MagFace (Meng et al., CVPR 2021): the margin grows with the embedding's length, which becomes the quality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from facex.classification import Recogniser
from facex.heads.margins import MagFace as MagFaceMargin
from facex.methods import Batch, Context, Format, InputSpec, Visuals
from facex_magface.formats import magface_formats, recognise_official

# BGR, x / 255 in [0, 1]: what the official loader (cv2.imread, ToTensor, no normalisation) feeds the network.
OFFICIAL_INPUT = InputSpec(112, 112, "bgr", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0))


class MagFace(Recogniser):
    """MagFace: ArcFace's (or CosFace's) margin as a function of the magnitude, plus a reward for long embeddings.

    The magnitude a is the length of the raw embedding, cut to [l_a, u_a]. The margin rises from l_margin at l_a to
    u_margin at u_a; the regulariser is lambda_g * (a / u_a^2 + 1 / a). `facex magface-range` measures a trained model
    and proposes all five for fine-tuning.

    Args:
        backbone: a registered backbone; the iresnet* names are in MagFace's form.
        embedding_size: length of the embedding.
        l_a: lower bound of the magnitude.
        u_a: upper bound of the magnitude.
        l_margin: margin at l_a.
        u_margin: margin at u_a.
        lambda_g: weight of the regulariser; below the bound s K u_a^2 l_a^2 / (u_a^2 - l_a^2) a warning is printed.
        scale: factor s on every logit.
        form: arc: cos(theta + m(a)); cos: cos(theta) - m(a), Mag-CosFace.
        easy_margin: the arc margin applies only where the target cosine is positive (every official trainer).
        backbone_options: further arguments of the backbone (dropout, bn_momentum, width, ...).
        input: what the network reads; the default is the official one, 112x112 BGR in [0, 1].
        sample_rate: share of the classes that take part at a step (Partial FC).
        head_options: further options of MarginHead by name; official_norm_grad and official_grad_scale reproduce the
            official split-FC trainer's gradients.
    """

    def __init__(
        self,
        backbone: str = "iresnet50",
        embedding_size: int = 512,
        l_a: float = 10.0,
        u_a: float = 110.0,
        l_margin: float = 0.45,
        u_margin: float = 0.8,
        lambda_g: float = 35.0,
        scale: float = 64.0,
        form: Literal["arc", "cos"] = "arc",
        easy_margin: bool = True,
        backbone_options: dict[str, Any] | None = None,
        input: InputSpec = OFFICIAL_INPUT,
        sample_rate: float = 1.0,
        head_options: dict[str, Any] | None = None,
    ) -> None:
        margin = MagFaceMargin(l_a, u_a, l_margin, u_margin, lambda_g, s=scale, form=form, easy_margin=easy_margin)
        super().__init__(
            margin,
            backbone,
            embedding_size,
            backbone_options,
            input,
            init="unit",
            sample_rate=sample_rate,
            head_options=head_options,
        )

    def visuals(self, batch: Batch, ctx: Context) -> Visuals:
        """Histograms of magnitude and margin in the last micro-batch."""
        shown = super().visuals(batch, ctx)
        assert self.head is not None
        if "magnitude" in shown.histograms:
            shown.histograms["margin"] = self.head.margin.margin(shown.histograms["magnitude"])
        return shown

    def formats(self) -> list[Format]:
        """Both official training layouts, the inference layout made from either, and insightface's bare backbones (an
        ArcFace model to fine-tune)."""
        return [*magface_formats(list(self.backbone.state_dict())), *super().formats()]

    @classmethod
    def recognise(cls, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """Official MagFace files, by the prefixes of their names."""
        return recognise_official(state)
