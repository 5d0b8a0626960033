"""What a masked autoencoder makes of a picture of which it sees a part: for TensorBoard and for the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facex.data.draws import Draws
from facex.errors import ConfigError
from facex.inference.embed import evaluation_mode
from facex.methods import InputSpec, Method
from facex_jhmfr.mae import MaskedAutoencoder, masked_pictures


@dataclass
class Reconstructions:
    """Pictures uint8 [n, H, W, 3] RGB in the network's size: hidden patches grey, predictions in their places, the
    originals; error float32 [n], the mean squared error of the hidden patches; hidden, their share."""

    seen: np.ndarray
    filled: np.ndarray
    originals: np.ndarray
    error: np.ndarray
    hidden: float


def reconstruct(
    method: Method, images: np.ndarray, seed: int = 0, device: torch.device | str = "cpu"
) -> Reconstructions:
    """Reconstructions of uint8 `images` [n, H, W, 3] RGB; which patches are hidden follows from `seed` and the place.

    Raises:
        ConfigError: a method that is no masked autoencoder, or whose targets are normalised patches.
    """
    mae = method.networks().get("mae")
    if not isinstance(mae, MaskedAutoencoder):
        raise ConfigError(f"{type(method).__name__} is no masked autoencoder: give a run of JHMFRPretrain")
    if mae.norm_pix:
        raise ConfigError("an autoencoder with norm_pix predicts patches without their brightness: nothing to show")
    x = method.input.to_tensor(torch.from_numpy(np.ascontiguousarray(images)).to(device), "rgb")
    draws = Draws(seed, 0, torch.arange(len(images)), "reconstructions/")
    nets: Mapping[str, Any] = {"mae": mae.to(device)}
    with evaluation_mode(method, nets):
        error, predictions, masked = mae(x, draws.uniform("mask", mae.tokens).to(device))
    hidden, filled = masked_pictures(x, predictions, masked, mae.patch_size)
    seen, drawn, originals = (to_pictures(part, method.input).cpu().numpy() for part in (hidden, filled, x))
    return Reconstructions(seen, drawn, originals, error.float().cpu().numpy(), mae.hidden / mae.tokens)


def to_pictures(x: Tensor, spec: InputSpec) -> Tensor:
    """Network input float32 [n, 3, H, W] -> uint8 [n, H, W, 3] RGB."""
    mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
    pixels = (x.float() * std + mean).round().clamp(0, 255).to(torch.uint8)
    return (pixels if spec.color == "rgb" else pixels.flip(1)).permute(0, 2, 3, 1)
