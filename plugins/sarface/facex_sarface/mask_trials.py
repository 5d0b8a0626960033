"""Verification under the policy's masks, under none, under random ones of the same area, and without one region always.

Pictures are decoded and parsed once; of every mask only the distances of the pairs are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from facex.data.draws import Draws
from facex.data.verification import VerificationSet
from facex.eval.folds import fold_bounds
from facex.eval.occlusion_metrics import Mean, mean_interval
from facex.eval.run import FARS, SetResult
from facex.eval.verification import PairResult, evaluate_distances, normalize_rows, squared_distances
from facex.inference.embed import evaluation_mode
from facex.methods.method import Nets
from facex.ops import region_mask
from facex_sarface.masking import RegionRecogniser
from facex_sarface.method import SARFace
from facex_sarface.pictures import overlays
from facex_sarface.regions import RegionScheme

FULL, MASKED, RANDOM, WITHOUT = "full", "masked", "random masks", "without"


@dataclass(frozen=True)
class TrialOptions:
    """draws: random masks of each picture; seed: of these; ablate: also without each region; shown: pictures kept as overlays."""

    batch_size: int = 64
    flip: bool = True
    folds: int = 10
    draws: int = 5
    seed: int = 0
    ablate: bool = True
    shown: int = 8


@dataclass
class Trials:
    """A set under every mask. `results` by mask: full, masked, "random masks 1" ..., "without REGION" ...; `area` the mean
    share of the pixels that it keeps."""

    name: str
    issame: np.ndarray
    results: dict[str, PairResult]
    area: dict[str, float]
    keep_rate: dict[str, tuple[float, float]]  # by region: share kept of the pictures that show it, share that shows it
    overlays: list[np.ndarray] = field(default_factory=list)  # face, removed regions, what is left: uint8 RGB

    def as_result(self, mask: str) -> SetResult:
        """As the report's tables and charts take it."""
        return SetResult(self.name, self.results[mask], self.issame)

    @property
    def draws(self) -> list[str]:
        """The names of the random masks."""
        return [name for name in self.results if name.startswith(RANDOM)]

    def random(self) -> Mean:
        """Mean accuracy under random masks, with the 95 % interval over the draws."""
        return mean_interval([self.results[name].accuracy for name in self.draws])


def try_masks(
    method: SARFace, nets: Nets, one: VerificationSet, device: torch.device, options: TrialOptions | None = None
) -> Trials:
    """Every mask on a set. The mirrored view has the mirrored mask. Nothing is random but the random masks, whose draws
    depend on (seed, draw, picture) alone.

    Raises VerificationSetError for folds that cannot be made and pictures that do not decode, ConfigError for a method
    without a parser.
    """
    o = options or TrialOptions()
    fold_bounds(len(one), o.folds, False)
    tally = _Tally(method.scheme, len(one))
    with evaluation_mode(method, nets):
        for start in range(0, len(one), max(o.batch_size // 2, 1)):
            stop = min(start + max(o.batch_size // 2, 1), len(one))
            images = torch.from_numpy(one.decode(method.input.color, start=2 * start, stop=2 * stop)).to(device)
            tally.add(_batch(method, nets, images, 2 * start, o), start, stop, o)
    return tally.finish(one, o)


@dataclass(frozen=True)
class _Batch:
    embeddings: dict[str, Tensor]  # [m, D] by mask
    area: dict[str, Tensor]  # kept share of the pixels [m] by mask
    keep: Tensor  # the policy's [m, regions]
    present: Tensor  # bool [m, regions]
    overlays: Tensor  # uint8 [m, H, 3 W, 3]


def _batch(method: SARFace, nets: Nets, images: Tensor, first: int, o: TrialOptions) -> _Batch:
    pictures = method.input.to_tensor(images, method.input.color)
    regions = method.regions(pictures, nets)
    keep = method.decide(pictures, regions, nets)
    areas = region_mask(pictures, regions, torch.ones_like(keep))[1].float()
    pixels = areas.sum(1)
    found = {FULL: RegionRecogniser.embed(method, pictures, nets, None, o.flip).vector}
    shares = {FULL: torch.ones_like(pixels)}
    for name, mask in _masks(method.scheme, keep, areas, first, o):
        found[name] = method.embed_kept(pictures, regions, mask, nets, o.flip).vector
        shares[name] = (areas * mask).sum(1) / pixels
    return _Batch(found, shares, keep, areas > 0, overlays(pictures, regions, keep, method.input))


def _masks(
    scheme: RegionScheme, keep: Tensor, areas: Tensor, first: int, o: TrialOptions
) -> Iterator[tuple[str, Tensor]]:
    """(name, keep [m, regions]) of every mask but the empty one."""
    yield MASKED, keep
    removed = ((1 - keep) * areas).sum(1)
    for draw in range(o.draws):
        draws = Draws(o.seed, draw, torch.arange(first, first + len(keep), device=keep.device), "masks/")
        yield f"{RANDOM} {draw + 1}", scheme.keep(random_actions(areas[:, list(scheme.removable)], removed, draws))
    for name, removed_regions in (ablations(scheme) if o.ablate else {}).items():
        mask = torch.ones_like(keep)
        mask[:, removed_regions] = 0
        yield f"{WITHOUT} {name}", mask


def random_actions(areas: Tensor, removed: Tensor, draws: Draws) -> Tensor:
    """Actions [m, A] that remove about `removed` [m] pixels: the removable regions, of `areas` [m, A] pixels, are gone through
    in a random order, and each is removed where that brings the removed area nearer to what is wanted."""
    order = draws.uniform("order", areas.shape[1]).argsort(1)
    actions, left = torch.ones_like(areas), removed.clone()
    for place in order.unbind(1):
        size = areas.gather(1, place[:, None])[:, 0]
        take = (size > 0) & ((left - size).abs() < left.abs())
        actions.scatter_(1, place[:, None], (~take).to(areas.dtype)[:, None])
        left = torch.where(take, left - size, left)
    return actions


def ablations(scheme: RegionScheme) -> dict[str, list[int]]:
    """What is removed always, by name: every removable region, and all removable parts of one label together."""
    found = {scheme.names[k]: [k] for k in scheme.removable}
    for word in dict.fromkeys(name.rsplit(" ", 1)[0] for name in found if " " in name):
        parts = [k for k in scheme.removable if scheme.names[k].rsplit(" ", 1)[0] == word]
        if len(parts) > 1:
            found[f"{word} (all)"] = parts
    return found


class _Tally:
    """Distances and shares, gathered batch by batch."""

    def __init__(self, scheme: RegionScheme, pairs: int) -> None:
        self.scheme, self.pairs = scheme, pairs
        self.distances: dict[str, np.ndarray] = {}
        self.area: dict[str, float] = {}
        self.kept = np.zeros(scheme.count)
        self.present = np.zeros(scheme.count)
        self.shown: list[np.ndarray] = []

    def add(self, batch: _Batch, start: int, stop: int, o: TrialOptions) -> None:
        for name, vectors in batch.embeddings.items():
            rows = normalize_rows(vectors.cpu().numpy())
            own = self.distances.setdefault(name, np.empty(self.pairs))
            own[start:stop] = squared_distances(rows[0::2], rows[1::2])
            self.area[name] = self.area.get(name, 0.0) + float(batch.area[name].sum()) / (2 * self.pairs)
        self.kept += ((batch.keep > 0) & batch.present).sum(0).cpu().numpy()
        self.present += batch.present.sum(0).cpu().numpy()
        wanted = max(o.shown - len(self.shown), 0)
        self.shown += list(batch.overlays[: 2 * wanted : 2].cpu().numpy())

    def finish(self, one: VerificationSet, o: TrialOptions) -> Trials:
        results = {
            name: evaluate_distances(d, one.issame, o.folds, fars=FARS, val_far=None)
            for name, d in self.distances.items()
        }
        rates = {
            self.scheme.names[k]: (
                float(self.kept[k] / max(self.present[k], 1)),
                float(self.present[k]) / (2 * self.pairs),
            )
            for k in self.scheme.removable
        }
        return Trials(one.name, one.issame, results, self.area, rates, self.shown)


def names_of(trials: Sequence[Trials], prefix: str) -> list[str]:
    """The masks whose names begin so, in their order."""
    return list(dict.fromkeys(name for one in trials for name in one.results if name.startswith(prefix)))
