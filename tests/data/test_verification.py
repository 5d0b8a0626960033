"""Verification `.bin` files: every way of writing one is read, nothing in one is ever run, and damage is named."""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facex.data.native import jpeg_backend
from facex.data.verification import load_bin, write_bin
from facex.errors import VerificationSetError


def picture(seed: int, height: int = 112, width: int = 112) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (7, 7, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()


ENTRIES = [jpeg(picture(i)) for i in range(4)]
SAME = [True, False]


def load(tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / "set.bin"
    path.write_bytes(content)
    return load_bin(path)


def refused(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(VerificationSetError) as caught:
        load(tmp_path, content)
    assert str(tmp_path / "set.bin") in str(caught.value)
    return str(caught.value)


FORMS = {
    "bytes": (ENTRIES, SAME),
    "list of two": [ENTRIES, SAME],
    "tuples and ints": (tuple(ENTRIES), (1, 0)),
    "arrays": ([np.frombuffer(e, np.uint8) for e in ENTRIES], SAME),
    "writable arrays": ([np.frombuffer(e, np.uint8).copy() for e in ENTRIES], SAME),
    "numpy booleans": (ENTRIES, [np.True_, np.False_]),
    "boolean array": (ENTRIES, np.array(SAME)),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("form", FORMS)
def test_every_form_and_protocol(tmp_path: Path, form: str, protocol: int) -> None:
    loaded = load(tmp_path, pickle.dumps(FORMS[form], protocol))
    assert [bytes(e) for e in loaded.entries] == ENTRIES
    assert loaded.issame.tolist() == SAME
    assert len(loaded) == 2


def test_bytearray_and_older_numpy_names(tmp_path: Path) -> None:
    loaded = load(tmp_path, pickle.dumps(([bytearray(e) for e in ENTRIES], SAME), 5))
    assert loaded.entries == ENTRIES
    modern = pickle.dumps(FORMS["writable arrays"], 2)
    assert b"numpy._core" in modern
    assert [bytes(e) for e in load(tmp_path, modern.replace(b"numpy._core", b"numpy.core")).entries] == ENTRIES


def test_python_2_forms(tmp_path: Path) -> None:
    """cPickle's str entries: BINSTRING in protocol 2, quoted text in protocol 0."""
    two = b"\x80\x02]q\x00(" + b"".join(b"T" + len(e).to_bytes(4, "little") + e for e in ENTRIES) + b"e](\x88\x89e\x86."
    assert load(tmp_path, two).entries == ENTRIES
    quoted = b"".join(b"S'" + "".join(f"\\x{c:02x}" for c in e).encode() + b"'\na" for e in ENTRIES)
    zero = b"((l" + quoted + b"(lI01\naI00\nat."
    loaded = load(tmp_path, zero)
    assert loaded.entries == ENTRIES
    assert loaded.issame.tolist() == SAME


def test_write_bin_round_trip(tmp_path: Path) -> None:
    write_bin(tmp_path / "out.bin", ENTRIES, SAME)
    assert load_bin(tmp_path / "out.bin").entries == ENTRIES
    with open(tmp_path / "out.bin", "rb") as file:  # insightface reads it with plain pickle
        assert pickle.load(file) == (ENTRIES, SAME)
    with pytest.raises(VerificationSetError, match="3 images for 2 pairs"):
        write_bin(tmp_path / "bad.bin", ENTRIES[:3], SAME)
    with pytest.raises(VerificationSetError, match=r"flags of shape \[2\] for 4 images"):
        write_bin(tmp_path / "bad.bin", ENTRIES, SAME, np.array([True, False]))
    assert [p.name for p in tmp_path.iterdir()] == ["out.bin"]


def test_flags_are_written_beside_the_set(tmp_path: Path) -> None:
    flags = np.array([True, False, False, True])
    write_bin(tmp_path / "out.bin", ENTRIES, SAME, flags)
    assert load_bin(tmp_path / "out.bin").flags.tolist() == flags.tolist()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.bin", "out.flags.npy"]


class Call:
    """Pickled as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["alone", "entry", "label", "label array"])
def test_a_call_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, place: str) -> None:
    monkeypatch.chdir(tmp_path)
    call = Call(open, "PWNED", "w")
    value = {
        "alone": call,
        "entry": ([*ENTRIES[:3], call], SAME),
        "label": (ENTRIES, [True, call]),
        "label array": (ENTRIES, np.array([True, call], object)),
    }[place]
    message = refused(tmp_path, pickle.dumps(value, protocol))
    assert "unsafe pickle content" in message
    assert "open" in message or "O8" in message
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(
    ("stream", "named"),
    [
        (b"cposix\nsystem\n(S'touch PWNED'\ntR.", "posix.system"),
        (b"(S'x'\niposix\nsystem\n.", "posix.system"),
        (b"(cposix\nsystem\nS'x'\no.", "posix.system"),
        (b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02O8\x85R.", "O8"),
        (b"\x80\x04\x8c\x0enumpy.core.foo\x8c\x0c_reconstruct\x93.", "numpy.core.foo"),
        (b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", "ndarray.__class__"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00utf-8\x86R.", "utf-8"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "numpy.ndarray"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"\x80\x02]}b.", "BUILD"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"Pname\n.", "PERSID"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
    ],
)
def test_unsafe_streams(tmp_path: Path, stream: bytes, named: str) -> None:
    message = refused(tmp_path, stream)
    assert "unsafe pickle content" in message
    assert named in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (ENTRIES[0], "not a pickle"),
        (b"hello, no pickle", "not a pickle"),
        (b"\x80\x09].", "unsupported pickle protocol 9"),
        (pickle.dumps({"a": 1}), "a dict was found"),
        (pickle.dumps((ENTRIES, SAME, 1)), "a tuple of 3 was found"),
        (pickle.dumps(7), "the number 7 was found"),
        (pickle.dumps((ENTRIES[:3], SAME)), "3 images for 2 pairs"),
        (pickle.dumps(([], [])), "no pairs"),
        (pickle.dumps(([*ENTRIES[:3], None], SAME)), "entry 3 is None"),
        (pickle.dumps(([*ENTRIES[:3], "text"], SAME)), "entry 3 is text"),
        (pickle.dumps((ENTRIES, [True, 2])), "the label of pair 1 is the number 2"),
        (pickle.dumps((ENTRIES, [True, 1.0])), "the label of pair 1 is a float"),
        (pickle.dumps((ENTRIES, np.zeros((2, 1), bool))), "shape (2, 1)"),
        (pickle.dumps((ENTRIES, SAME)) + b".", "trailing data"),
        (b"\x80\x02h\x05.", "memo entry 5"),
        (b"\x80\x02e.", "stack"),
    ],
)
def test_wrong_files(tmp_path: Path, content: bytes, message: str) -> None:
    assert message in refused(tmp_path, content)


def test_missing_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(VerificationSetError, match="No such file"):
        load_bin(tmp_path / "none.bin")
    with pytest.raises(VerificationSetError, match="not a regular file"):
        load_bin(tmp_path)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_every_prefix_and_many_mutations_end_in_an_answer(tmp_path: Path, protocol: int) -> None:
    """A cut file is always an error; a changed byte is an error or another set, never another exception."""
    small = [b"\xff\xd8" + bytes([i]) * 20 for i in range(4)]
    good = pickle.dumps((small, FORMS["boolean array"][1]), protocol)
    for end in range(len(good)):
        message = refused(tmp_path, good[:end])
        assert end < 2 or "truncated pickle" in message
    rng = np.random.default_rng(protocol)
    for _ in range(400):
        changed = bytearray(good)
        for at in rng.integers(0, len(good), rng.integers(1, 4)):
            changed[at] = rng.integers(256)
        with contextlib.suppress(VerificationSetError):
            assert len(load(tmp_path, bytes(changed))) == 2


@pytest.mark.parametrize(
    "stream",
    [
        b"\x80\x02](T\xff\xff\xff\x7fabc",
        b"\x80\x04](\x8e" + (1 << 62).to_bytes(8, "little") + b"abc",
        b"\x80\x05](\x96" + (1 << 40).to_bytes(8, "little") + b"abc",
        b"\x80\x04\x95" + (1 << 62).to_bytes(8, "little") + b"].",
        b"\x80\x02]r\xff\xff\xff\x7f.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(\x8a\x06\x00\x00\x00\x00\x00\x10tS'b'\ntR.",
        b"\x80\x02" + b"(" * 1000 + b".",
    ],
)
def test_bombs_allocate_nothing(tmp_path: Path, stream: bytes) -> None:
    tracemalloc.start()
    try:
        refused(tmp_path, stream)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_shared_text_is_encoded_once(tmp_path: Path) -> None:
    """A thousand references to one long text: its bytes exist once."""
    text = "\xff" * 100_000
    one = b"X" + len(text.encode()).to_bytes(4, "little") + text.encode() + b"q\x01"
    call = b"h\x02h\x01h\x03\x86R"
    stream = (
        b"\x80\x02c_codecs\nencode\nq\x020"
        + one
        + b"0X\x06\x00\x00\x00latin1q\x030]("
        + call * 1000
        + b"e]("
        + b"\x88" * 500
    )
    tracemalloc.start()
    try:
        loaded = load(tmp_path, stream.replace(b"\x06\x00\x00\x00latin1", b"\x06\x00\x00\x00latin1") + b"e\x86.")
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    assert loaded.entries[999] == b"\xff" * 100_000


def test_deep_nesting_and_billion_laughs(tmp_path: Path) -> None:
    assert "a list of 1" in refused(tmp_path, b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    laughs = b"\x80\x02]q\x00" + b"".join(
        b"](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"eq" + bytes([i + 1]) for i in range(30)
    )
    assert "wrong structure" in refused(tmp_path, laughs + b".")


# -- decoding ---------------------------------------------------------------------------------------------------------
def one_set(tmp_path: Path, *entries: bytes) -> Any:
    write_bin(tmp_path / "set.bin", entries, [True] * (len(entries) // 2))
    return load_bin(tmp_path / "set.bin")


def test_decode_colours_and_ranges(tmp_path: Path) -> None:
    red = np.zeros((112, 112, 3), np.uint8)
    red[..., 0] = 255
    loaded = one_set(tmp_path, cv2.imencode(".png", red[..., ::-1])[1].tobytes(), ENTRIES[1], *ENTRIES[2:])
    rgb = loaded.decode()
    assert rgb.shape == (4, 112, 112, 3)
    assert rgb.dtype == np.uint8
    assert rgb[0, 5, 5].tolist() == [255, 0, 0]
    assert np.array_equal(loaded.decode("bgr"), rgb[..., ::-1])
    assert np.array_equal(loaded.decode(start=1, stop=3), rgb[1:3])
    assert loaded.decode(start=4).shape == (0, 112, 112, 3)


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    entry = b"\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00"  # orientation 6: turn by 90 degrees
    exif = b"\xff\xe1\x00\x22Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00" + entry + b"\x00" * 4
    turned = ENTRIES[0][:2] + exif + ENTRIES[0][2:]
    decoded = one_set(tmp_path, ENTRIES[0], turned).decode()
    assert np.array_equal(decoded[0], decoded[1])


def test_other_sizes_are_resized_as_insightface_does(tmp_path: Path) -> None:
    large = picture(1, 168, 168)
    tall = picture(2, 128, 112)  # its width fits: insightface leaves it as it is
    png = [cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in (large, large, tall, tall)]
    loaded = one_set(tmp_path, *png[:2])
    want = cv2.resize(large, (112, 112), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(loaded.decode()[0], want)
    assert loaded.decode(size=None).shape == (2, 168, 168, 3)
    assert one_set(tmp_path, *png[2:]).decode().shape == (2, 128, 112, 3)
    wide = cv2.imencode(".png", picture(3, 100, 150))[1].tobytes()
    assert one_set(tmp_path, wide, wide).decode().shape == (2, 112, 168, 3)
    with pytest.raises(VerificationSetError, match="entry 2 is 112x128 and entry 0 is 112x112"):
        one_set(tmp_path, *png).decode()


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (b"", "payload is empty"),
        (b"no image", "not a JPEG"),
        (ENTRIES[1][: len(ENTRIES[1]) // 2], "premature end"),
        (ENTRIES[1][:-2], "premature end"),
        (b"\xff\xd8\xff", "premature end"),
        (cv2.imencode(".png", picture(1))[1].tobytes()[:-30], "premature end"),
    ],
)
def test_what_does_not_decode_is_named_or_grey(tmp_path: Path, entry: bytes, why: str) -> None:
    loaded = one_set(tmp_path, ENTRIES[0], entry)
    with pytest.raises(VerificationSetError, match=f"cannot decode entry 1: .*{why}"):
        loaded.decode()
    grey = loaded.decode(on_error="grey")
    assert (grey[1] == 128).all()
    assert not (grey[0] == 128).all()


def test_an_end_marker_glued_to_a_cut_picture_does_not_hide_the_cut(tmp_path: Path) -> None:
    if jpeg_backend() == "opencv":
        pytest.skip("built without libjpeg-turbo headers: OpenCV only warns about damage inside the data")
    glued = ENTRIES[1][: len(ENTRIES[1]) // 2] + b"\xff\xd9"
    with pytest.raises(VerificationSetError, match="cannot decode entry 1: premature end"):
        one_set(tmp_path, ENTRIES[0], glued).decode()


def test_a_thumbnail_does_not_hide_a_cut(tmp_path: Path) -> None:
    """The end marker of a JPEG inside the EXIF block is not the picture's."""
    thumbnail = b"Exif\x00\x00" + ENTRIES[1][:200] + b"\xff\xd9"
    head = ENTRIES[0][:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    assert one_set(tmp_path, head + ENTRIES[0][2:], ENTRIES[0]).decode().shape == (2, 112, 112, 3)
    with pytest.raises(VerificationSetError, match="entry 0: premature end"):
        one_set(tmp_path, head + ENTRIES[0][2:-40], ENTRIES[0]).decode()


def test_a_header_that_claims_a_huge_picture_is_refused(tmp_path: Path) -> None:
    at = ENTRIES[0].index(b"\xff\xc0") + 5
    huge = ENTRIES[0][:at] + b"\xff\xff\xff\xff" + ENTRIES[0][at + 4 :]
    with pytest.raises(VerificationSetError, match="cannot decode entry 0"):
        one_set(tmp_path, huge, ENTRIES[1]).decode()


def test_published_files(facex_data: Path) -> None:
    """The forms of goldens/verification give the same bytes, whoever wrote them."""
    folder = facex_data / "goldens" / "verification"
    want = load_bin(folder / "form_bytes_p3.bin")
    for path in sorted(folder.glob("form_*.bin")):
        if path.stem not in ("form_memo_shared", "form_png"):
            loaded = load_bin(path)
            assert loaded.entries == want.entries, path.name
            assert np.array_equal(loaded.issame, want.issame), path.name
    first = next(pickletools.genops((folder / "lfw_val.bin").read_bytes()))
    assert first[1] == 2
    assert len(load_bin(folder / "lfw_val.bin")) == 600
