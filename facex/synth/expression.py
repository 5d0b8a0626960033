"""What the face does in one picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facex.synth.randoms import EXPRESSION, Draws


@dataclass
class Expression:
    """All 0 (and `openness` 1) is neutral."""

    smile: float = 0.0  # 0..1
    mouth: float = 0.0  # gap between the lips, pixels
    openness: float = 1.0  # of the eyes
    raised: float = 0.0  # brows, pixels
    pucker: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0

    @property
    def jaw(self) -> float:
        """How far the chin drops, pixels."""
        return 0.8 * self.mouth

    def vector(self) -> np.ndarray:
        """Differences from the neutral expression, in the order of `probes`."""
        return np.array(
            [self.smile, self.mouth, self.openness - 1.0, self.raised, self.pucker, self.gaze_x, self.gaze_y]
        )

    @staticmethod
    def probes() -> list[tuple[Expression, float]]:
        """One expression for each value, with how far that value is from neutral."""
        return [
            (Expression(smile=0.7), 0.7),
            (Expression(mouth=4.0), 4.0),
            (Expression(openness=0.4), -0.6),
            (Expression(raised=1.0), 1.0),
            (Expression(pucker=0.3), 0.3),
            (Expression(gaze_x=1.0), 1.0),
            (Expression(gaze_y=1.0), 1.0),
        ]


def make_expression(seed: int, identity: int, index: int) -> Expression:
    """The expression of one picture."""
    d = Draws(seed, EXPRESSION, identity, index)
    smile = d.choice((0.0, d.uniform(0.1, 0.6), d.uniform(0.5, 1.0)), (4, 3, 3))
    mouth = 0.0
    if d.chance(0.45):
        mouth = d.uniform(0.8, 4.5) if smile > 0.3 or d.chance(0.7) else d.uniform(3, 9)
    openness = 0.12 if d.chance(0.03) else min(max(d.normal(1.0, 0.14) - 0.25 * smile, 0.3), 1.35)
    pucker = d.choice((0.0, d.uniform(0.0, 0.35)), (4, 1))
    return Expression(smile, mouth, openness, d.normal(0.0, 1.1), pucker, d.normal(0, 0.9), d.normal(0, 0.4))
