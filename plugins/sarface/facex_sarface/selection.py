"""The best checkpoint by SARFace's `val_acc`: the mean accuracy over the verification sets."""

from __future__ import annotations

from collections.abc import Sequence

from facex.errors import ConfigError
from facex.train.selection import Results, Selection


class MeanAccuracy(Selection):
    """The best checkpoint is that of the highest mean accuracy over all sets.

    Args:
        view: of the results of this view (with eval_input both: masked) instead of the method's own.
    """

    def __init__(self, view: str | None = None) -> None:
        self.view = view

    def check(self, sets: Sequence[str]) -> None:
        """ConfigError without sets."""
        if not sets:
            raise ConfigError("evaluation.selection: a mean over no sets; name some in evaluation.bins")

    def score(self, evaluations: Sequence[Results]) -> float | None:
        """The mean; None where no set has the view."""
        last = evaluations[-1]
        own = [name for name in last if not any(name.startswith(f"{other} ") for other in last)]
        names = own if self.view is None else [f"{name} {self.view}" for name in own]
        found = [float(last[name]["accuracy"]) for name in names if name in last]
        return sum(found) / len(found) if found else None
