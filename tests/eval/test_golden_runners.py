"""Every kind of golden that evaluation answers for notices when the product's arithmetic is changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facex.data import verification as sets
from facex.eval import verification
from tests.golden.discover import find_cases
from tests.golden.harness import run_case
from tests.golden.kinds.verification import KINDS

CHANGES: dict[str, Callable[[pytest.MonkeyPatch], Any]] = {
    "magface/verification": lambda m: m.setattr(verification, "ACCURACY_THRESHOLDS", np.arange(0, 4, 0.02)),
    "magface/verification_magface": lambda m: m.setattr(np, "pi", 3.0),
    "magface/data_bin": lambda m: m.setattr(
        sets, "decode_payload", lambda data, f=sets.decode_payload: f(data)[..., ::-1]
    ),
    "verification/expect": lambda m: m.setattr(
        sets, "decode_payload", lambda data, f=sets.decode_payload: f(data)[:, ::-1]
    ),
    "verification/hostile": lambda m: (
        m.setattr(sets, "check_end", lambda data: None),
        m.setattr(sets, "decode_payload", lambda data: np.zeros((112, 112, 3), np.uint8)),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_constant_is_noticed(kind: str, facex_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [facex_data / "goldens" / name for name in ("magface", "verification")]
    small = ("form_py2_p2", "pwned_dotted_core", "half_image", "eval_1v1", "data_bin")
    cases = [
        (case, expected)
        for folder in folders
        for case, expected in find_cases(folder, {"magface", "verification"})
        if case.key == kind and any(part in case.name for part in small)
    ]
    assert cases
    for case, expected in cases:
        passed, line = run_case(case, expected, KINDS[kind])
        assert passed, line
    CHANGES[kind](monkeypatch)
    assert not all(run_case(case, expected, KINDS[kind])[0] for case, expected in cases)
