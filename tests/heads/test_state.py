"""Checkpoints of a head: any number of ranks, strict errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from facex.errors import CheckpointError
from facex.heads import MarginHead
from facex.heads.collectives import Ranks
from tests.golden.distributed import run_ranks
from tests.heads import cases


def as_rank(rank: int, size: int) -> Ranks:
    """A rank that never communicates: enough for saving and loading."""
    ranks = Ranks("alone")
    ranks.rank, ranks.size = rank, size
    return ranks


def fresh(ranks: Ranks) -> MarginHead:
    head = cases.make_head("adaface", group=ranks, sample_rate=0.5, sampler_seeds="per_rank", seed=99)
    head.weight.data.zero_()
    head.build_optimizer("adamw", lr=0.01)
    return head


def test_two_ranks_to_one_to_three(tmp_path: Path) -> None:
    run_ranks(2, "tests.heads.cases:save", str(tmp_path / "two"))
    one = fresh(as_rank(0, 1))
    one.load(tmp_path / "two")
    assert one.optimizer is not None
    assert one.optimizer.steps == 2
    assert float(one.margin.batch_mean) != 20
    assert float(one.weight.detach().abs().min()) > 0
    one.save(tmp_path / "one")
    three = [fresh(as_rank(rank, 3)) for rank in range(3)]
    for head in three:
        head.load(tmp_path / "one")
        head.save(tmp_path / "three")
    assert torch.equal(torch.cat([head.weight for head in three]), one.weight)
    for name, moment in one.optimizer.moments.items():
        assert torch.equal(torch.cat([head.optimizer.moments[name] for head in three if head.optimizer]), moment)
        assert float(moment.abs().sum()) > 0
    again = fresh(as_rank(1, 2))
    again.load(tmp_path / "three")
    assert torch.equal(again.weight, one.weight[again.shard.start :])


def test_the_sampler_goes_on_where_it_was(tmp_path: Path) -> None:
    run_ranks(2, "tests.heads.cases:save", str(tmp_path))
    states = []
    for rank in range(2):
        head = fresh(as_rank(rank, 2))
        head.load(tmp_path)
        states.append(head.sampler.get_state())
    assert not torch.equal(states[0], states[1])


def test_a_resumed_head_trains_on_bit_for_bit(tmp_path: Path) -> None:
    ours, resumed = (cases.make_head("curricular", sample_rate=0.5) for _ in range(2))
    for head in (ours, resumed):
        head.build_optimizer("sgd", lr=0.1)
    for seed in range(4):
        x, labels, _ = cases.batch(seed=seed)
        ours(x, labels).loss.backward()
        ours.step()
        if seed == 1:
            ours.save(tmp_path)
    resumed.load(tmp_path)
    for seed in (2, 3):
        x, labels, _ = cases.batch(seed=seed)
        resumed(x, labels).loss.backward()
        resumed.step()
    assert torch.equal(ours.weight, resumed.weight)
    assert torch.equal(ours.margin.t, resumed.margin.t)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    head = cases.make_head("cosface")
    head.build_optimizer("sgd")
    with pytest.raises(CheckpointError, match="no head shards"):
        head.load(tmp_path)
    head.save(tmp_path)
    other = MarginHead(cases.MARGINS["cosface"](), cases.DIM, 14, group="alone")
    with pytest.raises(CheckpointError, match=r"head-00000-of-00001.*num_classes is 13, this head has 14"):
        other.load(tmp_path)
    other = MarginHead(cases.MARGINS["cosface"](), 9, cases.CLASSES, group="alone")
    with pytest.raises(CheckpointError, match="embedding_size is 8, this head has 9"):
        other.load(tmp_path)
    adamw = cases.make_head("cosface")
    adamw.build_optimizer("adamw")
    with pytest.raises(CheckpointError, match=r"'sgd'.*'adamw'"):
        adamw.load(tmp_path)
    adamw.load(tmp_path, optimizer=False)
    with pytest.raises(CheckpointError, match="margin buffer 't'"):
        cases.make_head("curricular").load(tmp_path)
    (tmp_path / "head-00000-of-00001.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="not a readable"):
        head.load(tmp_path)


@pytest.mark.parametrize(
    ("metadata", "rows", "says"),
    [
        ({"steps": "many"}, 13, "usable steps"),
        ({"class_stop": ""}, 13, "usable class_stop"),
        ({}, 12, r"shape \[12, 8\]"),
    ],
)
def test_a_damaged_shard_is_named(tmp_path: Path, metadata: dict[str, str], rows: int, says: str) -> None:
    head = cases.make_head("cosface")
    head.save(tmp_path)
    (path,) = tmp_path.iterdir()
    with safe_open(path, "pt") as file:
        known = {**file.metadata(), **metadata}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file({**tensors, "weight": tensors["weight"][:rows].clone()}, path, known)
    with pytest.raises(CheckpointError, match=says):
        head.load(tmp_path)


def test_a_missing_shard_is_noticed(tmp_path: Path) -> None:
    for rank in range(2):
        fresh(as_rank(rank, 2)).save(tmp_path)
    (tmp_path / "head-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"classes 7\.\.12 of 13 are missing"):
        fresh(as_rank(0, 1)).load(tmp_path)
    fresh(as_rank(2, 3)).save(tmp_path)
    with pytest.raises(CheckpointError, match="incomplete or of different checkpoints"):
        fresh(as_rank(0, 1)).load(tmp_path)
