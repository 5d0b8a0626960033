"""`MaskFaces`: face masks as a transform of the training data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from facex.data.draws import Draws
from facex.data.masking.occluder import FaceMask
from facex.data.occluders.assets import load_folder
from facex.data.occluders.occlude import cover_rows, device_images, existing_mask, face_points, host_images
from facex.data.transforms import Transform
from facex.errors import ConfigError
from facex.methods.batch import Batch, Field


class MaskFaces(Transform):
    """Put a face mask on each picture with probability `p`.

    `landmarks`: the points field (68 or 5 points a face) by which masks are placed; unset: the first such field of the
    data, and where there is none the pictures are taken for aligned ArcFace crops. `templates`, `colored`: see
    `FaceMask`. `textures`: a folder of RGBA PNG files in place of the built-in textures. `field`: the image field.

    Sets the fields "occlusion" (mask, 255 = mask; one that was there is kept and added to) and `flag` (bool, wears a
    mask; likewise). The draws of a sample depend on its place in the run alone. The work is done on the host: put this
    transform first, then it runs in the loader's reading thread.
    """

    on_host = True

    def __init__(
        self,
        p: float = 0.1,
        landmarks: str | None = None,
        textures: str | None = None,
        templates: list[str] | None = None,
        colored: float | None = None,
        flag: str = "flag",
        field: str = "image",
    ) -> None:
        if not 0 <= p <= 1:
            raise ConfigError(f"MaskFaces: p={p} is no probability")
        self.p, self.landmarks, self.flag, self.field = p, landmarks, flag, field
        self._mask = FaceMask(None if textures is None else load_folder(textures), templates, colored)

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        images = host_images(batch, self.field)
        occlusion = existing_mask(batch, images)
        chosen = (draws.uniform("masked") < self.p).cpu()
        rows = np.where(chosen.numpy(), 0, -1)
        cover_rows(rows, [self._mask], images, occlusion, batch, draws, face_points(batch, self.landmarks))
        device = batch.position.device
        flags = chosen.to(device)
        if self.flag in batch:
            flags = flags | batch[self.flag].bool()
        fields = {
            self.field: device_images(images, batch),
            "occlusion": torch.from_numpy(occlusion).to(device),
            self.flag: flags,
        }
        kinds = {"occlusion": Field("mask"), self.flag: Field("flag"), **batch.kinds}
        return replace(batch, fields={**batch.fields, **fields}, kinds=kinds)

    def __repr__(self) -> str:
        return f"MaskFaces(p={self.p}, landmarks={self.landmarks!r}, flag={self.flag!r}, {self._mask!r})"
