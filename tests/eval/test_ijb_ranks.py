"""IJB on several ranks, which are threads here: faces and pairs are shared, numbers equal, errors reach all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facex.errors import DataError, FacexError
from facex.eval import ranks
from facex.eval.ijb_embed import embed_views
from facex.eval.ijb_faces import open_ijb
from facex.eval.ijb_rules import RULES
from facex.eval.ijb_run import evaluate_ijb
from tests.eval.ijb_by_hand import FARS
from tests.eval.tiny import Tiny
from tests.eval.tiny_ijb import make_ijb


class Together:
    """torch.distributed for threads: what `facex.eval.ranks` calls of it, and nothing else."""

    def __init__(self, world: int) -> None:
        self.world, self.barrier, self.given = world, threading.Barrier(world, timeout=30), [None] * world
        self.me = threading.local()

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def get_rank(self) -> int:
        return int(self.me.rank)

    def get_world_size(self) -> int:
        return self.world

    def get_backend(self) -> str:
        return "gloo"

    def all_gather_object(self, out: list[Any], mine: Any) -> None:
        self.given[self.me.rank] = mine
        self.barrier.wait()
        out[:] = self.given
        self.barrier.wait()

    def all_gather(self, parts: list[torch.Tensor], mine: torch.Tensor) -> None:
        found: list[Any] = []
        self.all_gather_object(found, mine)
        assert {f.shape for f in found} == {mine.shape}
        for part, other in zip(parts, found, strict=True):
            part.copy_(other)


def on_ranks(monkeypatch: pytest.MonkeyPatch, world: int, work: Callable[[], Any]) -> list[Any]:
    """What `work` returns, or the FacexError that it raises, on each of `world` ranks that are threads."""
    together, results = Together(world), [None] * world

    def one(rank: int) -> None:
        together.me.rank = rank
        try:
            results[rank] = work()
        except FacexError as error:
            results[rank] = error

    with monkeypatch.context() as patch:
        patch.setattr(ranks, "dist", together)
        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    return results


def test_ranks_share_faces_and_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = open_ijb(make_ijb(tmp_path / "ijb").folder)
    assert len(one.lists.faces.names) % 3 and len(one.lists.first) % 2 == 0
    loads: list[int] = []
    load = one.load
    one.load = lambda entry: (loads.append(entry), load(entry))[1]  # type: ignore[func-returns-value]
    counts = range(len(one.lists.faces.names))

    def work() -> Any:
        method = Tiny()
        return evaluate_ijb(method, method.networks(), one, RULES, fars=FARS, batch_size=4).summary()["rules"]

    alone = work()
    assert sorted(loads) == list(counts)
    loads.clear()
    found = on_ranks(monkeypatch, 3, work)
    assert sorted(loads) == list(counts)  # each face is read once, by one rank
    assert found[0] == found[1] == found[2]
    for name in RULES:
        assert found[0][name]["tar@far"] == pytest.approx(alone[name]["tar@far"])
        assert found[0][name]["rank"] == pytest.approx(alone[name]["rank"])


def test_an_error_of_one_rank_reaches_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = open_ijb(make_ijb(tmp_path / "ijb").folder)

    def load(entry: int) -> np.ndarray:
        if entry == 2:
            raise DataError("face 2 is broken")
        return one.load(entry)

    def work() -> Any:
        method = Tiny()
        return embed_views(method, method.networks(), load, len(one.lists.faces.names), ("plain",), batch_size=2)

    monkeypatch.setattr("facex.eval.ijb_embed._CHECKS", 3)
    assert [str(error) for error in on_ranks(monkeypatch, 2, work)] == ["face 2 is broken", "rank 0: face 2 is broken"]
    with pytest.raises(DataError, match="face 2 is broken"):
        work()
