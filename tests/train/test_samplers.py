"""Official sample orders against torch's own sampler and against a literal reading of MagFace's slicing."""

import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler

from facex.data.loader import BatchLoader
from facex.data.order import BatchShape
from facex.errors import ConfigError
from facex.train.samplers import build_order, distributed_sampler, magface_slice
from tests.data.fakes import FakeSet


@pytest.mark.parametrize("n", [2, 37, 40])
@pytest.mark.parametrize("world", [1, 3, 4, 5])
@pytest.mark.parametrize("shuffle", [True, False])
def test_distributed_sampler_is_torchs(n, world, shuffle):
    for rank in range(world):
        peer = DistributedSampler(range(n), world, rank, shuffle=shuffle, seed=11)
        for epoch in (0, 2):
            peer.set_epoch(epoch)
            assert distributed_sampler(n, rank, world, 11, epoch, shuffle).tolist() == list(peer)


@pytest.mark.parametrize(("n", "world"), [(23, 4), (24, 4), (7, 4), (9, 2), (5, 5), (6, 1)])
def test_magface_slices(n, world):
    starts = list(range(0, n, n // world))
    starts = [*starts, n] if len(starts) == world else starts
    for rank in range(world):
        first, last = (starts[rank], starts[rank + 1]) if world > 1 else (0, n)
        assert magface_slice(n, rank, world).tolist() == [k for k in range(n) if first <= k <= last]


def test_magface_slices_of_too_short_a_list():
    with pytest.raises(ConfigError, match="3 lines"):
        magface_slice(3, 0, 4)


@pytest.mark.parametrize("name", ["facex", "distributed_sampler", "magface_list"])
def test_orders_feed_the_loader(name):
    counts, positions = set(), []
    for rank in range(2):
        order = build_order(name, 41, BatchShape(8, 2, rank, 2), seed=3)
        loader = BatchLoader(FakeSet(41), 8, 2, rank, 2, 3, order=order)
        batches = list(loader.epoch(1))
        counts.add(len(batches))
        assert all(len(g) == 2 and all(len(b) == 2 for b in g) for g in batches)
        positions += [p for b in batches[0] for p in b.position.tolist()]
        mine = np.concatenate([b.index.numpy() for g in batches for b in g])
        if name == "distributed_sampler":
            assert mine.tolist() == distributed_sampler(41, rank, 2, 3, 1)[:20].tolist()
        if name == "magface_list":
            slice_ = magface_slice(41, rank, 2)
            shuffled = slice_[torch.randperm(21, generator=torch.Generator().manual_seed(0))]
            assert mine.tolist() == shuffled[:20].tolist()
    assert counts == {5}
    assert sorted(positions) == list(range(8))


def test_unknown_order_and_too_few_samples():
    with pytest.raises(ConfigError, match="unknown order 'random'"):
        build_order("random", 41, BatchShape(8, 2))
    with pytest.raises(ConfigError, match="fewer than its share"):
        build_order("distributed_sampler", 3, BatchShape(8, 2))
