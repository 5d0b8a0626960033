"""The one batched loader: a thread reads ahead, the data set's C++ pool decodes, transforms run on the device."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from facex.data.draws import Draws
from facex.data.order import BatchShape, Order, ShuffledOrder
from facex.data.transforms import Transform
from facex.methods.batch import Batch, Field


class ReadableSet(Protocol):
    """The part of a FaceDataset (facex.data.dataset) that the loader uses."""

    @property
    def color(self) -> str: ...

    @property
    def kinds(self) -> Mapping[str, Field]: ...

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray, out: dict[str, Tensor]) -> None: ...

    def allocate(self, b: int, pin: bool) -> dict[str, Tensor]: ...


@runtime_checkable
class ChangingSet(Protocol):
    """A set that shows a sample differently in each epoch (a masked copy for some, chosen before anything is decoded)."""

    def read_in_epoch(self, epoch: int, indices: np.ndarray, out: dict[str, Tensor]) -> None:
        """As `read`, for an epoch counted from 0: the same for any number of ranks, and after a resume."""
        ...


@dataclass(frozen=True)
class _Failure:
    """What the reading thread hands over instead of a batch when it cannot go on."""

    error: BaseException


class BatchLoader:
    """Global batches of a data set, each as this rank's micro-batches in accumulation order, on the device.

    `prefetch` global batches are read ahead by one thread (0: none, everything happens in the caller's thread).
    `order` is the default `ShuffledOrder` unless another one is given. An error while reading is raised by the
    iterator, with its own type, when the batch before it has been consumed. Transforms run in the consumer, on the
    device, in the order given, each with draws of its own; those that work on the host (`Transform.on_host`) and come
    first run in the reading thread.
    """

    def __init__(
        self,
        dataset: ReadableSet,
        global_batch: int,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
        transforms: Sequence[Transform] = (),
        prefetch: int = 4,
        drop_last: bool = True,
        order: Order | None = None,
    ) -> None:
        self.dataset = dataset
        self.seed = seed
        self.device = torch.device(device)
        self.transforms = tuple(transforms)
        self.prefetch = prefetch
        self.order = order or ShuffledOrder(
            len(dataset), BatchShape(global_batch, micro_batch, rank, world_size), seed, drop_last
        )
        self.shape = self.order.shape
        self._pin = self.device.type == "cuda"
        ours = (place for place, transform in enumerate(self.transforms) if not transform.on_host)
        self._on_host = next(ours, len(self.transforms))  # so many transforms run in the reading thread

    @property
    def batches_per_epoch(self) -> int:
        """Global batches in an epoch, equal on every rank."""
        return self.order.batches_per_epoch

    def epoch(self, epoch: int, start: int = 0) -> Generator[list[Batch], None, None]:
        """Iterate over the global batches start, start + 1, ... of an epoch. Close the iterator (or exhaust it) to
        stop the reading thread."""
        numbers = range(start, self.batches_per_epoch)
        host = self._read_ahead(epoch, numbers) if self.prefetch > 0 else (self._read(epoch, n) for n in numbers)
        try:
            for number, batches in zip(numbers, host, strict=True):
                yield [self._finish(batch, epoch, number) for batch in batches]
        finally:
            host.close()

    def transform(self, batch: Batch, batch_number: int) -> Batch:
        """The transforms alone; `batch_number` counts the global batches consumed since the run began."""
        return self._transform(batch, batch_number, range(len(self.transforms)))

    def _transform(self, batch: Batch, batch_number: int, places: range) -> Batch:
        for place in places:
            transform = self.transforms[place]
            draws = Draws(self.seed, batch_number, batch.position)
            batch = transform(batch, draws.scoped(f"transforms.{place}.{type(transform).__name__}"))
        return batch

    def _finish(self, batch: Batch, epoch: int, number: int) -> Batch:
        places = range(self._on_host, len(self.transforms))
        return self._transform(batch.to(self.device), epoch * self.batches_per_epoch + number, places)

    def _prepare(self, batch: Batch, epoch: int, number: int) -> Batch:
        """The transforms of the reading thread; what they made is page-locked as the rest is."""
        if not self._on_host:
            return batch
        batch = self._transform(batch, epoch * self.batches_per_epoch + number, range(self._on_host))
        if self._pin:
            batch = batch.with_fields(**{name: value.pin_memory() for name, value in batch.fields.items()})
        return batch

    def _read(self, epoch: int, number: int) -> list[Batch]:
        """Read one global batch into host memory. Buffers are new each time: pinned ones come from torch's caching host
        allocator, which hands a block out again only when the copy from it has ended."""
        batches = []
        for indices, positions in self.order.global_batch(epoch, number):
            fields = self.dataset.allocate(len(indices), self._pin)
            if isinstance(self.dataset, ChangingSet):
                self.dataset.read_in_epoch(epoch, indices, fields)
            else:
                self.dataset.read(indices, fields)
            batch = Batch(
                fields=fields,
                kinds=dict(self.dataset.kinds),
                color=self.dataset.color,
                index=torch.from_numpy(np.array(indices)),
                position=torch.from_numpy(np.array(positions)),
            )
            batches.append(self._prepare(batch, epoch, number))
        return batches

    def _read_ahead(self, epoch: int, numbers: range) -> Generator[list[Batch], None, None]:
        ready: queue.Queue[list[Batch] | _Failure] = queue.Queue(maxsize=self.prefetch)
        stop = threading.Event()

        def put(item: list[Batch] | _Failure) -> bool:
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        def work() -> None:
            try:
                for number in numbers:
                    if not put(self._read(epoch, number)):
                        return
            except BaseException as error:  # handed over, raised in the consumer
                put(_Failure(error))

        thread = threading.Thread(target=work, name="facex-loader", daemon=True)
        thread.start()
        try:
            for _ in numbers:
                item = ready.get()
                if isinstance(item, _Failure):
                    raise item.error
                yield item
        finally:
            stop.set()
            thread.join()
