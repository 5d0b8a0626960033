"""Margins and the class-sharded head that trains with them."""

from facex.heads.margin_head import HeadOutput, MarginHead
from facex.heads.margins import (
    AdaFace,
    ArcFace,
    Combined,
    CosFace,
    CurricularFace,
    ElasticFace,
    MagFace,
    Margin,
    Rule,
    Softmax,
    UniFace,
)

__all__ = [
    "AdaFace",
    "ArcFace",
    "Combined",
    "CosFace",
    "CurricularFace",
    "ElasticFace",
    "HeadOutput",
    "MagFace",
    "Margin",
    "MarginHead",
    "Rule",
    "Softmax",
    "UniFace",
]
