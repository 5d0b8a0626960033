"""Small networks, methods and batches that the tests share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from facex_jhmfr import JHMFR, FaceT, JHMFRPretrain

from facex.methods import Batch, Field, InputSpec

SHAPE: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 4, "patch_size": 8}
DECODER: dict[str, Any] = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


def facet(**options: Any) -> FaceT:
    """A FaceT of two blocks on pictures of 32 pixels."""
    torch.manual_seed(0)
    own = {"embedding_size": 8, "input_size": 32, "prompt_layers": 2, "prompt_tokens": 3, **options}
    return FaceT(**{**SHAPE, **own})


def tuned(backbone_options: dict[str, Any] | None = None, **options: Any) -> JHMFR:
    """JHMFR with such a network."""
    torch.manual_seed(0)
    shape = {**SHAPE, "prompt_layers": 2, "prompt_tokens": 3, **(backbone_options or {})}
    return JHMFR(**{"embedding_size": 8, "input": InputSpec(32, 32), "backbone_options": shape, **options})


def pretrained(backbone_options: dict[str, Any] | None = None, **options: Any) -> JHMFRPretrain:
    """Its pre-training."""
    torch.manual_seed(1)
    shape = {**SHAPE, **(backbone_options or {})}
    return JHMFRPretrain(
        **{"embedding_size": 8, "input": InputSpec(32, 32), "backbone_options": shape, **DECODER, **options}
    )


def batch(flags: bool = True, count: int = 4) -> Batch:
    """Network-ready pictures with labels, half of them masked."""
    torch.manual_seed(2)
    fields = {"image": torch.randn(count, 3, 32, 32), "label": torch.arange(count)}
    if flags:
        fields["flag"] = torch.arange(count) % 2 == 1
    kinds = {"image": Field("image"), "label": Field("label"), "flag": Field("flag")}
    return Batch(fields, kinds, "rgb", torch.arange(count), torch.arange(count))


def context(method: Any, world_size: int = 1) -> Any:
    """What a method asks of the trainer."""
    return SimpleNamespace(
        nets=method.networks(),
        rank=0,
        world_size=world_size,
        uniform=lambda stream, *shape: torch.rand(4, *shape, generator=torch.Generator().manual_seed(len(stream))),
        mean=lambda values: values.mean(),
    )
