"""Further ways of embedding that a method offers are results of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from facex.eval.run import evaluate_bins
from facex.methods import Method
from tests.eval.tiny import Tiny, make_bin


class Dark(Tiny):
    """The same network on half of the light."""

    def __init__(self, method: Tiny) -> None:
        super().__init__()
        self.net = method.net

    def embed(self, images: Any, nets: Any, side: Any = None, flip: bool = False) -> Any:
        return super().embed(images * 0.5 - 0.5, nets, side, flip)


class TwoViews(Tiny):
    """A method with a second view."""

    def views(self) -> dict[str, Method]:
        return {"dark": Dark(self)}


def test_views_are_results_of_their_own(tmp_path: Path) -> None:
    method = TwoViews().train()
    path = make_bin(tmp_path / "small.bin")
    both = evaluate_bins(method, method.networks(), [path])
    dark = Dark(method)
    alone = evaluate_bins(dark, dark.networks(), [path])["small"]
    assert list(both) == ["small", "small dark"]
    assert both["small dark"]["auc"] == pytest.approx(alone["auc"])
    assert both["small"]["quality_mean"] != both["small dark"]["quality_mean"]
    assert method.training
    assert not Tiny().views()
