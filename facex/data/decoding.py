"""Pictures of a batch into one buffer: libjpeg-turbo in C++ for ordinary JPEG, OpenCV for the rest, one policy for
errors."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, Protocol

import numpy as np

from facex.data.imageio import GREY, MAX_PIXELS, ImageError, decode_image, resize_image
from facex.data.native import native
from facex.errors import RecordError

OnError = Literal["raise", "skip", "grey"]
NativeResult = tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]


class Status(IntEnum):
    """What the C++ decoder did with an item (`Decoded` in csrc/recordio/jpeg.h)."""

    IMAGE = 0
    OTHER = 1  # not an ordinary JPEG
    ERROR = 2
    PARTIAL = 3  # on_error="grey": the readable part of a damaged picture, the rest grey
    OTHER_SIZE = 4


class NativeDecode(Protocol):
    """The batch decoder of a source: (out, bgr, lenient, max_pixels, threads) -> status [b], sizes [b, 2], failures."""

    def __call__(self, out: np.ndarray, bgr: bool, lenient: bool, max_pixels: int, threads: int) -> NativeResult: ...


@dataclass(frozen=True)
class Decoder:
    """How pictures become pixels of one size.

    `color` is the channel order that is delivered, `stored` the one in which the pictures were packed (a set packed
    from swapped arrays has "bgr"). Without `resize` a picture of another size is an error. `on_error`: "raise"; "skip"
    and "grey" replace what does not decode by grey (128) and report it; "grey" keeps the readable part of a damaged
    JPEG.
    """

    height: int
    width: int
    color: str = "rgb"
    stored: str = "rgb"
    resize: bool = False
    on_error: OnError = "raise"
    max_pixels: int = MAX_PIXELS
    threads: int = 1

    @property
    def channels(self) -> str:
        """The order to ask of a decoder so that `color` comes out."""
        return self.color if self.stored == "rgb" else {"rgb": "bgr", "bgr": "rgb"}[self.color]

    def fill(
        self,
        out: np.ndarray,
        decode: NativeDecode,
        payload: Callable[[int], bytes],
        name: Callable[[int], str],
    ) -> tuple[np.ndarray, list[tuple[int, str]]]:
        """Fill out, uint8 [b, height, width, 3]. Returns the pictures' own sizes int32 [b, 2] (height, width) and the
        bad items (row, message); with on_error="raise" the first bad one is raised as RecordError.

        `payload(row)` gives the encoded picture again for what C++ leaves to OpenCV; `name(row)` names it in messages.
        """
        lenient = self.on_error == "grey"
        status, sizes, failures = decode(out, self.channels == "bgr", lenient, self.max_pixels, self.threads)
        problems = dict(failures)
        left = [int(row) for row in np.flatnonzero((status == Status.OTHER) | (status == Status.OTHER_SIZE))]
        if left:
            self._fill_slowly(out, sizes, left, problems, status, payload)
        if not problems:
            return sizes, []
        bad = sorted(problems.items())
        if self.on_error == "raise":
            row, problem = bad[0]
            raise RecordError(f"{name(row)}: {problem}")
        for row, _ in bad:
            if status[row] != Status.PARTIAL:
                out[row] = GREY
        return sizes, [(row, f"{name(row)}: {problem}") for row, problem in bad]

    def _fill_slowly(
        self,
        out: np.ndarray,
        sizes: np.ndarray,
        rows: list[int],
        problems: dict[int, str],
        status: np.ndarray,
        payload: Callable[[int], bytes],
    ) -> None:
        """Through OpenCV: other formats, and pictures of another size. It decodes without the GIL, so threads help."""

        def work(row: int) -> None:
            try:
                if status[row] == Status.OTHER_SIZE and not self.resize:
                    raise ImageError(self._wrong_size(*sizes[row]))
                image = decode_image(payload(row), color=self.channels, max_pixels=self.max_pixels)
                sizes[row] = image.shape[:2]
                if image.shape[:2] != (self.height, self.width):
                    if not self.resize:
                        raise ImageError(self._wrong_size(*image.shape[:2]))
                    image = resize_image(image, (self.height, self.width))
                out[row] = image
            except (ImageError, RecordError) as error:
                status[row] = Status.ERROR
                problems[row] = f"cannot decode: {error}"

        if len(rows) > 1 and self.threads > 1:
            with ThreadPoolExecutor(min(self.threads, len(rows))) as pool:
                list(pool.map(work, rows))
        else:
            for row in rows:
                work(row)

    def _wrong_size(self, height: int, width: int) -> str:
        return (
            f"the image is {width}x{height}, expected {self.width}x{self.height} (width x height;"
            " open the data with a `size` to have every image resized)"
        )


def decode_payload(payload: bytes, *, color: str = "rgb", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """One encoded picture of any size, uint8 [H, W, 3] in `color` order, strictly. Raises ImageError."""
    decode = native().decode_payloads
    bgr = color == "bgr"
    out = np.empty((1, 1, 1, 3), np.uint8)
    status, sizes, failures = decode([payload], out, bgr, False, max_pixels)
    if status[0] == Status.OTHER_SIZE:  # a JPEG; now its size is known
        out = np.empty((1, *sizes[0], 3), np.uint8)
        status, sizes, failures = decode([payload], out, bgr, False, max_pixels)
    if status[0] == Status.IMAGE:
        return out[0]
    if failures:
        raise ImageError(failures[0][1].removeprefix("cannot decode: "))
    return decode_image(payload, color=color, max_pixels=max_pixels)
