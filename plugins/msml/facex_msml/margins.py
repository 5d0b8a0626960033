"""MSML's heads: CosFace and ArcFace with a margin that follows the angle.

    AMCosFace  s * (cos(theta) - m + k * (theta - a))
    AMArcFace  s * cos(theta + m - k * (theta - a))

theta is the angle between an embedding and its class centre; k = 0 gives CosFace and ArcFace. The gradient flows through
theta everywhere. Above pi - m AMArcFace's logit rises again: the published code has no threshold.
"""

from __future__ import annotations

from torch import Tensor

from facex.errors import ConfigError
from facex.heads.margins import Margin, Rule


class _AdaptiveMargin(Margin):
    """What both share.

    Args:
        s: scale.
        m: margin.
        a: angle at which the adaptive part is 0, in radians.
        k: strength of the adaptive part.
        clamp: every cosine is first cut to +-(1 - clamp), where the slope of the arc cosine is finite; 0 is the
            published code, whose gradient is NaN at |cos| = 1.
    """

    negatives_follow_targets = False

    def __init__(self, s: float = 64.0, m: float = 0.5, a: float = 0.0, k: float = 0.0, clamp: float = 1e-7) -> None:
        super().__init__(s)
        if not 0 <= clamp < 1:
            raise ConfigError(f"{type(self).__name__}: clamp must be in [0, 1), not {clamp}")
        self.m, self.a, self.k, self.clamp = float(m), float(a), float(k), float(clamp)

    def negatives(self, cos: Tensor, valid: Tensor) -> Rule:
        """No margin; the clamp holds for all cosines."""
        return Rule("clamp", bound=1 - self.clamp) if self.clamp else Rule("plain")

    def _cut(self, cos: Tensor) -> Tensor:
        return cos.clamp(self.clamp - 1, 1 - self.clamp) if self.clamp else cos

    def extra_repr(self) -> str:
        return f"s={self.scale:g}, m={self.m:g}, a={self.a:g}, k={self.k:g}"


class AMCosFace(_AdaptiveMargin):
    """s * (cos(theta) - m + k * (theta - a)).

    Args:
        s: scale.
        m: margin of the cosine.
        a: angle at which the adaptive part is 0, in radians.
        k: strength of the adaptive part; 0 is CosFace.
        clamp: every cosine is first cut to +-(1 - clamp); 0 is the published code, whose gradient is NaN at |cos| = 1.
    """

    def __init__(self, s: float = 64.0, m: float = 0.4, a: float = 0.0, k: float = 0.0, clamp: float = 1e-7) -> None:
        super().__init__(s, m, a, k, clamp)

    def target(self, cos: Tensor, norm: Tensor, weight: Tensor | None = None) -> Tensor:
        """The target's logit from its cosine."""
        cos = self._cut(cos)
        return self.scale * (cos - self.m + self.k * (cos.acos() - self.a))


class AMArcFace(_AdaptiveMargin):
    """s * cos(theta + m - k * (theta - a)).

    Args:
        s: scale.
        m: margin of the angle, in radians.
        a: angle at which the adaptive part is 0, in radians.
        k: strength of the adaptive part; 0 is ArcFace.
        clamp: every cosine is first cut to +-(1 - clamp); 0 is the published code, whose gradient is NaN at |cos| = 1.
    """

    def __init__(self, s: float = 64.0, m: float = 0.48, a: float = 0.0, k: float = 0.0, clamp: float = 1e-7) -> None:
        super().__init__(s, m, a, k, clamp)

    def target(self, cos: Tensor, norm: Tensor, weight: Tensor | None = None) -> Tensor:
        """The target's logit from its cosine."""
        theta = self._cut(cos).acos()
        return self.scale * (theta + self.m - self.k * (theta - self.a)).cos()
