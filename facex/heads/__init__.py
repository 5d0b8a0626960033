"""Margins and the class-sharded head that trains with them."""

from facex.heads.margin_head import HeadOutput, MarginHead
from facex.heads.margins import (
    AdaFace,
    ArcFace,
    Combined,
    CosFace,
    CurricularFace,
    MagFace,
    Margin,
    Rule,
    Softmax,
)

__all__ = [
    "AdaFace",
    "ArcFace",
    "Combined",
    "CosFace",
    "CurricularFace",
    "HeadOutput",
    "MagFace",
    "Margin",
    "MarginHead",
    "Rule",
    "Softmax",
]
