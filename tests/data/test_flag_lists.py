"""Flags of pictures from a file: by name, by place, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facex.data.flag_lists import flags_of_pictures
from facex.errors import VerificationSetError


def test_a_list_by_name(tmp_path: Path) -> None:
    path = tmp_path / "flags.txt"
    path.write_text("a b.jpg 1\nc.jpg 0\n\n")
    assert flags_of_pictures(path, ["c.jpg", "a b.jpg"]).tolist() == [False, True]
    with pytest.raises(VerificationSetError, match=r"no flag for 1 of 1 pictures; the first is d\.jpg"):
        flags_of_pictures(path, ["d.jpg"])
    for line in ("c.jpg 2", "c.jpg", "c.jpg yes"):
        path.write_text(f"a.jpg 1\n{line}\n")
        with pytest.raises(VerificationSetError, match="line 2: 'name flag'"):
            flags_of_pictures(path, ["a.jpg"])
    with pytest.raises(VerificationSetError, match="cannot be read"):
        flags_of_pictures(tmp_path / "none.txt", ["a.jpg"])


def test_an_array_by_place(tmp_path: Path) -> None:
    np.save(tmp_path / "flags.npy", np.array([0, 1, 1], np.uint8))
    assert flags_of_pictures(tmp_path / "flags.npy", ["a", "b", "c"]).tolist() == [False, True, True]
    with pytest.raises(VerificationSetError, match="flags for 2 images"):
        flags_of_pictures(tmp_path / "flags.npy", ["a", "b"])
    with pytest.raises(VerificationSetError, match="no such file"):
        flags_of_pictures(tmp_path / "none.npy", ["a"])
