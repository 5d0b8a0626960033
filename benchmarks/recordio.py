"""Reading a training set from RecordIO: facex's reader against the loop that a Python data set has (read, imdecode, RGB).

Without `--record` a set is made of smooth noise; with it, the first `--images` pictures of a set of one's own are read.
"""

from __future__ import annotations

import importlib.util
import os
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _rows import parser, row, show


def write_set(folder: Path, images: int) -> Path:
    """A set of smooth noise, 112 x 112, about as heavy to decode as faces."""
    import cv2

    from facex.data import write_face_set
    from facex.data.imageio import encode_jpeg

    rng = np.random.default_rng(0)
    pictures = [cv2.resize(rng.integers(0, 256, (28, 28, 3), np.uint8), (112, 112)) for _ in range(min(images, 256))]
    encoded = [encode_jpeg(picture) for picture in pictures]
    write_face_set(folder, ((encoded[i % len(encoded)], i // 10) for i in range(images)), (images + 9) // 10)
    return folder / "train.rec"


def ours(path: Path, threads: int, images: int, batch: int) -> Callable[[], int]:
    """A pass over the set in shuffled batches."""
    from facex.data import open_dataset

    data = open_dataset(path, threads=threads)
    order = np.random.default_rng(1).permutation(min(len(data), images))
    buffers = data.allocate(batch)

    def run() -> int:
        for start in range(0, len(order) - batch + 1, batch):
            data.read(order[start : start + batch], buffers)
        return len(order) // batch * batch

    return run


def opencv_loop(path: Path, images: int, batch: int) -> Callable[[], int]:
    """The same in Python: seek and read each record, cut the header off, cv2.imdecode, BGR to RGB, stack."""
    import cv2

    from facex.data import open_dataset

    data = open_dataset(path, threads=1)
    offsets = data.file.offsets[data.positions]
    order = np.random.default_rng(1).permutation(min(len(data), images))

    def run() -> int:
        with open(path, "rb") as file:
            for start in range(0, len(order) - batch + 1, batch):
                pictures = []
                for i in order[start : start + batch]:
                    file.seek(int(offsets[i]))
                    length = struct.unpack("<II", file.read(8))[1] & 0x1FFFFFFF
                    record = file.read(length)
                    payload = np.frombuffer(record, np.uint8, offset=24 + 4 * struct.unpack_from("<I", record)[0])
                    pictures.append(cv2.cvtColor(cv2.imdecode(payload, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))
                np.stack(pictures)
        return len(order) // batch * batch

    return run


def speed(run: Callable[[], int], repeats: int) -> float:
    """Images a second, the best of some passes."""
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        done = run()
        best = max(best, done / (time.perf_counter() - start))
    return best


def main() -> None:
    """Parse the command line, measure, print."""
    options = parser(__doc__)
    options.add_argument("--record", type=Path, help="a .rec of 112 x 112 pictures with its .idx; unset: one is made")
    options.add_argument("--images", type=int, default=20_000)
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--repeats", type=int, default=3)
    arguments = options.parse_args()
    if importlib.util.find_spec("cv2") is None:
        print("no OpenCV here: neither the peer nor facex.data runs", file=sys.stderr)
        return show([], arguments.json)
    from facex.data import jpeg_backend

    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.record or write_set(Path(folder), arguments.images)
        size = arguments.images, arguments.batch
        peer = speed(opencv_loop(path, *size), arguments.repeats)
        rows = [
            row(
                f"RecordIO to uint8 RGB batches, {threads} thread{'s' * (threads > 1)}, {jpeg_backend()}",
                f"cpu, {cores} cores",
                "images_per_second",
                speed(ours(path, threads, *size), arguments.repeats),
                peer,
                "read, cv2.imdecode, cvtColor in a Python loop, 1 thread",
                more_is_better=True,
            )
            for threads in sorted({1, cores})
        ]
    show(rows, arguments.json)


if __name__ == "__main__":
    main()
