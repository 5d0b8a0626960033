"""One rank of tests/train/test_reshard.py: `reshard_worker.py ROOT train|resume`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from torch import nn

from facex.methods import Method
from facex.train import launch
from facex.train.checkpoint import ENGINE_TAG, CheckpointManager
from facex.train.checkpoint_files import check_engine_pickles
from facex.train.config import OptimizerConfig
from facex.train.method_state import describe_networks, method_state
from facex.train.optim import build_optimizer

CASES = [(0, "sgd"), (1, "sgd"), (2, "adamw")]


class Net(Method):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(6, 5), nn.PReLU(5), nn.Linear(5, 3))

    def networks(self):
        return {"backbone": self.backbone}


def make(zero: int, optimizer: str, world: int, universal: bool):
    import deepspeed

    torch.manual_seed(0)
    method = Net()
    settings = OptimizerConfig(name=optimizer, lr=0.05, weight_decay=0.01, no_decay="bias_norm")
    engine, *_ = deepspeed.initialize(
        model=method.backbone,
        optimizer=build_optimizer(settings, method.param_groups("backbone")),
        config={
            "train_batch_size": 8,
            "train_micro_batch_size_per_gpu": 8 // world,
            "zero_optimization": {"stage": zero},
            "zero_allow_untested_optimizer": True,
            "checkpoint": {"load_universal": universal},
        },
        dist_init_required=False,
    )
    return method, engine


def steps(engine, ranks: launch.Ranks, first: int, last: int) -> list[float]:
    """Train on global batches first..last-1; the global losses."""
    losses = []
    for number in range(first, last):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(number)).chunk(ranks.world_size)[ranks.rank]
        loss = engine(x).square().mean()
        engine.backward(loss)
        engine.step()
        value = loss.detach().clone()
        if ranks.world_size > 1:
            torch.distributed.all_reduce(value)
        losses.append(float(value) / ranks.world_size)
    return losses


def main() -> None:
    root, what = Path(sys.argv[1]), sys.argv[2]
    ranks = launch.start()
    result = {}
    for zero, optimizer in CASES:
        manager = CheckpointManager(root / f"z{zero}", rank=ranks.rank, world_size=ranks.world_size)
        if what == "train":
            method, engine = make(zero, optimizer, ranks.world_size, universal=False)
            steps(engine, ranks, 0, 3)
            manager.save(
                3,
                meta={"zero": zero, "networks": describe_networks(method)},
                method_state=method_state(method),
                save_engines=lambda folder, engine=engine: engine.save_checkpoint(
                    str(folder / "engine_backbone"), tag=ENGINE_TAG
                ),
            )
        else:
            checkpoint = manager.open()
            checkpoint.check_world(ranks.world_size, zero)
            method, engine = make(zero, optimizer, ranks.world_size, checkpoint.meta.get("universal", False))
            folder = checkpoint.engine_dir("backbone")
            check_engine_pickles(folder)
            engine.load_checkpoint(str(folder), tag=checkpoint.engine_tag)
            state = checkpoint.method_state()
            assert all(torch.equal(v, state[k]) for k, v in method_state(method).items())
        result[f"z{zero}"] = steps(engine, ranks, 3, 6)
    if ranks.rank == 0:
        (root / f"{what}.json").write_text(json.dumps(result))
    torch.distributed.barrier()
    os._exit(0)  # DeepSpeed's and gloo's threads take seconds to end


if __name__ == "__main__":
    main()
