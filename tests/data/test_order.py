"""The order of samples: pure in (seed, epoch), equal for any number of ranks, resumable at any batch."""

import numpy as np
import pytest

from facex.data.order import BatchShape, ShuffledOrder, permutation
from facex.errors import ConfigError

PINNED = [8, 2, 4, 3, 6, 0, 9, 1, 5, 7]


def test_permutation_is_pure_and_complete():
    a = permutation(101, seed=3, epoch=4)
    assert np.array_equal(a, permutation(101, 3, 4))
    assert sorted(a.tolist()) == list(range(101))
    assert not np.array_equal(a, permutation(101, 3, 5))
    assert not np.array_equal(a, permutation(101, 4, 4))
    assert not np.array_equal(permutation(101, 2**32 + 3, 4), a)


def test_permutation_never_changes():
    # a run that is resumed under a later version must see the same samples; these numbers were written down once
    assert permutation(10, 0, 0).tolist() == PINNED
    assert permutation(10, -1, 0).tolist() != PINNED


def test_permutation_is_uniform():
    first = [int(permutation(8, 0, e)[0]) for e in range(800)]
    counts = np.bincount(first, minlength=8)
    assert counts.sum() == 800
    assert ((counts - 100.0) ** 2 / 100).sum() < 24.3  # chi square, 7 degrees, p = 0.001


@pytest.mark.parametrize("world", [1, 2, 3, 6])
@pytest.mark.parametrize("drop_last", [True, False])
def test_any_number_of_ranks_sees_the_same_micro_batches(world, drop_last):
    samples, micro = 101, 4
    whole = ShuffledOrder(samples, BatchShape(24, micro), 5, drop_last)
    ranks = [ShuffledOrder(samples, BatchShape(24, micro, r, world), 5, drop_last) for r in range(world)]
    assert {o.batches_per_epoch for o in ranks} == {whole.batches_per_epoch} == {4 if drop_last else 5}
    for epoch in (0, 1):
        seen = []
        for number in range(whole.batches_per_epoch):
            one = whole.global_batch(epoch, number)
            parts = [o.global_batch(epoch, number) for o in ranks]
            many = [parts[r][a] for a in range(6 // world) for r in range(world)]
            assert len(one) == len(many) == 6
            for (i1, p1), (i2, p2) in zip(one, many, strict=True):
                assert np.array_equal(i1, i2)
                assert np.array_equal(p1, p2)
            assert np.concatenate([p for _, p in one]).tolist() == list(range(24))
            seen += np.concatenate([i for i, _ in one]).tolist()
        expected = permutation(samples, 5, epoch).tolist()
        assert seen == (expected[:96] if drop_last else expected + expected[:19])


def test_more_batch_than_samples():
    with pytest.raises(ConfigError, match="10 samples, fewer than one global batch of 16"):
        ShuffledOrder(10, BatchShape(16, 4))
    order = ShuffledOrder(3, BatchShape(8, 4), drop_last=False)
    assert order.batches_per_epoch == 1
    assert set(np.concatenate([i for i, _ in order.global_batch(0, 0)]).tolist()) == {0, 1, 2}


def test_no_shuffle_and_bad_numbers():
    order = ShuffledOrder(9, BatchShape(4, 4), shuffle=False)
    assert order.global_batch(3, 1)[0][0].tolist() == [4, 5, 6, 7]
    with pytest.raises(ConfigError, match="batch 2 of an epoch of 2"):
        order.global_batch(0, 2)
    with pytest.raises(ConfigError, match="empty"):
        ShuffledOrder(0, BatchShape(4, 4))


@pytest.mark.parametrize("shape", [(10, 4, 0, 1), (8, 4, 0, 3), (8, 0, 0, 1), (8, 4, 2, 2)])
def test_impossible_shapes(shape):
    with pytest.raises(ConfigError, match=r"multiple of micro batch|impossible batch shape"):
        BatchShape(*shape)
