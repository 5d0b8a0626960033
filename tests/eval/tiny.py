"""A tiny method and small verification sets for the tests of evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from facex.data.verification import write_bin
from facex.methods import Embedding, InputSpec, Method
from facex.methods.method import Nets


class Tiny(Method):
    """A linear embedding of 8×8 pictures, with a dropout that must be off during evaluation."""

    input = InputSpec(8, 8, "bgr")

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 16))
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            self.net[2].weight.normal_(generator=generator)
            self.net[2].bias.zero_()

    def networks(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def embed(
        self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
    ) -> Embedding:
        vector = nets["net"](images)
        if flip:
            vector = vector + nets["net"](images.flip(3))
        return Embedding(vector, vector.norm(dim=1))


def faces(people: int, seed: int = 0, size: int = 112) -> np.ndarray:
    """Two noisy pictures a person, uint8 [people, 2, size, size, 3] RGB."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (people, 1, 7, 7, 3)) + rng.integers(-30, 31, (people, 2, 7, 7, 3))
    scaled = [
        [cv2.resize(c.astype(np.uint8), (size, size), interpolation=cv2.INTER_CUBIC) for c in two] for two in coarse
    ]
    return np.array(scaled)


def encode(image: np.ndarray) -> bytes:
    """JPEG of uint8 [H, W, 3] RGB."""
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def make_bin(path: Path, pairs: int = 20, seed: int = 0) -> Path:
    """A set of `pairs` pairs, genuine and impostor in turn."""
    pictures = faces(pairs, seed)
    entries, issame = [], []
    for i in range(pairs):
        same = i % 2 == 0
        entries += [encode(pictures[i, 0]), encode(pictures[i if same else (i + 1) % pairs, 1])]
        issame.append(same)
    write_bin(path, entries, issame)
    return path


def make_run(
    folder: Path, steps: tuple[int, ...] = (10,), scores: tuple[float | None, ...] = (None,), kind: type[Tiny] = Tiny
) -> Path:
    """A run folder with checkpoints of Tiny, or a kind of it; the weights of step s are scaled by s, or zero where the
    score is 0."""
    from facex.train.checkpoint import CheckpointManager
    from facex.train.method_state import method_state

    manager = CheckpointManager(folder, keep_last=0)
    for step, score in zip(steps, scores, strict=True):
        method = kind()
        with torch.no_grad():
            method.net[2].weight.mul_(0.0 if score == 0 else step)
            method.net[2].bias.fill_(0.1)
        meta = {
            "method": {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": {}},
            "networks": {"net": "Sequential"},
        }
        manager.save(step, meta=meta, method_state=method_state(method), score=score)
    return folder
