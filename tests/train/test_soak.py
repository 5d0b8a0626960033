"""The full-width iResNet-18 on every ZeRO stage, in fp32 and bf16: the sweep behind tests/train/test_ranks.py."""

from __future__ import annotations

import pytest

from tests.train.test_ranks import Report, losses, run_scenarios, scenario

pytestmark = pytest.mark.soak
REAL = {"width": 1.0, "pixels": 48}


def job(name: str, margin: str, **trainer: object) -> Report:
    args = {"margin": margin, **REAL}
    return scenario(name, "SmallIResNet", args=args, trainer=trainer, optimizer={"lr": 0.01})


PLAIN = [
    job(f"{margin}_{precision}", margin, precision=precision)
    for margin in ("arcface", "magface")
    for precision in ("fp32", "bf16")
]
SHARDED = [
    job(f"{margin}_{precision}_z{zero}", margin, precision=precision, zero=zero)
    for margin in ("arcface", "magface")
    for precision in ("fp32", "bf16")
    for zero in (0, 1, 2, 3)
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Report], dict[str, Report]]:
    folder = tmp_path_factory.mktemp("soak")
    return (
        run_scenarios(PLAIN, folder / "one", 1, timeout=3600),
        run_scenarios(SHARDED, folder / "two", 2, timeout=7200),
    )


@pytest.mark.parametrize("margin", ["arcface", "magface"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.02)])
def test_the_real_network(
    reports: tuple[dict[str, Report], dict[str, Report]], margin: str, zero: int, precision: str, tolerance: float
) -> None:
    one, two = reports
    expected = losses(one[f"{margin}_{precision}"])
    assert losses(two[f"{margin}_{precision}_z{zero}"]) == pytest.approx(expected, rel=tolerance)
