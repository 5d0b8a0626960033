"""Pictures of what a method believes to be occluded, and of how its stages mask their features (MSML's `--vis`).

A method shows its segmentation as the map `occlusion` of its Embedding (see `facex.eval.segmentation`). It may have a
method `explain(images, nets)` that returns a dict with that map and, for each stage under a label such as `56_mul`,
`LABEL/features`, `LABEL/mask` and `LABEL/purified`, float [B, C, H, W]: the map before masking, the mask, and their
arithmetic before skip and peer terms.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from facex.data.verification import OnError, VerificationSet
from facex.errors import ConfigError, DataError
from facex.eval import plots
from facex.eval.occlusion import OcclusionProtocol
from facex.eval.occlusion_input import KeyedGenerators
from facex.eval.segmentation import OCCLUSION_MAP, is_occluded, resize_masks
from facex.files import atomic_path
from facex.inference.embed import embed_batch, evaluation_mode
from facex.methods import Method
from facex.methods.method import Nets

TRUE, PREDICTED = (255, 196, 0), (224, 32, 64)  # RGB
_SHADE = (0.7, 0.3)  # of clean and occluded positions on the colour scale, as the official pictures have them
_DPI = 300


@dataclass
class Shown:
    """Pictures uint8 [n, H, W, 3] RGB as a network saw them, the true and (where the method has it) the predicted
    occlusion, bool [n, h, w], and all further maps."""

    images: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray | None
    maps: dict[str, np.ndarray]


def show(
    method: Method,
    nets: Nets,
    one: VerificationSet,
    protocol: OcclusionProtocol,
    entry: int,
    condition: str,
    device: torch.device | str = "cpu",
    on_error: OnError = "raise",
) -> Shown:
    """One picture of a set under the condition of that name, occluded as in the evaluation's first repeat.

    Raises ConfigError for an unknown condition or an entry that is not there.
    """
    known = {c.name: c for c in protocol.conditions()}
    if condition not in known:
        raise ConfigError(f"no condition {condition!r}; there are {', '.join(known)}")
    if not 0 <= entry < len(one.entries):
        raise ConfigError(f"{one.path or one.name}: no entry {entry}; there are 0 to {len(one.entries) - 1}")
    images = one.decode("rgb", on_error=on_error, start=entry, stop=entry + 1)
    view = protocol.view(known[condition], images.shape[1:3], method.input)
    images, masks = view(images, KeyedGenerators(protocol.seed, condition, 0, mirrored=False), entry)
    if protocol.grey:
        images = np.repeat(images[..., None], 3, 3)
    explain = getattr(method, "explain", None)
    with evaluation_mode(method, nets):
        if explain is None:
            maps = embed_batch(method, nets, images, "rgb", device, maps=True).maps
        else:
            maps = explain(method.input.to_tensor(torch.from_numpy(images).to(device), "rgb"), nets)
    arrays = {name: values.detach().cpu() for name, values in maps.items()}
    found = arrays.pop(OCCLUSION_MAP, None)
    predicted = None if found is None else is_occluded(_array(found))
    return Shown(images, masks > 0, predicted, {name: _array(values) for name, values in arrays.items()})


def mask_picture(occluded: np.ndarray) -> np.ndarray:
    """A mask bool [H, W] as the official pictures draw it: uint8, white = clean."""
    return np.where(occluded, 0, 255).astype(np.uint8)


def overlay(image: np.ndarray, occluded: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """`image` uint8 [H, W, 3] RGB, half covered with `color` where the mask (bool [h, w], resized) says so."""
    mask = resize_masks(occluded[None].astype(np.uint8), *image.shape[:2])[0] > 0
    paint = (image.astype(np.int32) + np.array(color)) // 2
    return np.where(mask[..., None], paint, image).astype(np.uint8)


def gallery(
    method: Method,
    nets: Nets,
    one: VerificationSet,
    protocol: OcclusionProtocol,
    entries: Sequence[int],
    device: torch.device | str = "cpu",
    on_error: OnError = "raise",
) -> list[tuple[bytes, str]]:
    """(PNG, caption) of input, true mask and predicted mask side by side, for some entries under up to five conditions;
    empty for a method without an occlusion map."""
    conditions = [c.name for c in protocol.conditions() if c.occluder != "none" and c.ratio != 0]
    chosen = [conditions[i] for i in sorted({*np.linspace(0, len(conditions) - 1, 5).round().astype(int).tolist()})]
    items = []
    for condition in chosen:
        for entry in entries:
            shown = show(method, nets, one, protocol, entry, condition, device, on_error)
            if shown.predicted is None:
                return []
            face = shown.images[0]
            three = [face, overlay(face, shown.truth[0], TRUE), overlay(face, shown.predicted[0], PREDICTED)]
            items.append((_png(plots.sheet(three)), f"{condition} · entry {entry}"))
    return items


def write_explanation(folder: str | Path, name: str, shown: Shown) -> list[Path]:
    """The official set of pictures into `folder`: `NAME_learned.png` (white = clean), `NAME_truth.png` (the input), and
    for each stage `fm_cm_LABEL.png` (features, mask) and `fm_cp_LABEL.png` (features, purified features).

    Raises DataError for a method that gives neither an occlusion map nor stages, and for stages that do not fit.
    """
    stages = stages_of(shown.maps)
    if shown.predicted is None and not stages:
        raise DataError("the method gives neither an occlusion map nor masked stages: there is nothing to draw")
    files = {f"{name}_truth.png": _png(shown.images[0])}
    if shown.predicted is not None:
        files[f"{name}_learned.png"] = _png(mask_picture(shown.predicted[0]))
    for label, (features, mask, purified) in stages.items():
        shade = _shade(shown.predicted, features.shape)
        files[f"fm_cm_{label}.png"] = scatter(features, mask, shade, "features", "mask")
        files[f"fm_cp_{label}.png"] = scatter(features, purified, shade, "features", "purified features", diagonal=True)
    for file, png in files.items():
        with atomic_path(Path(folder) / file) as temporary:
            temporary.write_bytes(png)
    return [Path(folder) / file for file in files]


def stages_of(maps: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(features, mask, purified) [C, H, W] of the first picture by stage label. Raises DataError for a part that is
    missing or of another shape."""
    parts = ("features", "mask", "purified")
    labels = dict.fromkeys(name.rpartition("/")[0] for name in maps if name.rpartition("/")[2] in parts)
    stages = {}
    for label in labels:
        found = [maps.get(f"{label}/{part}") for part in parts]
        shapes = {None if array is None else array.shape for array in found}
        if None in shapes or len(shapes) > 1 or len(next(iter(shapes)) or ()) != 4:
            raise DataError(f"stage {label}: {', '.join(parts)} of one shape [B, C, H, W] are wanted, not {shapes}")
        stages[label] = (found[0][0], found[1][0], found[2][0])  # type: ignore[index]
    return stages


def scatter(x: np.ndarray, y: np.ndarray, shade: np.ndarray, xlabel: str, ylabel: str, diagonal: bool = False) -> bytes:
    """PNG of every element of `y` over the same of `x` (one shape), coloured by `shade` 0..1; `diagonal` draws y =
    x."""
    with plots.single_figure(5.2, 4.6) as (figure, axes):
        axes.scatter(x.ravel(), y.ravel(), 2, shade.ravel(), vmin=0, vmax=1, cmap="viridis", linewidths=0)
        if diagonal:
            ends = [float(x.min()), float(x.max())]
            axes.plot(ends, ends, "r--", linewidth=1)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=_DPI, metadata={"Software": "facex"})
    return out.getvalue()


def _shade(predicted: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """The colour of every element of a stage [C, H, W] by the predicted mask."""
    if predicted is None:
        return np.full(shape, _SHADE[0])
    mask = resize_masks(predicted[:1].astype(np.uint8), *shape[1:])[0] > 0
    return np.broadcast_to(np.where(mask, _SHADE[1], _SHADE[0]), shape)


def _array(values: torch.Tensor) -> np.ndarray:
    """As NumPy, floats of any width as float32."""
    return (values.float() if values.is_floating_point() else values).numpy()


def _png(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] RGB or [H, W]."""
    bgr = image[..., ::-1] if image.ndim == 3 else image
    return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
