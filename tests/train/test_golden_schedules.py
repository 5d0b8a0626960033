"""The golden cases of schedules and orders pass, and fail when one constant of the product is changed."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from facex.train import samplers, schedules
from tests.golden import harness
from tests.golden.kinds import schedules as runners


@pytest.fixture(scope="module")
def goldens(tmp_path_factory):
    """The four cases alone, so that a run takes a moment."""
    folder = tmp_path_factory.mktemp("goldens") / "magface"
    folder.mkdir()
    source = Path(__file__).parents[1] / "golden" / "magface"
    shutil.copy(source / "cases.json", folder)
    for path in source.glob("*.npz"):
        (folder / path.name).symlink_to(path)
    return folder


def outcome(folder, kind: str) -> tuple[int, int]:
    passed, failed, _ = harness.run([folder], {kind}, quiet=True)
    return passed, failed


def slower_polynomial(monkeypatch):
    original = schedules.PolynomialSchedule.after_warmup
    monkeypatch.setattr(schedules.PolynomialSchedule, "after_warmup", lambda self, k: original(self, k) * (1 + 1e-8))


def kept_drops(monkeypatch):
    original = schedules.StepSchedule.__init__
    monkeypatch.setattr(
        schedules.StepSchedule, "__init__", lambda self, *a, started_at=0, **k: original(self, *a, started_at=0, **k)
    )


def another_seed(monkeypatch):
    original = samplers.distributed_sampler
    monkeypatch.setattr(runners, "distributed_sampler", lambda n, r, w, seed, *a: original(n, r, w, seed + 1, *a))


def exclusive_end(monkeypatch):
    original = samplers.magface_slice
    monkeypatch.setattr(runners, "magface_slice", lambda *a: np.asarray(original(*a))[:-1])


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("magface/schedule_polynomial", slower_polynomial),
        ("magface/schedule_step", kept_drops),
        ("magface/sampler", another_seed),
        ("magface/list_shards", exclusive_end),
    ],
)
def test_passes_and_notices_a_change(goldens, monkeypatch, kind, change):
    assert outcome(goldens, kind) == (1, 0)
    change(monkeypatch)
    assert outcome(goldens, kind) == (0, 1)
