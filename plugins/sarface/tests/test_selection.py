"""The best checkpoint by the mean over the sets, of the method's own results or of a view's."""

from __future__ import annotations

import pytest
from facex_sarface.selection import MeanAccuracy

from facex.errors import ConfigError

RESULTS = {
    name: {"accuracy": value} for name, value in (("lfw", 0.9), ("lfw masked", 0.8), ("cfp", 0.7), ("cfp masked", 0.4))
}


def test_the_mean_over_the_sets() -> None:
    assert MeanAccuracy().score([{}, RESULTS]) == pytest.approx(0.8)
    assert MeanAccuracy("masked").score([RESULTS]) == pytest.approx(0.6)
    assert MeanAccuracy("mirrored").score([RESULTS]) is None
    with pytest.raises(ConfigError, match="no sets"):
        MeanAccuracy().check([])
