"""What MSML does with a batch on the device: the network's input, the mask, and the clean picture for a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from facex.data.draws import Draws
from facex.data.occluders import OCCLUDERS
from facex.data.transforms import Transform
from facex.errors import ConfigError
from facex.methods import Batch, Field, InputSpec
from facex_msml.samples import Numbers, clean_pixels, grey, keyed_light, keyed_texture, light, resize, texture


class KeepOriginal(Transform):
    """Keep the picture as it is now as the field `original`, which occluders leave alone and flips move along: what a
    teacher sees. It stands before `Occlude`."""

    on_host = True  # so that `Occlude` behind it still works in the loader's reading thread

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        kinds = {**batch.kinds, "original": Field("image")}
        return replace(batch, fields={**batch.fields, "original": batch["image"].clone()}, kinds=kinds)


@dataclass(frozen=True)
class Preparation:
    """The published steps from an occluded, flipped uint8 batch to what the networks read.

    input: what the recognition branch reads. gray: one channel. light, texture: whether those steps are taken (texture: on
    rows whose occluder is a face mask).
    """

    input: InputSpec
    gray: bool = False
    light: bool = True
    texture: bool = True

    def __call__(self, batch: Batch, numbers: Numbers) -> Batch:
        """image float32 [b, C, H, W]; occlusion, where there is one, uint8 [b, H, W] of the same size, 255 = occluded;
        original, where there is one, as image but without light and texture."""
        height, width = self.input.height, self.input.width
        twin = masked_rows(batch)
        pixels = self._pixels(batch["image"], batch.color)
        fields: dict[str, Tensor] = {}
        if self.light:
            pixels = light(pixels, *keyed_light(numbers, height, width))
        if "occlusion" in batch:
            clean = clean_pixels(batch["occlusion"], height, width, twin)
            fields["occlusion"] = (~clean).to(torch.uint8) * 255
            if self.texture and twin is not None:
                drawn = texture(keyed_texture(numbers, height, width), height, width, pixels.shape[1])
                pixels = pixels - drawn * (~clean & twin[:, None, None])[:, None]
        if "original" in batch:
            fields["original"] = self._normalised(self._pixels(batch["original"], batch.color))
        return batch.with_fields(image=self._normalised(pixels), **fields)

    def _pixels(self, images: Tensor, color: str) -> Tensor:
        """uint8 [b, H, W, 3] -> float32 [b, C, height, width] in 0..1."""
        if self.gray:
            images = grey(images, color)
        elif color != self.input.color:
            images = images.flip(3)
        return resize(images, self.input.height, self.input.width).permute(0, 3, 1, 2).float() / 255

    def _normalised(self, pixels: Tensor) -> Tensor:
        mean, std = (
            pixels.new_tensor(v[: pixels.shape[1]]).view(1, -1, 1, 1) for v in (self.input.mean, self.input.std)
        )
        return ((pixels * 255 - mean) / std).contiguous()


def masked_rows(batch: Batch) -> Tensor | None:
    """Rows whose occluder is a face mask, bool [b]: drawn by `Occlude`, or an offline-drawn twin; None where nothing tells."""
    rows = batch.fields.get("twin")
    if "occluder" in batch:
        drawn = batch["occluder"] == OCCLUDERS.index("mask")
        rows = drawn if rows is None else rows | drawn
    return rows


def complete_input(input: InputSpec | None, gray: bool, backbone_options: Mapping[str, Any] | None) -> InputSpec:
    """What the network reads: `input`, or else the published one at the network's own size (`input_size`)."""
    options = dict(backbone_options or {})
    if input is not None:
        if gray and len(set(zip(input.mean, input.std, strict=True))) != 1:
            raise ConfigError("lightcnn reads grey pictures: input.mean and input.std must be alike in all channels")
        return input
    size = options.get("input_size", 128 if gray else 112)
    height, width = (size, size) if isinstance(size, int) else size
    return InputSpec(height, width, "rgb", (0.0,) * 3, (255.0,) * 3) if gray else InputSpec(height, width)
