"""`facex lafs-landmarks`: the learned landmarks of any face images, as numbers, pictures and overlap statistics.

facex lafs-landmarks --checkpoint part_vit_B_34epoch.pth --data faces --out landmarks
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from facex.data import open_dataset
from facex.errors import CheckpointError, ConfigError
from facex.files import atomic_path, write_json
from facex.inference.embed import pick_device
from facex.methods import InputSpec
from facex_lafs.checkpoints import landmarks_of, read_file
from facex_lafs.landmark_cnn import COORDINATE_MAX
from facex_lafs.landmark_views import LandmarkNetwork
from facex_lafs.overlay import draw_landmarks, overlap


def build_parser() -> ArgumentParser:
    """The command's options."""
    parser = ArgumentParser(prog="facex lafs-landmarks", description="Learned landmarks: numbers, overlays, overlap.")
    add = parser.add_argument
    add("--checkpoint", type=str, required=True, help="stage-1 or fine-tuned file, or a run of LAFS or LAFSPretrain")
    add("--data", type=str, required=True, help="image folder, list or RecordIO set; other sizes are resized")
    add("--out", type=str, required=True, help="folder for landmarks.npz, landmarks.json and the overlays")
    add("--patch_size", type=int, default=8, help="side of a patch, for outlines and overlap")
    add("--size", type=int, default=112, help="side of the pictures that the network reads")
    add("--coordinate_max", type=float, default=COORDINATE_MAX, help="largest coordinate of the network")
    add("--samples", type=int, default=0, help="pictures that are read, evenly from the set; 0: all")
    add("--overlays", type=int, default=16, help="pictures that are drawn")
    add("--boxes", type=bool, default=False, help="outline every patch")
    add("--batch_size", type=int, default=64, help="pictures of one pass")
    add("--device", type=str, default="auto", help="auto, cpu or cuda")
    return parser


def main(argv: list[str]) -> int:
    """Write the numbers and the pictures; prints a summary."""
    options = build_parser().parse_args(argv)
    if options.batch_size < 1 or options.patch_size < 1 or options.size < 32:
        raise ConfigError("--batch_size and --patch_size are at least 1, --size at least 32")
    network = load_landmark_network(options.checkpoint, options.coordinate_max).to(pick_device(options.device)).eval()
    images, indices = read_pictures(options.data, options.size, options.samples)
    landmarks = find_landmarks(network, images, options.batch_size)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    statistics = overlap(landmarks, options.patch_size, options.size)
    summary = summarise(statistics, landmarks, options.patch_size, options.size)
    export(out, landmarks, indices, statistics, summary)
    for k in range(min(options.overlays, len(images))):
        drawn = draw_landmarks(images[k : k + 1], landmarks[k : k + 1], options.patch_size, boxes=options.boxes)[0]
        with atomic_path(out / f"overlay_{k:04d}.png") as temporary:
            temporary.write_bytes(cv2.imencode(".png", drawn.numpy()[..., ::-1])[1].tobytes())
    print(json.dumps(summary, indent=2))
    return 0


def load_landmark_network(path: str | Path, coordinate_max: float = COORDINATE_MAX) -> LandmarkNetwork:
    """The landmark network of a file or run, strictly; its size is read off its tensors."""
    state = landmarks_of(read_file(path))
    weight, stem = state.get("output_layer.1.weight"), state.get("stn.features.0.0.weight")
    if weight is None or stem is None:
        raise CheckpointError(f"{path}: its landmark network lacks output_layer or stn.features.0")
    network = LandmarkNetwork(len(weight) // 2, width=weight.shape[1] / 160, coordinate_max=coordinate_max)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its landmark network is of another architecture: {error}") from error
    return network


def read_pictures(data: str, size: int, samples: int) -> tuple[Tensor, np.ndarray]:
    """Pictures uint8 [n, size, size, 3] RGB and their numbers in the set."""
    dataset = open_dataset(data, color="rgb", size=size)
    count = min(samples, len(dataset)) if samples > 0 else len(dataset)
    indices = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(np.int64))
    rows = dataset.allocate(len(indices), False)
    dataset.read(indices, rows)
    return rows["image"], indices


@torch.no_grad()
def find_landmarks(network: LandmarkNetwork, images: Tensor, batch_size: int) -> Tensor:
    """Landmarks [n, N, 2] of pictures uint8 [n, H, W, 3], on the CPU."""
    device, spec = next(network.parameters()).device, InputSpec(*images.shape[1:3])
    parts = [
        network(spec.to_tensor(images[i : i + batch_size].to(device), "rgb")).cpu()
        for i in range(0, len(images), batch_size)
    ]
    return torch.cat(parts)


def summarise(statistics: dict[str, Tensor], landmarks: Tensor, patch_size: int, size: int) -> dict[str, Any]:
    """Means over the pictures, and how far a landmark wanders from picture to picture."""
    numbers = {name: round(float(values.mean()), 4) for name, values in statistics.items()}
    wander = float(landmarks.std(0, unbiased=False).norm(dim=1).mean()) if len(landmarks) > 1 else 0.0
    facts = {"pictures": len(landmarks), "landmarks": landmarks.shape[1], "patch_size": patch_size, "size": size}
    return {**facts, **numbers, "wander": round(wander, 4)}


def export(
    out: Path, landmarks: Tensor, indices: np.ndarray, statistics: dict[str, Tensor], summary: dict[str, Any]
) -> None:
    """landmarks.npz (landmarks float32 [n, N, 2] = (x, y) in pixels, index int64 [n], statistics float32 [n]) and
    landmarks.json."""
    with atomic_path(out / "landmarks.npz") as temporary, open(temporary, "wb") as file:
        numbers: dict[str, Any] = {k: v.numpy() for k, v in statistics.items()}
        np.savez(file, landmarks=landmarks.numpy(), index=indices, **numbers)
    write_json(out / "landmarks.json", summary)
