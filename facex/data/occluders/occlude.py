"""`Occlude`: a policy of occluders as a transform of the training data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from facex.data.draws import Draws
from facex.data.occluders.base import Occluder, check_image
from facex.data.occluders.policy import OCCLUDERS, check_policy, make_occluder
from facex.data.transforms import Transform
from facex.errors import ConfigError, DataError
from facex.methods.batch import Batch, Field

_COUNTS = (68, 5)  # points a face


def host_images(batch: Batch, name: str) -> np.ndarray:
    """A writable copy of the images of field `name` on the host, RGB: uint8 [b, H, W, 3]. Raises ConfigError where there
    is no such image field, DataError for a picture that occluders cannot cover."""
    if name not in batch or batch.kinds[name].kind != "image":
        known = [field for field, kind in batch.kinds.items() if kind.kind == "image"]
        raise ConfigError(f"there is no image field {name!r} to occlude (image fields: {', '.join(known) or 'none'})")
    images: np.ndarray = batch[name].detach().cpu().numpy()
    if len(images):
        check_image(images[0])
    return np.ascontiguousarray(images[..., ::-1]) if batch.color == "bgr" else images.copy()


def device_images(images: np.ndarray, batch: Batch) -> Tensor:
    """The opposite of `host_images`: in the batch's colour order and on its device."""
    ordered = np.ascontiguousarray(images[..., ::-1]) if batch.color == "bgr" else images
    return torch.from_numpy(ordered).to(batch.position.device)


def existing_mask(batch: Batch, images: np.ndarray) -> np.ndarray:
    """A writable copy of the field "occlusion" uint8 [b, H, W], zeros where there is none. DataError for another size."""
    if "occlusion" not in batch:
        return np.zeros(images.shape[:3], np.uint8)
    mask = batch["occlusion"].detach().cpu().numpy()
    if mask.dtype != np.uint8 or mask.shape != images.shape[:3]:
        raise DataError(
            f"the field 'occlusion' has {mask.dtype} {list(mask.shape)}, the images need uint8 {list(images.shape[:3])}: "
            "masks and images must have one size"
        )
    return mask.copy()


def face_points(batch: Batch, name: str | None = None) -> np.ndarray | None:
    """Landmarks [b, 68, 2] or [b, 5, 2] of the points field `name`; unset: of the first with 68, or else with 5 points, or
    None. Raises ConfigError for a field of another kind."""
    found = {
        each: int(batch[each].shape[1]) for each, kind in batch.kinds.items() if kind.kind == "points" and each in batch
    }
    if name is None:
        name = next((each for count in _COUNTS for each, n in found.items() if n == count), None)
    if name is None:
        return None
    if found.get(name) not in _COUNTS:
        raise ConfigError(
            f"landmarks={name!r} is no field of 68 or 5 points (point fields: {found or 'none'}); "
            "add it to data.fields, or leave landmarks unset for aligned crops"
        )
    points: np.ndarray = batch[name].detach().cpu().numpy()
    return points


def cover_rows(
    rows: np.ndarray,
    occluders: list[Occluder],
    images: np.ndarray,
    mask: np.ndarray,
    batch: Batch,
    draws: Draws,
    landmarks: np.ndarray | None,
) -> None:
    """Occlude `images` [b, H, W, 3] and `mask` [b, H, W] in place, row by row with a generator of its own: row r by
    `occluders[rows[r]]`, if rows[r] is not negative. A DataError names the sample."""
    seeds = draws.bits("seed").cpu().numpy()
    rng = np.random.RandomState()
    for row in np.nonzero(rows >= 0)[0]:
        value = int(seeds[row]) & 0xFFFFFFFFFFFFFFFF
        rng.seed([value & 0xFFFFFFFF, value >> 32])
        try:
            occluders[rows[row]].cover_on(images[row], mask[row], rng, None if landmarks is None else landmarks[row])
        except DataError as error:
            raise DataError(f"sample {int(batch.index[row])} of the data: {error}") from error


class Occlude(Transform):
    """Occlude each picture with at most one occluder, drawn by `policy`.

    `policy`: "ms1m", "casia", "realistic", "uniform", or probabilities by occluder ({glasses: 0.1, hand: 0.05}); what is
    left to 1 stays untouched. `assets`: folders of RGBA PNG files by occluder ({glasses: my_glasses}), in place of the
    built-in pictures. `field`: the image field that is occluded; other images, label maps and points stay as they are.
    Face masks are placed by the first field of 68 or 5 points; where there is none the pictures are taken for aligned
    ArcFace crops.

    Sets the fields "occlusion" (mask, 255 = occluded; a mask that was there is kept and added to) and "occluder" (label,
    a place in `facex.data.occluders.OCCLUDERS`, 0 = none). The draws of a sample depend on its place in the run alone.
    The work is done on the host: put this transform first, then it runs in the loader's reading thread.
    """

    on_host = True

    def __init__(
        self,
        policy: str | dict[str, float] = "ms1m",
        assets: dict[str, str | list[str]] | None = None,
        field: str = "image",
    ) -> None:
        self.shares = check_policy(policy)
        self.field = field
        unused = sorted(set(assets or {}) - set(self.shares))
        if unused:
            raise ConfigError(f"Occlude: assets are given for {', '.join(unused)}, which the policy never takes")
        self._occluders: list[Occluder] = [
            make_occluder(name, (assets or {}).get(name)) for name in self.shares if name != "none"
        ]
        self._codes = np.array([OCCLUDERS.index(name) for name in self.shares])
        self._bounds = np.cumsum(list(self.shares.values()))[:-1]

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        images = host_images(batch, self.field)
        mask = existing_mask(batch, images)
        chosen = np.searchsorted(self._bounds, draws.uniform("occluder").cpu().numpy(), side="right")
        cover_rows(chosen - 1, self._occluders, images, mask, batch, draws, face_points(batch))
        device = batch.position.device
        fields = {
            self.field: device_images(images, batch),
            "occlusion": torch.from_numpy(mask).to(device),
            "occluder": torch.from_numpy(self._codes[chosen]).to(device),
        }
        kinds = {**batch.kinds, "occlusion": batch.kinds.get("occlusion", Field("mask")), "occluder": Field("label")}
        return replace(batch, fields={**batch.fields, **fields}, kinds=kinds)

    def __repr__(self) -> str:
        shares = ", ".join(f"{name}: {share:.3g}" for name, share in self.shares.items())
        return f"Occlude({{{shares}}})"
