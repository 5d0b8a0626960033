"""Which evaluations during training are worth a checkpoint, and which of those is the best (`evaluation.selection`).

Final numbers come from the last checkpoint all the same; `facex eval --best` takes the best.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from facex.errors import ConfigError

Results = Mapping[str, Mapping[str, Any]]  # by set, in the order of evaluation.bins: at least {"accuracy": 0..1}


class Selection(ABC):
    """A rule over the evaluations of a run up to now, the last one in question. It holds no state, so a run that is
    resumed selects as one that was not stopped."""

    def check(self, sets: Sequence[str]) -> None:  # noqa: B027 (most rules work with any sets)
        """ConfigError where the rule cannot work with these sets."""

    @abstractmethod
    def score(self, evaluations: Sequence[Results]) -> float | None:
        """How good the last one is, higher is better; None: not to be chosen. A new best is always saved."""

    def keep(self, evaluations: Sequence[Results]) -> bool:
        """Whether the last one's weights are saved even if they are not the best ones."""
        return False


class SetAccuracy(Selection):
    """The best checkpoint is that of the highest accuracy on one set.

    Args:
        name: the set, by file name without .bin.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def check(self, sets: Sequence[str]) -> None:
        """See the class."""
        if self.name not in sets:
            raise ConfigError(
                f"evaluation.selection='{self.name}' is none of the sets in evaluation.bins ({', '.join(sets) or 'none'})"
            )

    def score(self, evaluations: Sequence[Results]) -> float | None:
        """Its accuracy."""
        return float(evaluations[-1][self.name]["accuracy"])
