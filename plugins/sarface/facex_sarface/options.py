"""What SARFace's training is told about exploration, reward, baseline, entropy and the parser: plain records with checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from facex.errors import ConfigError
from facex_sarface.parser import PARSER_SIZE, ParserInput, label_table

FP32_FLOOR = 2.0**-23
FP16_FLOOR = 2.0**-10


@dataclass(frozen=True)
class ExplorationConfig:
    """How the policy tries what it does not prefer.

    Args:
        kind: noise: with probability eps, once for a whole micro-batch, normal noise is added to the probabilities, which
            are cut to [0, 1] (published). mixture: every probability is (1 - eps) p + eps / 2, likelihood included.
        eps: share of exploration, at the start where it has a range.
        eps_end: share after `steps` applied steps, reached along a line; unset: constant.
        steps: see eps_end.
        eps_train: share in the pass that trains the recogniser.
        sigma: deviation of the noise.
        floor: with noise, probabilities are cut to [floor, 1 - floor] before the logarithm: 2^-23 as published in fp32;
            2^-10 is what the published code computes in fp16.
    """

    kind: Literal["noise", "mixture"] = "noise"
    eps: float = 0.2
    eps_end: float | None = None
    steps: int = 15000
    eps_train: float = 0.05
    sigma: float = 1.0
    floor: float = FP32_FLOOR

    def __post_init__(self) -> None:
        _choice("exploration.kind", self.kind, ("noise", "mixture"))
        for name in ("eps", "eps_end", "eps_train"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"exploration.{name} is a share between 0 and 1, not {value}")
        if not 0 <= self.sigma < math.inf or self.steps < 1:
            raise ConfigError("exploration.sigma must be finite and not negative, exploration.steps at least 1")
        if not 0 < self.floor < 0.5:
            raise ConfigError(f"exploration.floor lies between 0 and 0.5, not {self.floor}")


@dataclass(frozen=True)
class RewardConfig:
    """What a mask earns: a recognition term r and a sparsity term.

    Args:
        kind: flip: +1 where masking makes a wrong identification right, -1 the reverse, else 0 (published). margin: the
            change of (target cosine - best other cosine), divided by tau and cut to [-1, 1].
        tau: see margin.
        sparsity: inverse_area: weight / (A + 1e-5) with A the kept pixels (published: next to nothing, but weight / 1e-5
            where nothing is kept). fraction: weight * (1 - A / pixels). none.
        weight: of the sparsity term.
        min_area: share of the pixels below which a mask earns r = -1 and is not applied to what the recogniser learns
            from or embeds; 0: no such guard (published).
    """

    kind: Literal["flip", "margin"] = "flip"
    tau: float = 0.1
    sparsity: Literal["inverse_area", "fraction", "none"] = "inverse_area"
    weight: float = 0.05
    min_area: float = 0.0

    def __post_init__(self) -> None:
        _choice("reward.kind", self.kind, ("flip", "margin"))
        _choice("reward.sparsity", self.sparsity, ("inverse_area", "fraction", "none"))
        if not 0 < self.tau < math.inf or not math.isfinite(self.weight):
            raise ConfigError(f"reward.tau must be positive, tau and weight finite, not {self.tau} and {self.weight}")
        if not 0 <= self.min_area < 1:
            raise ConfigError(f"reward.min_area is a share of the pixels in [0, 1), not {self.min_area}")


@dataclass(frozen=True)
class BaselineConfig:
    """What is subtracted from a reward; it never depends on the action that the reward is for.

    Args:
        kind: none (published). loo: the mean of the batch's other rewards over all ranks, or with several samples an image
            the mean of the image's other samples. greedy: the reward of the deterministic mask (p >= 0.5), one more pass.
            ema: a running mean over the steps.
        momentum: of ema.
        normalize: divide advantages by their deviation over the batch (at least 1e-3); no longer unbiased.
    """

    kind: Literal["none", "loo", "greedy", "ema"] = "none"
    momentum: float = 0.99
    normalize: bool = False

    def __post_init__(self) -> None:
        _choice("baseline.kind", self.kind, ("none", "loo", "greedy", "ema"))
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"baseline.momentum lies in [0, 1), not {self.momentum}")


@dataclass(frozen=True)
class EntropyConfig:
    """The bonus on undecided policies.

    Args:
        kind: pseudo: -exp(l) l of the sampled actions' log-probabilities l (published). true: the entropy of the policy's
            Bernoulli distributions.
        weight: of the bonus.
    """

    kind: Literal["pseudo", "true"] = "pseudo"
    weight: float = 0.01

    def __post_init__(self) -> None:
        _choice("entropy.kind", self.kind, ("pseudo", "true"))
        if not math.isfinite(self.weight):
            raise ConfigError(f"entropy.weight must be finite, not {self.weight}")


@dataclass(frozen=True)
class ParserConfig:
    """The frozen face parser.

    Args:
        variant: of SwiftFormerParser; published: l1.
        size: side of the pictures that it reads, a multiple of 32.
        input: official: the recogniser's tensor as it is, BGR in +-1; rgb_imagenet: RGB under ImageNet's mean and deviation.
        table: for a parser with other classes, the CelebAMask-HQ label (0..18) of each.
        saved: the parser is part of every checkpoint (100 MB with l1). Without it a run embeds full pictures only.
        options: further arguments of SwiftFormerParser (widths, depths, ...).
    """

    variant: Literal["xs", "s", "l1", "l1_tiny", "l3"] = "l1"
    size: int = PARSER_SIZE
    input: ParserInput = "official"
    table: Sequence[int] | None = None
    saved: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _choice("parser.input", self.input, ("official", "rgb_imagenet"))
        if self.size < 32 or self.size % 32:
            raise ConfigError(f"parser.size must be a multiple of 32, not {self.size}")
        if self.table is not None:
            label_table(self.table)  # checks it


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} is one of {', '.join(known)}, not {value!r}")
