"""BatchLoader: the right samples, errors with their type, no hang."""

import threading

import pytest
import torch

from facex.data.loader import BatchLoader
from facex.data.transforms import HorizontalFlip, RandomShift
from facex.errors import RecordError
from tests.data.fakes import FakeSet


def loader_threads() -> int:
    return sum(t.name == "facex-loader" for t in threading.enumerate())


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    assert loader_threads() == 0


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_reads_every_sample_once_with_its_fields(prefetch):
    data = FakeSet(24)
    loader = BatchLoader(data, 6, 3, seed=1, prefetch=prefetch)
    batches = list(loader.epoch(0))
    assert len(batches) == loader.batches_per_epoch == 4
    flat = [b for g in batches for b in g]
    assert sorted(torch.cat([b.index for b in flat]).tolist()) == list(range(24))
    for b in flat:
        expected = data.allocate(3, False)
        data.read(b.index.numpy(), expected)
        assert set(b.fields) == set(expected)
        for name, value in expected.items():
            assert torch.equal(b[name], value)
        assert b.color == "rgb"
        assert b.kinds == data.kinds
    assert [b.position.tolist() for b in batches[0]] == [[0, 1, 2], [3, 4, 5]]


def test_ranks_and_accumulation_agree_including_transforms():
    transforms = [HorizontalFlip(), RandomShift(2), HorizontalFlip()]
    one = list(BatchLoader(FakeSet(40), 12, 2, 0, 1, 7, transforms=transforms).epoch(1))
    two = [list(BatchLoader(FakeSet(40), 12, 2, r, 2, 7, transforms=transforms).epoch(1)) for r in range(2)]
    for number, group in enumerate(one):
        for place, batch in enumerate(group):
            other = two[place % 2][number][place // 2]
            assert torch.equal(batch.index, other.index)
            for name in batch.fields:
                assert torch.equal(batch[name], other[name])


def test_starts_in_the_middle_of_an_epoch_without_reading_before():
    whole = list(BatchLoader(FakeSet(40), 8, 4, seed=3, transforms=[HorizontalFlip()]).epoch(2))
    data = FakeSet(40)
    rest = list(BatchLoader(data, 8, 4, seed=3, transforms=[HorizontalFlip()]).epoch(2, start=3))
    assert len(rest) == 2
    assert len(data.reads) == 4
    for a, b in zip(whole[3:], rest, strict=True):
        assert all(torch.equal(x["image"], y["image"]) for x, y in zip(a, b, strict=True))


def test_epochs_and_batches_draw_differently():
    loader = BatchLoader(FakeSet(8), 8, 8, transforms=[HorizontalFlip()])
    seen = []
    for epoch in range(2):
        (batch,) = next(iter(loader.epoch(epoch)))
        raw = FakeSet(8).allocate(8, False)
        FakeSet(8).read(batch.index.numpy(), raw)
        seen.append([not torch.equal(a, b) for a, b in zip(batch["image"], raw["image"], strict=True)])
    assert seen[0] != seen[1]
    assert any(seen[0])
    assert not all(seen[0])


@pytest.mark.parametrize("prefetch", [0, 2])
def test_error_of_the_reading_thread_reaches_the_consumer(prefetch):
    data = FakeSet(24)
    loader = BatchLoader(data, 6, 3, seed=1, prefetch=prefetch)
    data.fail_at = int(loader.order.global_batch(0, 2)[1][0][0])
    batches = loader.epoch(0)
    next(batches), next(batches)
    with pytest.raises(RecordError, match=f"record {data.fail_at} does not decode"):
        next(batches)
    assert loader_threads() == 0


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_abandoned_iterator_stops_its_thread(taken):
    batches = BatchLoader(FakeSet(200), 2, 2, prefetch=2).epoch(0)
    for _ in range(taken):
        next(batches)
    batches.close()
    assert loader_threads() == 0


def test_error_in_the_consumer_stops_the_thread():
    def consume() -> None:
        for _ in BatchLoader(FakeSet(200), 2, 2, prefetch=2).epoch(0):
            raise KeyError("consumer")

    with pytest.raises(KeyError):
        consume()


def test_empty_rest_of_an_epoch():
    assert list(BatchLoader(FakeSet(8), 4, 4).epoch(0, start=2)) == []


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_batches_equal_cpu_batches():
    transforms = [HorizontalFlip(), RandomShift(2)]
    cpu = BatchLoader(FakeSet(40), 8, 4, seed=3, transforms=transforms)
    cuda = BatchLoader(FakeSet(40), 8, 4, seed=3, transforms=transforms, device="cuda")
    for a, b in zip(cpu.epoch(0), cuda.epoch(0), strict=True):
        for x, y in zip(a, b, strict=True):
            assert y["image"].is_cuda
            assert all(torch.equal(x[name], y[name].cpu()) for name in x.fields)
