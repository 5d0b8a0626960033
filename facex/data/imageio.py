"""Encoded pictures in memory: what a header says, strict decoding through OpenCV, encoding, resizing.

The fast path for ordinary JPEG is csrc/recordio; this one takes the other formats (PNG, BMP, WebP, CMYK JPEG) and
everything in a build without libjpeg-turbo. EXIF orientation is ignored, as MXNet does.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import cv2
import numpy as np

GREY = 128  # what stands for a pixel that could not be decoded
MAX_PIXELS = 1 << 24  # larger pictures are refused before anything is allocated
_COLOR = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_PNG = b"\x89PNG\r\n\x1a\n"
_FRAME_MARKERS = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})


class ImageError(Exception):
    """Bytes that are not a picture that can be decoded; the message says why."""


class ImageInfo(NamedTuple):
    """What the header of an encoded picture says."""

    format: str  # jpeg, png, bmp or webp
    height: int
    width: int


def image_info(data: bytes) -> ImageInfo:
    """Format and size from the header alone. Raises ImageError: empty, unknown format, cut off."""
    if not data:
        raise ImageError("the payload is empty")
    try:
        if data[:2] == b"\xff\xd8":
            return ImageInfo("jpeg", *_jpeg_size(data))
        if data[:8] == _PNG:
            width, height = struct.unpack_from(">II", data, 16)
            return ImageInfo("png", height, width)
        if data[:2] == b"BM":
            width, height = struct.unpack_from("<ii", data, 18)
            return ImageInfo("bmp", abs(height), width)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return ImageInfo("webp", *_webp_size(data))
    except struct.error as error:
        raise ImageError("premature end inside the header") from error
    raise ImageError("not a JPEG, PNG, BMP or WebP picture")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while at < len(data):
        if data[at] != 0xFF:
            raise ImageError("no JPEG frame header")
        marker = data[at + 1] if at + 1 < len(data) else 0
        if marker == 0xFF:
            at += 1
            continue
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        if marker in (0xD9, 0xDA):
            raise ImageError("no JPEG frame header")
        (length,) = struct.unpack_from(">H", data, at + 2)
        at += 2 + max(length, 2)
    raise ImageError("premature end of the JPEG data")


def _webp_size(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return height & 0x3FFF, width & 0x3FFF


def decode_image(data: bytes, *, color: str = "rgb", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """uint8 [H, W, 3] in `color` order ("rgb" or "bgr"), values 0..255; grey becomes three equal channels, alpha is
    dropped.

    Raises ImageError: unknown format, more than `max_pixels` pixels, premature end, damaged.
    """
    image = _decode(data, _COLOR, max_pixels)
    if image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"OpenCV decodes it to shape {image.shape}")
    return image if color == "bgr" else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decode_map(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """uint8 [H, W], a label map or a mask as it was stored. Raises ImageError also for a picture in colour."""
    image = _decode(data, cv2.IMREAD_UNCHANGED, max_pixels)
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ImageError(f"a map must be an 8-bit grey PNG, this has shape {image.shape} and type {image.dtype}")
    return image


def _decode(data: bytes, flags: int, max_pixels: int) -> np.ndarray:
    info = image_info(data)
    if info.height * info.width > max_pixels:
        raise ImageError(f"the image is larger than the limit: {info.width}x{info.height}, limit {max_pixels} pixels")
    check_end(data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"OpenCV refuses the {info.format}: {error.err}") from error
    if image is None:
        raise ImageError(f"OpenCV refuses the {info.format} as damaged")
    return image


def check_end(data: bytes) -> None:
    """ImageError for a JPEG or PNG that was cut: decoders may fill what it lacks with grey and only warn."""
    if data[:2] == b"\xff\xd8":
        _check_jpeg_end(data)
    elif data[:8] == _PNG and data.find(b"IEND", 33) < 0:
        raise ImageError("premature end of the PNG data")


def _check_jpeg_end(data: bytes) -> None:
    """Walk the markers to the end-of-image marker, so that one inside an embedded thumbnail is not taken for it."""
    position = 2
    while True:
        position = data.find(b"\xff", position)
        while 0 <= position < len(data) - 1 and data[position + 1] == 0xFF:  # fill bytes
            position += 1
        if position < 0 or position + 4 > len(data):
            if data[-2:] == b"\xff\xd9" and position == len(data) - 2:
                return
            raise ImageError("premature end of the JPEG data")
        marker = data[position + 1]
        position += 2
        if marker == 0xD9:
            return
        if marker not in (0x00, 0x01) and not 0xD0 <= marker <= 0xD8:  # no stuffed byte, TEM or restart marker
            position += max(struct.unpack_from(">H", data, position)[0], 2)


def encode_jpeg(image: np.ndarray, *, quality: int = 95, color: str = "rgb") -> bytes:
    """JPEG (4:2:0) of uint8 [H, W, 3] in `color` order."""
    return _encode(".jpg", image, color, [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(image: np.ndarray, *, color: str = "rgb", level: int = 3) -> bytes:
    """PNG of uint8 [H, W, 3] in `color` order, or of a map uint8 [H, W]; `level` 0..9 trades time for size."""
    return _encode(".png", image, color, [cv2.IMWRITE_PNG_COMPRESSION, level])


def _encode(suffix: str, image: np.ndarray, color: str, options: list[int]) -> bytes:
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ImageError(f"expected uint8 [H, W, 3] or [H, W], got {image.dtype} {image.shape}")
    if image.ndim == 3 and color == "rgb":
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(suffix, image, options)
    if not ok:
        raise ImageError(f"OpenCV cannot encode the image as {suffix}")
    return data.tobytes()


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w, 3] to [*size, 3]: by area when it shrinks, linear when it grows."""
    height, width = size
    shrinks = image.shape[0] * image.shape[1] > height * width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_short(image: np.ndarray, size: int) -> np.ndarray:
    """Scale uint8 [H, W, 3] to a short side of `size`, bicubic, sides rounded down as mxnet.image.resize_short does."""
    height, width = image.shape[:2]
    target = (size, size * height // width) if height > width else (size * width // height, size)
    return cv2.resize(image, target, interpolation=cv2.INTER_CUBIC)


def resize_map(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w] to `size` by the nearest pixel: labels are never mixed."""
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
