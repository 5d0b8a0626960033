"""Every kind of golden of the protocols, the alignment and the augmentation notices a changed constant of the product."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facex.data import augment
from facex.eval import fusion, identification, ijb, quality
from facex.eval.matching import match_scores
from facex.inference import align
from tests.golden.discover import find_cases
from tests.golden.harness import run_case
from tests.golden.kinds import alignment, augmentation, protocols

KINDS = {**alignment.KINDS, **augmentation.KINDS, **protocols.KINDS}
GOLDENS = Path(__file__).parents[1] / "golden" / "magface"


def kept_first(scores: Any, issame: Any, fars: Any, rule: Any) -> dict[float, float]:
    """TAR without dropping the points on straight lines."""
    from facex.eval.roc import roc_curve

    curve = roc_curve(scores, issame, drop_intermediate=False)
    return {far: float(curve.tar[np.argmin(np.abs(curve.far - far))]) for far in fars}


CHANGES: dict[str, list[Callable[[pytest.MonkeyPatch], Any]]] = {
    "magface/align_5pt": [
        lambda m: m.setattr(align, "INSIGHTFACE_TEMPLATE", align.INSIGHTFACE_TEMPLATE + np.float32(0.01)),
        lambda m: m.setattr(align, "ADAFACE_TEMPLATE", align.ADAFACE_TEMPLATE + np.float32(0.01)),
        lambda m: m.setattr(align, "inverse_least_squares", align.umeyama),
        lambda m: m.setattr(align.cv2, "INTER_LINEAR", align.cv2.INTER_NEAREST),
    ],
    "magface/augmentation": [
        lambda m: m.setattr(augment, "_GREY_RGB", augment._GREY_RGB[::-1]),
        lambda m: m.setitem(augment.CV2_KERNELS, "area", augment.cv2.INTER_LINEAR),
        lambda m: m.setattr(augment, "crop_on_black", lambda image, *box: image),
    ],
    "magface/flip_fusion": [lambda m: m.setattr(fusion, "_unit", lambda rows: (rows, rows[:, :1]))],
    "magface/identification": [
        lambda m: m.setattr(identification, "_OUTSIDE", 1e-3),
        lambda m: m.setattr(protocols, "match_scores", lambda s, *a, **k: match_scores(s[:, ::-1], *a, **k)),
    ],
    "magface/ijb": [
        lambda m: m.setattr(ijb, "tar_at_far", kept_first),
        lambda m: m.setattr(np, "pi", 3.0),
        lambda m: m.setattr(identification.math, "ceil", lambda x: int(x) + 2),
    ],
    "magface/quality_erc": [
        lambda m: m.setattr(quality, "_floor", lambda value: int(value) + 1),
        lambda m: m.setattr(quality, "pair_quality", lambda q: np.maximum(q[0::2], q[1::2])),
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_constant_is_noticed(kind: str) -> None:
    cases = [(case, expected) for case, expected in find_cases(GOLDENS, {"magface"}) if case.key == kind]
    assert cases
    for case, expected in cases:
        passed, line = run_case(case, expected, KINDS[kind])
        assert passed, line
    for i, change in enumerate(CHANGES[kind]):
        with pytest.MonkeyPatch.context() as patch:
            change(patch)
            assert not all(run_case(case, expected, KINDS[kind])[0] for case, expected in cases), f"change {i}"
