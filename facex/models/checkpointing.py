"""Activation checkpointing that leaves BatchNorm's statistics right.

The recomputation runs the block a second time in training mode, and a BatchNorm would move its running statistics and
its counter again (`num_batches_tracked` 2 after one step). Here the statistics are switched off in the second pass, so
that a checkpointed network trains exactly like the plain one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


@contextlib.contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, BatchNorms in training mode normalise by the batch and leave their buffers alone (SyncBatchNorm too).

    A momentum of 0 makes the update the identity; the same tensors are saved for the backward pass as in the first one,
    which torch's checkpointing insists on.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, counter in kept:
            norm.momentum, norm.num_batches_tracked = momentum, counter


def checkpointed(block: nn.Module, x: Tensor, *further: Tensor | None) -> Tensor:
    """`block(x, *further)`, its activations recomputed in the backward pass (torch's non-reentrant checkpointing).

    The second pass repeats the first one's dropout: torch keeps the generators' states. A compiler that traces this
    sees the statistics' update as one of the graph's outputs and writes it once by itself.
    """
    if torch.compiler.is_compiling():
        return checkpoint(block, x, *further, use_reentrant=False)
    return checkpoint(
        block,
        x,
        *further,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), frozen_statistics(block)),
    )
