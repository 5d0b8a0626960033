"""Runner of the alignment golden: matrices of both conventions, the warp, the templates."""

from __future__ import annotations

from typing import Any

from facex.inference import align
from tests.golden.case import Case


def align_5pt(case: Case) -> dict[str, Any]:
    """Matrices to the 112 and 128 templates, AdaFace's, and one picture warped."""
    landmarks, warped = case.inputs["landmarks"], case.params["warp"]
    matrix = align.estimate(landmarks, 112)
    return {
        "matrix_112": matrix,
        "matrix_128": align.estimate(landmarks, 128),
        "matrix_adaface": align.estimate(landmarks, 112, "adaface"),
        "warped": align.warp(case.inputs["image"], matrix[warped["landmarks_row"]], warped["size"]),
        "reference": align.template(112),
        "reference_adaface": align.template(112, "adaface"),
    }


KINDS = {"magface/align_5pt": align_5pt}
