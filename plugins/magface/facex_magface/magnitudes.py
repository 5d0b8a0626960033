"""From measured magnitudes to a proposal for l_a, u_a, l_margin, u_margin and lambda_g."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# lambda_g over its lower bound in the published configuration: 35 / 22.5867.
SAFETY = 35 / 22.5867
PERCENTILES = (0.1, 1, 5, 25, 50, 75, 95, 99, 99.9)
# Published margins at the two bounds.
MARGINS = {"arc": (0.45, 0.8), "cos": (0.35, 0.8)}


@dataclass(frozen=True)
class Proposal:
    """The five numbers, and the bound below which lambda_g must not lie."""

    l_a: float
    u_a: float
    l_margin: float
    u_margin: float
    lambda_g: float
    lambda_min: float
    scale: float
    form: str

    def overrides(self) -> str:
        """The proposal as options of `facex train`."""
        names = ("l_a", "u_a", "l_margin", "u_margin", "lambda_g", "scale", "form")
        return " ".join(f"--method.{name} {getattr(self, name)}" for name in names)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def lambda_bound(l_a: float, u_a: float, l_margin: float, u_margin: float, scale: float) -> float:
    """s K u_a^2 l_a^2 / (u_a^2 - l_a^2), K the margin's slope: above it the best magnitude lies inside the bounds."""
    slope = (u_margin - l_margin) / (u_a - l_a)
    return scale * slope * (u_a * l_a) ** 2 / (u_a**2 - l_a**2)


def propose(lengths: np.ndarray, scale: float = 64.0, form: str = "arc", room: float = 2.4) -> Proposal:
    """Bounds around the measured lengths [N], as the official README advises: l_a below the smallest, u_a above the
    largest, with `room` to grow into (published: 45 at the start of training, u_a 110).

    Raises:
        ValueError: no lengths, or lengths that are not finite and positive.
    """
    if lengths.size == 0 or not np.isfinite(lengths).all() or lengths.min() <= 0:
        raise ValueError("magnitudes must be finite and positive, and at least one")
    l_a = _two_digits(float(lengths.min()) * 0.9, math.floor)
    u_a = _two_digits(max(float(lengths.max()) * room, l_a * 2), math.ceil)
    l_margin, u_margin = MARGINS[form]
    bound = lambda_bound(l_a, u_a, l_margin, u_margin, scale)
    return Proposal(l_a, u_a, l_margin, u_margin, _two_digits(bound * SAFETY, math.ceil), bound, scale, form)


def summarise(lengths: np.ndarray) -> dict[str, float]:
    """Count, extremes, mean, deviation and percentiles."""
    summary = {"count": int(lengths.size), "min": float(lengths.min()), "mean": float(lengths.mean())}
    summary |= {"max": float(lengths.max()), "std": float(lengths.std())}
    return summary | {
        f"p{p:g}": float(v) for p, v in zip(PERCENTILES, np.percentile(lengths, PERCENTILES), strict=True)
    }


def _two_digits(value: float, direction: Any) -> float:
    """Rounded to two significant digits, down (math.floor) or up (math.ceil)."""
    power = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{direction(round(value / power, 9)) * power:.6g}")
