"""Occluding batches of 112 px faces on one CPU core: the whole MSML policy, each occluder alone, and face masks.

The peer of the policy is the same policy as a data set's `__getitem__` would do it, one picture at a time: OpenCV draws the shapes, Pillow
resizes and pastes RGBA pictures, a mask is a flat texture moved by cv2.warpPerspective and blended with NumPy.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable

import numpy as np
from _rows import parser, row, show

SIDE = 112


def make_batch(size: int):
    """Smooth noise as faces."""
    import cv2
    import torch

    from facex.methods.batch import Batch, Field

    rng = np.random.default_rng(0)
    images = np.stack([cv2.resize(rng.integers(40, 200, (14, 14, 3), np.uint8), (SIDE, SIDE)) for _ in range(size)])
    fields = {"image": torch.from_numpy(images), "label": torch.zeros(size, dtype=torch.int64)}
    kinds = {"image": Field("image"), "label": Field("label")}
    return Batch(fields, kinds, "rgb", torch.arange(size), torch.arange(size))


def ours(transform, batch) -> Callable[[int], None]:
    """The transform on one batch after another."""
    from facex.data.draws import Draws

    return lambda number: transform(batch, Draws(0, number, batch.position)) and None


def plain_policy(policy: dict[str, float], images: np.ndarray) -> Callable[[int], None]:
    """The peer's pass over a batch."""
    from PIL import Image

    from facex.data.masking import cloth
    from facex.data.occluders import Ellipse, Polygon, Rectangle, builtin_assets

    names, shares = list(policy), list(policy.values())
    names, shares = ["none", *names], [1 - sum(shares), *shares]
    shapes = {"rectangle": Rectangle(), "ellipse": Ellipse(), "polygon": Polygon()}
    kinds = {
        "glasses": ("eyeglasses", (76, 37), 0.3),
        "scarf": ("scarf", (86, 86), 0.6),
        "object": ("object", (82, 82), 0.3),
    }
    pictures = {name: [Image.fromarray(a) for a in builtin_assets(kind)] for name, (kind, _, _) in kinds.items()}
    masks = [(255 * cloth.plain(0, color)).astype(np.uint8) for color in cloth.COLORS]

    def one(image: np.ndarray, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        name = names[rng.choice(len(names), p=shares)]
        if name in shapes:
            return shapes[name].draw(image, rng)
        if name in pictures:
            size, at = kinds[name][1:]
            w, h = (int(side * rng.uniform(0.9, 1.1)) for side in size)
            asset = pictures[name][rng.randint(len(pictures[name]))].resize((w, h), Image.BICUBIC)
            canvas, mask = Image.fromarray(image), Image.new("L", (SIDE, SIDE))
            place = int(0.15 * SIDE), int(at * SIDE)
            canvas.paste(asset, place, asset.getchannel("A").point(lambda a: 255 * (a > 0)))
            mask.paste(255, place, asset.getchannel("A").point(lambda a: 255 * (a > 0)))
            return np.array(canvas), np.array(mask)
        if name == "mask":
            return plain_mask(image, masks[rng.randint(len(masks))], rng)
        return image.copy(), np.zeros((SIDE, SIDE), np.uint8)

    def run(number: int) -> None:
        rng, out, areas = np.random.RandomState(number), np.empty_like(images), np.empty(images.shape[:3], np.uint8)
        for i, image in enumerate(images):
            out[i], areas[i] = one(image, rng)

    return run


def plain_mask(image: np.ndarray, texture: np.ndarray, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """A flat mask: four corners, warpPerspective, blending in floating point."""
    import cv2

    h, w = texture.shape[:2]
    corners = np.float32([(0, 0), (w, 0), (w, h), (0, h)])
    target = np.float32([(25, 66), (87, 66), (78, 104), (34, 104)]) + rng.uniform(-3, 3, (4, 2)).astype(np.float32)
    seen = cv2.warpPerspective(texture, cv2.getPerspectiveTransform(corners, target), (SIDE, SIDE))
    alpha = seen[..., 3:].astype(np.float32) / 255
    mixed = image * (1 - alpha) + seen[..., :3] * alpha
    return mixed.astype(np.uint8), np.where(seen[..., 3] >= 128, 255, 0).astype(np.uint8)


def speed(run: Callable[[int], None], batches: int, size: int) -> float:
    """Images per second of CPU time, the best batch: another program beside the benchmark must not count."""
    run(0)
    best = float("inf")
    for number in range(1, batches + 1):
        start = time.process_time()
        run(number)
        best = min(best, time.process_time() - start)
    return size / best


def main() -> None:
    """Parse the command line, measure, print."""
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--batches", type=int, default=10, help="batches a measurement; the fastest counts")
    arguments = options.parse_args()
    if importlib.util.find_spec("cv2") is None:
        print("no OpenCV here: neither the peer nor facex.data runs", file=sys.stderr)
        return show([], arguments.json)
    import torch

    from facex.data.masking import MaskFaces
    from facex.data.occluders import OCCLUDERS, POLICIES, Occlude

    torch.set_num_threads(1)
    batch = make_batch(arguments.batch)
    size = arguments.batches, arguments.batch
    images = batch["image"].numpy()
    pillow = importlib.util.find_spec("PIL") is not None
    peer_name = "OpenCV, Pillow and NumPy, one picture at a time"

    def measure(case: str, transform, policy: dict[str, float] | None) -> dict:
        peer = speed(plain_policy(policy, images), *size) if pillow and policy is not None else None
        value = speed(ours(transform, batch), *size)
        return row(case, "cpu, 1 core", "images_per_second", value, peer, peer_name, more_is_better=True)

    rows = [measure("policy ms1m", Occlude("ms1m"), POLICIES["ms1m"])]
    rows += [measure(f"{name} on every picture", Occlude({name: 1.0}), None) for name in OCCLUDERS[1:-1]]
    rows.append(measure("mask on every picture", MaskFaces(1.0), None))
    show(rows, arguments.json)


if __name__ == "__main__":
    main()
