"""Decoding one face of a verification set from bytes, strictly: a cut file is an error, never a half-grey face."""

from __future__ import annotations

import struct

import cv2
import numpy as np

from facex.data.decoding import decode_payload
from facex.data.imageio import GREY, ImageError, decode_image
from facex.errors import ExtensionError

__all__ = ["GREY", "ImageError", "decode_rgb", "resize_short"]


def decode_rgb(data: bytes) -> np.ndarray:
    """uint8 [H, W, 3] RGB, values 0..255; EXIF orientation is ignored, as MXNet and insightface do.

    Raises ImageError: no bytes, another format, premature end, too many pixels, or what the decoder refuses.
    """
    if not data:
        raise ImageError("it has no bytes")
    if data[:2] == b"\xff\xd8":
        _check_jpeg(data)
    elif data[:4] == b"\x89PNG" and data.find(b"IEND", 33) < 0:
        raise ImageError("premature end of the PNG data")
    try:
        return decode_payload(data, color="rgb")  # sees damage inside the data, where OpenCV only warns
    except ExtensionError:
        return decode_image(data, color="rgb")


def resize_short(image: np.ndarray, size: int) -> np.ndarray:
    """Scale uint8 [H, W, 3] to a short side of `size`, bicubic, sides rounded down as mxnet.image.resize_short does."""
    height, width = image.shape[:2]
    target = (size, size * height // width) if height > width else (size * width // height, size)
    return cv2.resize(image, target, interpolation=cv2.INTER_CUBIC)


def _check_jpeg(data: bytes) -> None:
    """Walk the markers to the end-of-image marker, so that one inside an embedded thumbnail is not taken for it.

    Decoders may fill what a cut file lacks with grey and only warn, so its absence has to be seen here.
    """
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
