"""1:1 verification under synthetic occlusion: accuracy and TAR@FAR by occluded area or by occluder, for any method.

Source: MSML (Yuan, Zheng, Dong, AAAI 2022), whose test puts a block of 0..90 % of the area on the faces of a set, ten
times over. Which pixels are occluded depends on the seed alone: networks that are compared see the same pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from facex.data.occluders import Block, NoOcclusion, Occluder
from facex.errors import ConfigError
from facex.eval.occlusion_input import OccludedView
from facex.eval.occlusion_metrics import Mean, mean_interval
from facex.eval.segmentation import RegionIou
from facex.methods import InputSpec

FlipOcclusion = Literal["independent", "shared"]
RATIOS = tuple(range(0, 100, 10))


@dataclass(frozen=True)
class Condition:
    """One point of the protocol: an occluder, and the share of the area (per cent) where it is a block."""

    occluder: str
    ratio: int | None
    repeats: int
    draw: Occluder = field(compare=False)

    @property
    def name(self) -> str:
        """What tables call it: `block 40 %`, `glasses`, `clean`."""
        if self.occluder == "none":
            return "clean"
        return self.occluder if self.ratio is None else f"{self.occluder} {self.ratio} %"


@dataclass(frozen=True)
class OcclusionProtocol:
    """What is put on the faces.

    ratios: areas of blocks in per cent of the picture (whole numbers, 0..100). occluders: `block`, and any other name
    of `facex.data.occluders`, which gives one condition each. fill: black, white or gauss. repeats: draws of each
    condition (one where nothing is drawn). both: both pictures of a pair, or the left one alone. flip_occlusion:
    whether the mirrored view has an occlusion of its own (official) or that of the picture, mirrored. pad: pictures
    smaller than the network's input get a black border instead of being resized (official for MSML's LightCNN). grey:
    pictures are made grey before they are occluded.
    """

    ratios: Sequence[int] = RATIOS
    occluders: Sequence[str] = ("block",)
    fill: str = "black"
    repeats: int = 10
    both: bool = True
    flip_occlusion: FlipOcclusion = "independent"
    seed: int = 0
    pad: bool = False
    grey: bool = False

    def __post_init__(self) -> None:
        for ratio in self.ratios:
            if isinstance(ratio, bool) or int(ratio) != ratio or not 0 <= ratio <= 100:
                raise ConfigError(f"occlusion ratio {ratio}: whole per cents of the picture from 0 to 100 are wanted")
        if self.repeats < 1:
            raise ConfigError(f"{self.repeats} repeats: at least one is needed")
        if self.flip_occlusion not in get_args(FlipOcclusion):
            raise ConfigError(f"flip_occlusion {self.flip_occlusion!r} is one of {', '.join(get_args(FlipOcclusion))}")
        for what, values in (("ratio", self.ratios), ("occluder", self.occluders)):
            twice = [value for value in dict.fromkeys(values) if list(values).count(value) > 1]
            if twice:
                raise ConfigError(f"{what} {twice[0]} is given twice")
        self.conditions()

    def conditions(self) -> list[Condition]:
        """The conditions in order: a clean one unless the blocks begin with 0 %, blocks by ratio, other occluders.

        Raises ConfigError for an unknown occluder or fill, or where nothing is left to evaluate.
        """
        found: list[Condition] = []
        for name in self.occluders:
            if name == "block":
                found += [self._block(int(ratio)) for ratio in self.ratios]
            elif name != "none":
                from facex.data.occluders import make_occluder  # brings pictures with it: blocks do without

                found.append(Condition(name, None, self.repeats, make_occluder(name)))
        if not found:
            raise ConfigError("nothing to evaluate: give ratios for the block, or another occluder")
        if not any(c.ratio == 0 for c in found):
            found.insert(0, Condition("none", None, 1, NoOcclusion()))
        return found

    def view(self, condition: Condition, picture: Sequence[int], network: InputSpec) -> OccludedView:
        """How pictures of the size `picture` (height, width) are prepared under one condition for what a network reads."""
        size = (max(picture[0], network.height), max(picture[1], network.width)) if self.pad else None
        return OccludedView(condition.draw, self.both, size, self.grey)

    def _block(self, ratio: int) -> Condition:
        block = Block(ratio, ratio + 1, self.fill)
        return Condition("block", ratio, self.repeats if ratio else 1, block)

    def summary(self) -> dict[str, Any]:
        """The settings for a JSON file."""
        return {
            "ratios": [int(r) for r in self.ratios],
            "occluders": list(self.occluders),
            "fill": self.fill,
            "images": "both" if self.both else "one",
            "repeats": self.repeats,
            "flip_occlusion": self.flip_occlusion,
            "seed": self.seed,
            "pad": self.pad,
            "grey": self.grey,
        }


@dataclass
class OcclusionPoint:
    """One condition's numbers. Intervals are 95 % of the mean over repeats: how much the occluder's place matters."""

    condition: Condition
    accuracies: np.ndarray  # float64 [repeats]: each the mean over folds
    tars: dict[float, np.ndarray]  # float64 [repeats] by FAR
    equal_error: (
        np.ndarray
    )  # float64 [repeats]: MSML's "accuracy" (`equal_error_accuracy`); empty for pairs of one kind
    area: float  # occluded share of the pictures that are occluded, as drawn
    iou: RegionIou | None = None  # of the method's occlusion map, where it gives one

    @property
    def accuracy(self) -> Mean:
        """Mean over repeats, with the half-width of its 95 % interval (NaN for one repeat)."""
        return mean_interval(self.accuracies)

    def tar(self, far: float) -> Mean:
        """TAR at one of the FARs."""
        return mean_interval(self.tars[far])

    def summary(self) -> dict[str, Any]:
        """Plain numbers, accuracy first; None where an interval or a region does not exist."""
        numbers: dict[str, Any] = {
            "occluder": self.condition.occluder,
            "ratio": self.condition.ratio,
            **_mean("accuracy", self.accuracy),
            "repeats": self.accuracies.tolist(),
            "tar@far": {f"{far:g}": self.tar(far).value for far in self.tars},
            "tar_interval": {f"{far:g}": _number(self.tar(far).half_width) for far in self.tars},
            "equal_error_accuracy": float(self.equal_error.mean()) if len(self.equal_error) else None,
            "area": self.area,
        }
        return numbers if self.iou is None else {**numbers, "iou": self.iou.summary()}


@dataclass
class OcclusionCurve:
    """One network on one set under every condition of a protocol."""

    name: str
    protocol: OcclusionProtocol
    points: list[OcclusionPoint]

    def summary(self) -> dict[str, Any]:
        """The settings, the mean over all conditions' accuracies, and the points."""
        mean = float(np.mean([point.accuracy.value for point in self.points]))
        return {
            "protocol": self.protocol.summary(),
            "mean_accuracy": mean,
            "points": [point.summary() for point in self.points],
        }

    def difference(self, other: OcclusionCurve) -> list[Mean]:
        """Accuracy here minus that of `other`, by condition: the repeats are paired, because both saw the same
        pictures.

        Raises ConfigError for curves of other sets or protocols.
        """
        if (self.name, self.protocol) != (other.name, other.protocol):
            raise ConfigError("only curves of one set under one protocol can be compared")
        pairs = zip(self.points, other.points, strict=True)
        return [mean_interval(one.accuracies - two.accuracies) for one, two in pairs]


def _mean(name: str, mean: Mean) -> dict[str, float | None]:
    return {name: mean.value, f"{name}_interval": _number(mean.half_width)}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
