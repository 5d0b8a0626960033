"""Rules of selection: one set's accuracy, and a rule of a user's own, which may keep what is not the best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from facex.errors import ConfigError
from facex.train.config import EvaluationConfig
from facex.train.evaluation import Evaluator, Verdict
from facex.train.launch import Ranks
from facex.train.selection import Results, Selection, SetAccuracy
from tests.eval.tiny import Tiny, make_bin

RANKS = Ranks(0, 1, 0, torch.device("cpu"))


class Falling(Selection):
    """Keeps whatever is worse than the one before."""

    def score(self, evaluations: Sequence[Results]) -> float | None:
        return None

    def keep(self, evaluations: Sequence[Results]) -> bool:
        return len(evaluations) > 1 and evaluations[-1]["a"]["accuracy"] < evaluations[-2]["a"]["accuracy"]


def evaluations(*accuracies: float) -> list[Results]:
    return [{"a": {"accuracy": a}, "b": {"accuracy": 1 - a}} for a in accuracies]


def judge(selection: str | Selection | None, path: Path, *accuracies: float) -> Verdict:
    bins = [str(make_bin(path / f"{name}.bin")) for name in "ab"]
    evaluator = Evaluator(EvaluationConfig(bins, selection=selection), Tiny(), None, RANKS)  # type: ignore[arg-type]
    return evaluator.judge(evaluations(*accuracies))


def test_verdicts(tmp_path: Path) -> None:
    assert judge(None, tmp_path, 0.7, 0.8) == Verdict(None, False)
    assert judge("b", tmp_path, 0.7, 0.75) == Verdict(0.25, False)
    assert judge(SetAccuracy("a"), tmp_path, 0.7, 0.75) == Verdict(0.75, False)
    assert judge(Falling(), tmp_path, 0.7, 0.75) == Verdict(None, False)
    assert judge(Falling(), tmp_path, 0.7, 0.65) == Verdict(None, True)
    with pytest.raises(ConfigError, match=r"'c' is none of the sets in evaluation.bins \(a, b\)"):
        judge("c", tmp_path)
