"""Packing image folders and lists into a RecordIO training set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from facex.data.dataset import default_threads
from facex.data.decoding import decode_payload
from facex.data.imageio import ImageError, encode_jpeg, encode_png, image_info, resize_image
from facex.data.labels import check_labels, count_classes
from facex.data.sources.files import read_picture
from facex.data.sources.imagefolder import list_image_folder
from facex.data.sources.listfile import read_list
from facex.data.writer import FaceSetWriter
from facex.errors import DataError

Progress = Callable[[int, int], None]  # images written, images in all


@dataclass(frozen=True)
class PackOptions:
    """How pictures go into the set. `size` (height, width): unset, the first picture's, and another size is an error;
    set, others are resized. A picture that has the size and is JPEG or PNG is copied byte for byte unless `encoding`
    asks for a new JPEG (of `quality`) or a PNG."""

    size: tuple[int, int] | None = None
    encoding: Literal["keep", "jpg", "png"] = "keep"
    quality: int = 95
    layout: Literal["insightface", "plain"] = "insightface"
    threads: int = 0  # 0: the cores of this machine


@dataclass(frozen=True)
class PackReport:
    """What was written."""

    folder: Path
    images: int
    classes: int
    size: tuple[int, int]  # height, width
    encoded: int  # pictures that were not copied as they were


def pack(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: PackOptions | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> PackReport:
    """Pack an image folder (a class a subfolder) or a list file (`.lst` of either form, MagFace's list) into the folder
    `out`: train.rec, train.idx, property, facex.json. In insightface's layout images are sorted by class.

    Raises DataError naming the file and line; an unreadable picture stops the packing and leaves no set behind.
    """
    options = options or PackOptions()
    paths, labels, classes = _listing(Path(source), Path(root) if root is not None else None)
    if options.layout == "insightface":
        order = np.argsort(labels, kind="stable")
        paths, labels = [paths[i] for i in order], labels[order]
    size = options.size or _size_of(paths[0])
    encoded = 0
    try:
        with FaceSetWriter(out, classes, size, layout=options.layout) as writer:
            for (data, changed), label in zip(_prepare(paths, size, options), labels.tolist(), strict=True):
                writer.add(data, label)
                encoded += changed
                if progress is not None:
                    progress(len(writer), len(paths))
    except OSError as error:
        raise DataError(f"{out}: cannot write the set: {error}") from error
    return PackReport(Path(out), len(paths), classes, size, encoded)


def _listing(source: Path, root: Path | None) -> tuple[list[str], np.ndarray, int]:
    if source.is_dir():
        paths, labels, names = list_image_folder(source)
        return paths, labels, len(names)
    if not source.exists():
        raise DataError(f"{source}: no such folder or list file")
    paths, values = read_list(source, root)
    labels = check_labels(values, None, lambda row: f"{source}: {paths[row]}")
    return paths, labels, count_classes(labels)


def _size_of(path: str) -> tuple[int, int]:
    try:
        info = image_info(read_picture(path))
    except ImageError as error:
        raise DataError(f"{path}: cannot decode: {error}") from error
    return info.height, info.width


def _prepare(paths: list[str], size: tuple[int, int], options: PackOptions) -> Iterator[tuple[bytes, bool]]:
    """Encoded pictures in the order of `paths`, read and re-encoded ahead on threads, a chunk at a time."""

    def work(path: str) -> tuple[bytes, bool]:
        return _encode(path, size, options)

    with ThreadPoolExecutor(options.threads or default_threads()) as pool:
        rest = iter(paths)
        while chunk := list(islice(rest, 256)):
            yield from pool.map(work, chunk)


def _encode(path: str, size: tuple[int, int], options: PackOptions) -> tuple[bytes, bool]:
    data = read_picture(path)
    try:
        image = decode_payload(data)  # also proves that it decodes
        if image.shape[:2] != size:
            if options.size is None:
                raise ImageError(
                    f"the image is {image.shape[1]}x{image.shape[0]}, expected {size[1]}x{size[0]}: give a size"
                )
            image = resize_image(image, size)
        elif options.encoding == "keep" and image_info(data).format in ("jpeg", "png"):
            return data, False
        as_png = options.encoding == "png"
        return encode_png(image) if as_png else encode_jpeg(image, quality=options.quality), True
    except ImageError as error:
        raise DataError(f"{path}: cannot pack: {error}") from error
