"""The folder of IJB-B or IJB-C: which set it is, pictures that are missing or broken, lists that are read strictly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facex.errors import ConfigError, DataError
from facex.eval.ijb_faces import find_ijb, open_ijb
from facex.eval.ijb_files import read_pairs
from facex.eval.ijb_run import evaluate_ijb
from tests.eval.ijb_by_hand import FARS, by_hand, rows_of
from tests.eval.tiny import Tiny
from tests.eval.tiny_ijb import TinyIjb, make_ijb


def test_missing_pictures_are_named_or_left_out(tmp_path: Path) -> None:
    made = make_ijb(tmp_path)
    lost = np.flatnonzero(made.templates == 11)
    for entry in lost.tolist():
        (tmp_path / "loose_crop" / f"{entry + 1}.png").unlink()
    with pytest.raises(DataError, match=rf"tid_mid\.txt, line {lost[0] + 1}: no picture .* \({len(lost)} of"):
        open_ijb(tmp_path)
    one = open_ijb(tmp_path, missing="skip")
    assert (one.skipped_faces, one.skipped_pairs) == (len(lost), 23)
    assert one.lists.probes is not None
    assert 11 not in one.lists.probes.templates
    there = np.delete(np.arange(len(made.templates)), lost)
    left = TinyIjb(
        tmp_path, made.aligned[there], made.templates[there], made.media[there], made.scores[there],
        *(a[(made.first != 11) & (made.second != 11)] for a in (made.first, made.second, made.issame)),
        made.galleries, made.probes[made.probes != 11],
    )  # fmt: skip
    method = Tiny()
    found = evaluate_ijb(method, method.networks(), one, fars=FARS).clean["insightface"]
    expected = by_hand(left, "insightface", rows_of(left.aligned), rows_of(left.aligned[:, :, ::-1]))
    assert found.auc == pytest.approx(expected["auc"])
    assert found.search is not None
    assert found.search.rates == pytest.approx(expected["rates"])
    (tmp_path / "loose_crop" / f"{there[-1] + 1}.png").write_bytes(b"no picture")
    broken = open_ijb(tmp_path, missing="skip")
    with pytest.raises(DataError, match=rf"line {there[-1] + 1}: .*\.png: not a JPEG"):
        broken.load(len(there) - 1)
    grey = open_ijb(tmp_path, missing="skip", on_error="grey")
    assert (grey.load(len(there) - 1) == 128).all()
    assert np.array_equal(grey.load(0), one.load(0))


def test_what_is_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ijbb_face_tid_mid"):
        find_ijb(tmp_path)
    make_ijb(tmp_path / "IJBB", "IJBB")
    assert open_ijb(tmp_path).name == "IJB-B"
    make_ijb(tmp_path / "IJBC", search=False)
    with pytest.raises(ConfigError, match="--ijb-set"):
        find_ijb(tmp_path)
    assert open_ijb(tmp_path, "IJBC").lists.probes is None
    with pytest.raises(ConfigError, match="unknown IJB set"):
        find_ijb(tmp_path, "IJBA")
    for file in (tmp_path / "IJBC" / "loose_crop").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="none of the"):
        open_ijb(tmp_path, "IJBC", missing="skip")
    (tmp_path / "IJBC" / "loose_crop").rmdir()
    with pytest.raises(DataError, match="cannot be read"):
        open_ijb(tmp_path, "IJBC")


@pytest.mark.parametrize("line", ["10 11 1.0", "10 11 1 0", "# 10 11", "10 99999999999999999999 1"])
def test_long_lists_are_read_as_strictly_as_short_ones(tmp_path: Path, line: str) -> None:
    """Pair lists have a fast way; what it does not take goes through the one that names the line."""
    path = tmp_path / "pairs.txt"
    path.write_text(f"10 11 1\n\n{line}\n")
    with pytest.raises(DataError, match=r"pairs\.txt, line 3"):
        read_pairs(path)
    path.write_text("10 11 1\n\n 10\t12 0 \n")
    assert [column.tolist() for column in read_pairs(path)] == [[10, 10], [11, 12], [True, False]]
