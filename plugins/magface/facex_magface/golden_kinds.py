"""magface/checkpoint_keys: the names of official checkpoints, through the converter in both directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from facex.methods import Format
from facex.methods.loading import load_network
from facex_magface.method import MagFace

CLASSES = 3  # the names do not depend on the number of classes


def run_checkpoint_keys(case: Any) -> dict[str, np.ndarray]:
    """Write both training layouts, compare their names with the official ones, read them back into inference names."""
    method = MagFace(backbone=case.params["architecture"], embedding_size=case.params["embedding_size"])
    formats = {f.name: f for f in method.formats()}
    content = {
        "networks": {"backbone": method.backbone.state_dict()},
        "head": torch.zeros(CLASSES, case.params["embedding_size"]),
    }
    results = []
    for layout, names in (("magface-dataparallel", "dp_keys"), ("magface-split-fc", "ddp_keys")):
        state = formats[layout].write(content)
        _same(list(state), [str(k) for k in case.inputs[names]], layout)
        if not set(case.params["head_keys"]) & set(state):
            raise AssertionError(f"{layout}: no class centres under {case.params['head_keys']}")
        results.append(_inference(method, formats, state, layout))
    _same(results[0][0], results[1][0], "inference names of both layouts")
    keys, shapes = results[0]
    return {"inference_keys": np.array(keys), "shapes": np.array(shapes)}


def _inference(
    method: MagFace, formats: dict[str, Format], state: dict[str, Any], layout: str
) -> tuple[list[str], list[str]]:
    recognised = [f.name for f in method.formats() if f.recognise(state)]
    _same(recognised, [layout], "recognised layout")
    content = formats[layout].read(state)
    if tuple(content["head"].shape) != (CLASSES, method.backbone.embedding_size):
        raise AssertionError(f"{layout}: class centres read as {tuple(content['head'].shape)}")
    load_network(method.backbone, content["networks"]["backbone"], layout, "backbone", strict=True)
    inference = formats["magface-inference"].write({**content, "head": None})
    return list(inference), ["x".join(map(str, value.shape)) for value in inference.values()]


def _same(got: list[str], official: list[str], what: str) -> None:
    if got != official:
        raise AssertionError(f"{what}: {sorted(set(got) ^ set(official))[:6] or 'another order'}")


KINDS = {"magface/checkpoint_keys": run_checkpoint_keys}
