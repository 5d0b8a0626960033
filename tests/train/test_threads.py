"""On the CPU a micro-batch is computed by the same number of threads on one rank and on many."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from facex.train import launch


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def used(world: int, accumulation: int) -> int:
    launch.share_cores(launch.Ranks(0, world, 0, torch.device("cpu")), world * accumulation)
    return torch.get_num_threads()


def test_the_micro_batch_decides_not_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    assert [used(1, 1), used(1, 4), used(4, 1), used(2, 2), used(1, 32)] == [8, 2, 2, 2, 1]


def test_the_variable_of_the_user_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    assert used(1, 1) == 1
