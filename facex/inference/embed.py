"""Faces to embeddings: uint8 pictures in, vectors (and qualities) out, in batches, without gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from facex.errors import ConfigError, DataError
from facex.methods import Embedding, Method
from facex.methods.method import Nets


def pick_device(name: str) -> torch.device:
    """The torch device of that name; "auto" is the GPU where there is one. ConfigError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name}: {str(error).splitlines()[0]}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: this machine or this PyTorch has no CUDA")
    return device


def plain_nets(method: Method) -> dict[str, nn.Module]:
    """The networks of a method outside training: the trained ones and the frozen ones, as plain modules."""
    return {**{name: frozen.module for name, frozen in method.frozen().items()}, **method.networks()}


@contextmanager
def evaluation_mode(method: Method, nets: Nets) -> Iterator[None]:
    """Evaluation mode and no gradient inside; every module's mode is as it was afterwards."""
    modules = [method, *(net for net in nets.values() if isinstance(net, nn.Module))]
    modes = {id(m): (m, m.training) for module in modules for m in module.modules()}
    try:
        for module in reversed(modules):  # the method last: it may keep parts in another mode on purpose
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes.values():
            part.training = mode


def embed_batch(
    method: Method,
    nets: Nets,
    images: np.ndarray | Tensor,
    color: str,
    device: torch.device | str,
    flip: bool = False,
    maps: bool = False,
    side: Mapping[str, Tensor] | None = None,
) -> Embedding:
    """Embed uint8 `images` [b, H, W, 3] in `color` order ("rgb" or "bgr") in one pass; results float32 on the CPU.

    With `flip` the mirrored view is fused as the method does; `maps` keeps the method's maps, as they are; `side`:
    further fields [b] that the method reads (a mask flag).
    Raises DataError for pictures of another type or shape.
    """
    batch = torch.from_numpy(np.ascontiguousarray(images)) if isinstance(images, np.ndarray) else images
    if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[3] != 3:
        raise DataError(f"pictures must be uint8 [b, H, W, 3], not {batch.dtype} {list(batch.shape)}")
    if color not in ("rgb", "bgr"):
        raise DataError(f"the colour order of pictures is rgb or bgr, not {color!r}")
    beside = None if side is None else {name: value.to(device) for name, value in side.items()}
    found = method.embed(method.input.to_tensor(batch.to(device), color), nets, beside, flip=flip)
    quality = None if found.quality is None else found.quality.detach().float().cpu()
    kept = {name: values.detach().cpu() for name, values in found.maps.items()} if maps else {}
    return Embedding(found.vector.detach().float().cpu(), quality, kept)


def embed_images(
    method: Method,
    nets: Nets | None,
    images_uint8: np.ndarray | Tensor,
    color: str,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    flip: bool = False,
) -> Embedding:
    """Embed uint8 pictures [N, H, W, 3] in `color` order: `vector` float32 [N, D] raw, `quality` float32 [N] or None.

    `nets` None takes the method's own networks, which are moved to `device`; modes are left as they were.
    """
    nets = nets if nets is not None else {name: net.to(device) for name, net in plain_nets(method).items()}
    if len(images_uint8) == 0:
        raise DataError("no pictures to embed")
    with evaluation_mode(method, nets):
        parts = [
            embed_batch(method, nets, images_uint8[i : i + batch_size], color, device, flip)
            for i in range(0, len(images_uint8), batch_size)
        ]
    qualities = [part.quality for part in parts if part.quality is not None]
    return Embedding(torch.cat([p.vector for p in parts]), torch.cat(qualities) if qualities else None)
