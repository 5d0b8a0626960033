"""Running the occlusion protocol: pictures are decoded once, and of every pass only the distances of the pairs are
kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from facex.data.verification import OnError, VerificationSet
from facex.errors import DataError, FacexError
from facex.eval.folds import fold_bounds
from facex.eval.occlusion import Condition, OcclusionCurve, OcclusionPoint, OcclusionProtocol
from facex.eval.occlusion_input import KeyedGenerators
from facex.eval.occlusion_metrics import equal_error_accuracy
from facex.eval.ranks import Share, raise_everywhere, sum_everywhere
from facex.eval.run import FARS
from facex.eval.segmentation import OCCLUSION_MAP, RegionCounts, is_occluded, resize_masks
from facex.eval.verification import evaluate_distances, normalize_rows, squared_distances
from facex.inference.embed import embed_batch, evaluation_mode
from facex.methods import Embedding, Method
from facex.methods.method import Nets


def evaluate_occlusion(
    method: Method,
    nets: Nets,
    one: VerificationSet,
    protocol: OcclusionProtocol,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    flip: bool = True,
    folds: int = 10,
    fars: Sequence[float] = FARS,
    on_error: OnError = "raise",
    uneven_folds: bool = False,
) -> OcclusionCurve:
    """One network on one set under every condition of `protocol`, equal on every rank.

    Squared distances of normalised embeddings, as `evaluate_pairs`. The mirrored view is fused as the method does, but
    where it has an occlusion of its own: then the raw vectors of both views are added. With torch.distributed every
    rank must call it and takes its share of the pairs. Memory: a batch of pictures, and 8 bytes a pair, condition and
    repeat. Raises VerificationSetError for folds that cannot be made, DataError for embeddings that are NaN.
    """
    try:
        fold_bounds(len(one), folds, uneven_folds)
    except FacexError as error:
        raise type(error)(f"{one.path or one.name}: {error}") from None
    run = _Run(method, nets, one, protocol, device, flip, on_error)
    with evaluation_mode(method, nets):
        run.all_pairs(max(batch_size // 2, 1))
    points = [_point(one, tally, folds, fars, uneven_folds) for tally in run.gathered()]
    return OcclusionCurve(one.name, protocol, points)


def _point(
    one: VerificationSet, tally: _Tally, folds: int, fars: Sequence[float], uneven_folds: bool
) -> OcclusionPoint:
    try:
        results = [
            evaluate_distances(d, one.issame, folds, fars=fars, val_far=None, uneven_folds=uneven_folds)
            for d in tally.distances
        ]
    except DataError as error:
        raise DataError(
            f"{one.path or one.name}, {tally.condition.name}: {error}; the network is broken, or its precision overflows"
        ) from None
    both_kinds = bool(one.issame.any() and not one.issame.all())
    return OcclusionPoint(
        tally.condition,
        np.array([r.accuracy for r in results]),
        {far: np.array([r.tar_at_far[far] for r in results]) for far in results[0].tar_at_far},
        np.array([equal_error_accuracy(r.scores, one.issame) for r in results] if both_kinds else []),
        float(tally.area[0] / max(tally.area[1], 1)),
        tally.counts.iou() if tally.counts.pixels.any() else None,
    )


@dataclass
class _Tally:
    """What one condition has gathered: distances float64 [repeats, pairs], region counts, (occluded, all) pixels."""

    condition: Condition
    distances: np.ndarray
    counts: RegionCounts = field(default_factory=RegionCounts)
    area: np.ndarray = field(default_factory=lambda: np.zeros(2))


class _Run:
    """One network over this rank's share of the pairs."""

    def __init__(
        self,
        method: Method,
        nets: Nets,
        one: VerificationSet,
        protocol: OcclusionProtocol,
        device: torch.device | str,
        flip: bool,
        on_error: OnError,
    ) -> None:
        self.method, self.nets, self.one, self.protocol = method, nets, one, protocol
        self.device, self.flip, self.on_error = device, flip, on_error
        self.share = Share.of(len(one))
        own = self.share.last - self.share.first
        self.tallies = [_Tally(c, np.empty((c.repeats, own))) for c in protocol.conditions()]
        self.error: FacexError | None = None

    def all_pairs(self, step: int) -> None:
        """Every condition on `step` pairs at a time; every rank makes the same number of forward passes."""
        share = self.share
        for offset in range(0, share.size, step):
            start, stop = share.first + offset, min(share.first + offset + step, share.last)
            used = start < stop
            if not used:  # this rank's share is done: repeat a pair to keep step with the others
                start, stop = share.total - 1, share.total
            images = self._decode(start, stop)
            for tally in self.tallies:
                for repeat in range(tally.condition.repeats):
                    rows = self._embed(tally if used else None, tally.condition, images, 2 * start, repeat)
                    if used:
                        place = slice(start - share.first, stop - share.first)
                        tally.distances[repeat, place] = squared_distances(rows[0::2], rows[1::2])

    def _decode(self, start: int, stop: int) -> np.ndarray:
        try:
            return self.one.decode("rgb", on_error=self.on_error, start=2 * start, stop=2 * stop)
        except FacexError as failure:
            self._failed(failure)
            return np.zeros((2 * (stop - start), self.method.input.height, self.method.input.width, 3), np.uint8)

    def _embed(
        self, tally: _Tally | None, condition: Condition, images: np.ndarray, first: int, repeat: int
    ) -> np.ndarray:
        """Normalised embeddings of the pictures under one condition, float64 [n, D]; counts go to `tally`."""
        plain = condition.occluder == "none" or condition.ratio == 0
        own_flip = self.flip and not plain and self.protocol.flip_occlusion == "independent"
        shown, masks = self._view(condition, images, first, repeat, mirrored=False)
        found = embed_batch(self.method, self.nets, shown, "rgb", self.device, self.flip and not own_flip, maps=True)
        vector = found.vector
        if own_flip:
            other, _ = self._view(condition, images, first, repeat, mirrored=True)
            vector = vector + embed_batch(self.method, self.nets, other, "rgb", self.device).vector
        if tally is not None:
            try:
                self._count(tally, masks, found)
            except FacexError as failure:
                self._failed(failure)
        return normalize_rows(vector.numpy())

    def _view(
        self, condition: Condition, images: np.ndarray, first: int, repeat: int, mirrored: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        view = self.protocol.view(condition, images.shape[1:3], self.method.input)
        generators = KeyedGenerators(self.protocol.seed, condition.name, repeat, mirrored)
        try:
            shown, masks = view(images, generators, first, mirrored)
        except FacexError as failure:
            self._failed(failure)
            return images, np.zeros(images.shape[:3], np.uint8)
        return (np.repeat(shown[..., None], 3, 3) if self.protocol.grey else shown), masks

    def _count(self, tally: _Tally, masks: np.ndarray, found: Embedding) -> None:
        occluded = masks if self.protocol.both else masks[0::2]
        tally.area += (np.count_nonzero(occluded), occluded.size)
        own = found.maps.get(OCCLUSION_MAP)
        if own is not None:
            predicted = is_occluded((own.float() if own.is_floating_point() else own).numpy())
            tally.counts.add(predicted, resize_masks(masks, *predicted.shape[1:]) > 0)

    def _failed(self, failure: FacexError) -> None:
        """Alone, raise at once; among ranks, go on in step with the others and raise at the end."""
        self.error = self.error or failure
        if self.share.world == 1:
            raise failure

    def gathered(self) -> list[_Tally]:
        """The tallies of all ranks together. Raises the first error of any rank."""
        raise_everywhere(self.error, self.share.world)
        columns = torch.from_numpy(np.concatenate([t.distances for t in self.tallies]).T.copy())
        rows = self.share.gather(columns, self.device).numpy().T
        pixels = np.array([t.counts.pixels for t in self.tallies])
        areas = np.array([t.area for t in self.tallies])
        pixels = sum_everywhere(torch.from_numpy(pixels), self.device).numpy()
        areas = sum_everywhere(torch.from_numpy(areas), self.device).numpy()
        result, at = [], 0
        for tally, counted, area in zip(self.tallies, pixels, areas, strict=True):
            repeats = tally.condition.repeats
            result.append(_Tally(tally.condition, rows[at : at + repeats], RegionCounts(counted), area))
            at += repeats
        return result
