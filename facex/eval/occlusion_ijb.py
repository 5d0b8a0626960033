"""IJB-B and IJB-C under blocks: pictures are aligned, occluded and embedded, and the 1:1 protocol repeated.

Source: MSML's official IJB script (`--lo`, `--hi`), without its slips: the rates are means over all repeats, where it
draws the last one's, and the last batch is occluded as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from facex.data.occluders import NoOcclusion, Occluder
from facex.errors import DataError, FacexError
from facex.eval.ijb import IJB_FARS, verify_templates
from facex.eval.ijb_files import Faces, IjbLists
from facex.eval.occlusion_input import KeyedGenerators, OccludedView
from facex.eval.occlusion_metrics import Mean, mean_interval
from facex.eval.ranks import Share, raise_everywhere
from facex.eval.roc import TarRule
from facex.eval.templates import insightface_templates
from facex.inference.align import align
from facex.inference.embed import embed_batch, evaluation_mode
from facex.methods import Method
from facex.methods.method import Nets

Load = Callable[[int], np.ndarray]


@dataclass
class OccludedIjb:
    """TAR by FAR and the area under the ROC, each over the repeats (float64 [repeats])."""

    tars: dict[float, np.ndarray]
    aucs: np.ndarray

    def tar(self, far: float) -> Mean:
        """Mean over the repeats with its 95 % interval."""
        return mean_interval(self.tars[far])


def face_loader(images: str | Path, faces: Faces, size: int = 112) -> Load:
    """Reads a face of the list from the folder `images` and aligns it: entry -> uint8 [size, size, 3] RGB.

    The loader raises DataError naming the picture that is missing or does not decode, and its line in the list."""
    folder = Path(images)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; it must hold the pictures of the list (loose_crop)")

    def load(entry: int) -> np.ndarray:
        path = folder / faces.names[entry]
        bgr = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if path.is_file() else None
        if bgr is None:
            what = "does not decode" if path.is_file() else "is missing"
            raise DataError(f"{path} (line {entry + 1} of the list of faces) {what}")
        return np.ascontiguousarray(align(bgr, faces.landmarks[entry], size)[..., ::-1])

    return load


def embed_occluded(
    method: Method,
    nets: Nets,
    load: Load,
    count: int,
    occluder: Occluder,
    repeat: int = 0,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    flip: bool = True,
) -> np.ndarray:
    """Raw embeddings of `count` faces under an occluder, float32 [count, D], the mirrored view fused by the method
    (which sees the same occlusion mirrored, as in the official script). Every rank takes its share and has all rows."""
    share, view = Share.of(count), OccludedView(occluder)
    generators = KeyedGenerators(seed, repr(occluder), repeat, mirrored=False)
    parts, error = [], None
    with evaluation_mode(method, nets):
        for offset in range(0, share.size, batch_size):
            start, stop = share.first + offset, min(share.first + offset + batch_size, share.last)
            used = start < stop
            start, stop = (start, stop) if used else (share.total - 1, share.total)
            try:
                images, _ = view(np.stack([load(i) for i in range(start, stop)]), generators, start)
            except FacexError as failure:
                if share.world == 1:
                    raise
                error = error or failure
                images = np.zeros((1, method.input.height, method.input.width, 3), np.uint8)
            vector = embed_batch(method, nets, images, "rgb", device, flip).vector
            parts.append(vector if used else vector[:0])
    raise_everywhere(error, share.world)
    return share.gather(torch.cat(parts), device).numpy()


def verify_occluded(
    method: Method,
    nets: Nets,
    lists: IjbLists,
    load: Load,
    occluder: Occluder | None = None,
    repeats: int = 10,
    *,
    seed: int = 0,
    fars: Sequence[float] = IJB_FARS,
    rule: TarRule = "nearest",
    detector_scores: bool = True,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    flip: bool = True,
) -> OccludedIjb:
    """IJB's 1:1 protocol under `occluder` (`Block(lo, hi, fill)`; None: clean, once), insightface's N1 D1 F2.

    Raises DataError for pictures that are missing, embeddings that are NaN, and fewer than one repeat."""
    if repeats < 1:
        raise DataError(f"{repeats} repeats: at least one is needed")
    faces = lists.faces
    weights = faces.scores if detector_scores else None
    found = []
    for repeat in range(repeats if occluder is not None else 1):
        rows = embed_occluded(
            method, nets, load, len(faces.names), occluder or NoOcclusion(), repeat,
            seed=seed, device=device, batch_size=batch_size, flip=flip,
        )  # fmt: skip
        pooled = insightface_templates(rows, faces.templates, faces.media, detector_scores=weights)
        found.append(verify_templates(pooled, lists.first, lists.second, lists.issame, fars=fars, rule=rule))
    return OccludedIjb(
        {far: np.array([r.tar[far] for r in found]) for far in found[0].tar}, np.array([r.auc for r in found])
    )
