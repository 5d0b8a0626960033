"""Goldens of the augmentations under recorded draws: views of pre-training, RandAugment's ops, the supervised
pipeline."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facex.methods import InputSpec
from facex_lafs.augment import OPS, CropJitterErase, apply_op
from facex_lafs.goldens.common import pictures
from facex_lafs.pictures.draws import Jitter
from facex_lafs.views import CropDraws, CropSettings, to_network


def channels_last(case: Any) -> Tensor:
    """The case's pictures as uint8 [n, H, W, 3]."""
    return pictures(case).permute(0, 2, 3, 1).contiguous()


def jitter_of(event: list[Any] | None) -> Jitter:
    """ColorJitter's recorded draws: [order, brightness, contrast, saturation, hue]."""
    if event is None:
        return Jitter(torch.arange(4)[None], torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
    return Jitter(torch.tensor([event[0]]), torch.tensor([event[1:]], dtype=torch.float64))


def crop_draws(events: list[list[Any]]) -> CropDraws:
    """One view's draws from its events."""
    said = {name: value for name, value in events}
    return CropDraws(
        torch.tensor([said["crop_ijhw"]]),
        torch.tensor(["hflip" in said]),
        torch.tensor(["jitter_order_b_c_s_h" in said]),
        jitter_of(said.get("jitter_order_b_c_s_h")),
        torch.tensor(["grayscale" in said]),
        torch.tensor([said.get("blur_radius", 0.0)]),
        torch.tensor(["solarize" in said]),
    )


def lafs_views(case: Any) -> dict[str, Any]:
    """Every view of every picture, clean and augmented."""
    p, kept = case.params, case.inputs["kept"].tolist()
    settings = CropSettings(InputSpec().height, tuple(p["global_crops_scale"]))
    normalised, bytes_ = [], []
    for image, text in zip(channels_last(case), case.inputs["events"], strict=True):
        events = json.loads(str(text))
        starts = [k for k, (name, _) in enumerate(events) if name == "crop_ijhw"]
        views = []
        for start, end in zip(starts, [*starts[1:], len(events)], strict=True):
            draws = crop_draws(events[start:end])
            clean = settings.clean(image[None], draws)
            views += [clean, settings.augmented(clean, draws)]
        stacked = torch.cat(views)
        bytes_.append(stacked[kept].permute(0, 3, 1, 2).numpy())
        normalised.append(to_network(stacked).numpy())
    return {"views_u8": np.stack(bytes_), "views_fp": np.stack(normalised)}


def op_named(name: str) -> str:
    """The increasing form under which an op is known here."""
    return name if name in OPS else f"{name.removesuffix('Original')}Increasing"


def applied(image: Tensor, name: str, arguments: list[Any], resample: int | None) -> Tensor:
    """One op on one picture [1, H, W, 3] with its recorded argument and sampling."""
    value = torch.tensor([float(arguments[0]) if arguments else 0.0], dtype=torch.float64)
    return apply_op(image, op_named(name), value, torch.tensor([resample or 0]))


def rand_augment(case: Any) -> dict[str, Any]:
    """Each op alone, and the list that ops are drawn from."""
    image = channels_last(case)
    found = {}
    for name, text in zip(case.inputs["names"], case.inputs["events"], strict=True):
        event = json.loads(str(text))
        resample = next((value for kind, value in event["log"] if kind == "resample"), None)
        found[str(name)] = applied(image, str(name), event["args"], resample)[0].numpy()
    return {"out_u8": found, "all_increasing": np.array(OPS)}


def train_pipeline(case: Any) -> dict[str, Any]:
    """Each record through mirror, ops, crop, jitter and erasing."""
    p = case.params
    out = [
        _record(image[None], json.loads(str(text)), p["reverse_channels"], p["crop_size"])
        for image, text in zip(channels_last(case), case.inputs["events"], strict=True)
    ]
    labels = np.arange(len(out), dtype=np.float32) % 3
    return {"out_u8": torch.cat(out).permute(0, 3, 1, 2).numpy(), "labels": labels}


def _record(x: Tensor, events: list[list[Any]], swapped: bool, size: int) -> Tensor:
    said = {name: value for name, value in events if name not in ("op", "resample")}
    if said.get("mirror"):
        x = x.flip(2)
    if swapped:  # the data set's channel order, which the reader undoes
        x = x.flip(3)
    for number, (kind, value) in enumerate(events):
        if kind == "op":
            following: list[Any] = events[number + 1] if number + 1 < len(events) else ["", None]
            resample: int | None = following[1] if following[0] == "resample" else None
            x = applied(x, value[0][-1], value[1], resample)
    if "crop_ijhw" not in said:
        return x
    hole = torch.tensor([said.get("erase_ijhw", [0, 0, 0, 0])])
    crop = torch.tensor([said["crop_ijhw"]])
    return CropJitterErase.apply(x, crop, jitter_of(said.get("jitter_order_b_c_s_h")), hole, size)


KINDS = {
    "lafs/lafs_views": lafs_views,
    "lafs/rand_augment": rand_augment,
    "lafs/train_pipeline": train_pipeline,
}
