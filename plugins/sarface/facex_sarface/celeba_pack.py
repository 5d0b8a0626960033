"""Folders of faces with label maps (CelebAMask-HQ) into a RecordIO set with the field `parsing`, aligned on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from facex.data import FaceSetWriter
from facex.data.companions import KNOWN
from facex.data.dataset import default_threads
from facex.data.imageio import encode_jpeg, resize_image, resize_map
from facex.errors import ConfigError, DataError
from facex.inference.align import template, umeyama, warp
from facex_sarface.celeba_masks import Labelled, find_labelled, read_labelled
from facex_sarface.masking import FIELD
from facex_sarface.parser_training import IGNORE
from facex_sarface.regions import LABELS

Progress = Callable[[int, int], None]  # pictures seen, pictures in all
HELD_OUT = "held_out"  # folder of the pictures that are kept for evaluation, below the set's
_GLASSES, _EYES, _MOUTH = LABELS.index("eyeglasses"), (4, 5), (10, 11, 12)


@dataclass(frozen=True)
class LabelledPackOptions:
    """How pictures and label maps go into the set.

    align: to the crop that recognisers read (the ArcFace template), by eyes and mouth as the labels show them. on_missing,
    "skip": leave out and count pictures without labels, or that cannot be aligned. held_out: share of the pictures for a
    second set.
    """

    size: int = 112
    align: bool = False
    numbering: str = "celebamask"
    on_missing: str = "raise"
    held_out: float = 0.0
    quality: int = 95
    threads: int = 0

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 1024 or not 0 <= self.held_out <= 0.5 or not 1 <= self.quality <= 100:
            raise ConfigError("size lies in 16..1024, held_out in 0..0.5, quality in 1..100")
        if self.align:
            template(self.size)  # refuses other sizes than its own


@dataclass
class LabelledPackReport:
    """What was written, and what was left out for want of labels or points (`messages`: the first reasons)."""

    written: int = 0
    held_out: int = 0
    left_out: int = 0
    messages: list[str] = field(default_factory=list)


def pack_labelled(
    pictures: Path, maps: Path, out: Path, options: LabelledPackOptions | None = None, progress: Progress | None = None
) -> LabelledPackReport:
    """Write the set `out` (and out/held_out). The field's flip exchanges left and right.

    Raises DataError naming the file that cannot be used; what `find_labelled` and `read_labelled` refuse.
    """
    options = options or LabelledPackOptions()
    labelled, missing = find_labelled(pictures, maps)
    if missing and options.on_missing != "skip":
        raise DataError(
            f"{missing[0]}: no label map and no masks ({len(missing)} such pictures): add them, or leave such pictures out "
            "(--on-missing skip)"
        )
    report = LabelledPackReport(left_out=len(missing), messages=[f"{path}: no labels" for path in missing[:3]])
    every = round(1 / options.held_out) if options.held_out else 0
    with ExitStack() as stack:
        train = stack.enter_context(_writer(out, options))
        held = stack.enter_context(_writer(out / HELD_OUT, options)) if every else train
        for number, ready in enumerate(_prepared(labelled, options)):
            if isinstance(ready, DataError):
                report.left_out += 1
                report.messages = [*report.messages, str(ready)][:5]
            else:
                kept = bool(every) and number % every == every - 1
                report.held_out, report.written = report.held_out + kept, report.written + (not kept)
                picture, labels = ready
                (held if kept else train).add(picture, 0, **{FIELD: labels})
            if progress is not None:
                progress(number + 1, len(labelled))
    return report


def _writer(folder: Path, options: LabelledPackOptions) -> FaceSetWriter:
    size = options.size, options.size
    return FaceSetWriter(folder, 1, size, fields={FIELD: KNOWN[FIELD]}, layout="plain")


def _prepared(
    labelled: Sequence[Labelled], options: LabelledPackOptions
) -> Iterator[tuple[bytes, np.ndarray] | DataError]:
    """Encoded pictures and their maps in order, made ahead on threads."""

    def work(one: Labelled) -> tuple[bytes, np.ndarray] | DataError:
        image, labels = read_labelled(one, options.numbering)
        try:
            image, labels = fit(image, labels, options.size, options.align)
        except DataError as error:
            problem = DataError(f"{one.picture}: {error}")
            if options.on_missing == "skip":
                return problem
            raise problem from error
        return encode_jpeg(image, quality=options.quality), labels

    with ThreadPoolExecutor(options.threads or default_threads()) as pool:
        rest = iter(labelled)
        while chunk := list(islice(rest, 64)):
            yield from pool.map(work, chunk)


def fit(image: np.ndarray, labels: np.ndarray, size: int, align: bool) -> tuple[np.ndarray, np.ndarray]:
    """Picture uint8 [H, W, 3] and labels uint8 [h, w] at size x size; outside an aligned picture: black, and 255.

    Raises DataError: a picture that is not square and not to be aligned, or whose labels do not show eyes and mouth.
    """
    if not align:
        if image.shape[0] != image.shape[1]:
            raise DataError(f"{image.shape[1]}x{image.shape[0]}: not square; cut it, or have it aligned (--align)")
        return resize_image(image, (size, size)), resize_map(labels, (size, size))
    labels = resize_map(labels, image.shape[:2])
    corners = template(size)[[0, 1, 3, 4]]
    points = face_points(labels)
    matrix = umeyama(points, corners)
    moved = cv2.warpAffine(labels, matrix, (size, size), flags=cv2.INTER_NEAREST, borderValue=(IGNORE,))
    shrink = max(1, int(1 / np.linalg.norm(matrix[0, :2])))
    if shrink == 1:
        return warp(image, matrix, size), moved
    height, width = (side // shrink for side in image.shape[:2])
    small = resize_image(image[: height * shrink, : width * shrink], (height, width))  # bilinear alone would alias
    return warp(small, umeyama((points + 0.5) / shrink - 0.5, corners), size), moved


def face_points(labels: np.ndarray) -> np.ndarray:
    """Middle of the left and right eye and corners of the mouth, (x, y) in pixels, as a label map [H, W] shows them:
    float64 [4, 2], left first as seen in the picture. Eyes behind glasses: the middle of either half of the glasses.

    Raises DataError where eyes or mouth are not shown.
    """
    eyes = [np.argwhere(labels == label) for label in _EYES]
    if not all(len(eye) for eye in eyes):
        glasses = np.argwhere(labels == _GLASSES)
        right = glasses[:, 1] > glasses[:, 1].mean() if len(glasses) else np.zeros(0, bool)
        eyes = [glasses[~right], glasses[right]]
    mouth = np.argwhere(np.isin(labels, _MOUTH))
    if not all(len(eye) for eye in eyes) or not len(mouth):
        raise DataError("its labels show no two eyes and mouth to align by")
    corners = [mouth[mouth[:, 1] == x].mean(0) for x in (mouth[:, 1].min(), mouth[:, 1].max())]
    middles = sorted((eye.mean(0) for eye in eyes), key=lambda point: float(point[1]))
    return np.array([*middles, *corners])[:, ::-1]
