"""Official checkpoints that the plain recogniser reads and writes: insightface, AdaFace, CVLface.

    insightface             model.pt, backbone.pth: the bare backbone (arcface_torch)
    insightface-ddp         the same saved from inside DDP: `module.`
    insightface-checkpoint  checkpoint_gpu_{rank}.pt: `state_dict_backbone`, a shard of the class centres in each
    adaface-lightning       `model.` the backbone, `head.kernel` [D, C], `head.batch_mean`, `head.batch_std`, `head.t` (unused)
    adaface                 AdaFace's bare backbone
    cvlface                 model.pt with `net.`, and class centres `partial_fc.` in classifier_rank{rank}.pt
    cvlface-fc              the same with a classifier that is whole on every rank: `classifier.`

Files of several ranks are read and written by facex.commands.rank_files, which joins them under the names above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from facex.methods import Format
from facex.methods.formats import bare_format, prefixed_format
from facex.models import Identified, identify_backbone

CENTRES = "state_dict_softmax_fc.weight"  # what rank_files calls insightface's joined class centres
_RUNNING = ("batch_mean", "batch_std")
# Prefixes of the layouts above; AdaFace's lightning module holds IR networks only.
_PREFIXES = ("", "module.", "state_dict_backbone.", "net.", "model.")


def recogniser_formats(keys: Sequence[str]) -> list[Format]:
    """The layouts of a network `backbone` with these names; the first is the one to write if none is asked for."""
    insightface = [
        bare_format("insightface", "backbone", keys, "arcface_torch's model.pt: the backbone's state dict"),
        prefixed_format("insightface-ddp", "backbone", keys, "module.", describe="model.pt saved from inside DDP"),
        _insightface_checkpoint(keys),
    ]
    adaface = [
        prefixed_format(
            "adaface-lightning",
            *("backbone", keys, "model.", "head.kernel", "DC", "AdaFace's Lightning checkpoint: head.kernel [D, C]"),
            head_required=False,
            margin_keys={f"head.{name}": name for name in _RUNNING},
            constants={"head.t": torch.zeros(1)},
        ),
        bare_format("adaface", "backbone", keys, "AdaFace's backbone alone"),
    ]
    return [*(adaface if is_ir(keys) else insightface), *_cvlface(keys)]


def is_ir(keys: Sequence[str]) -> bool:
    """Whether a network with these names is one of AdaFace's."""
    return "input_layer.0.weight" in keys


def recognise_official(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Constructor arguments of the recogniser for an official file; None if it is of another kind.

    What names cannot tell is the layout's published default: the margin (ArcFace, or AdaFace where its running values
    are there) and the input (RGB, for AdaFace BGR; both +-1).
    """
    found = identify_backbone(state, _PREFIXES)
    if found is None or (found.prefix == "model." and not _is_adaface(state, found)):
        return None
    arguments = {"margin": _margin(state, found), "backbone": found.name, "embedding_size": found.embedding_size}
    if found.options:
        arguments["backbone_options"] = dict(found.options)
    if found.name.startswith("ir_") and found.prefix != "net.":
        arguments["input"] = {"color": "bgr"}
    return arguments


def _is_adaface(state: Mapping[str, Any], found: Identified) -> bool:
    """Whether a Lightning file holds an IR network and its head alone: with further networks it is another method's."""
    return found.name.startswith("ir_") and all(key.startswith(("model.", "head.")) for key in state)


def _margin(state: Mapping[str, Any], found: Identified) -> dict[str, Any]:
    if "partial_fc.batch_mean" in state or "classifier.batch_mean" in state:
        return {"class_path": "facex.heads.margins.AdaFace", "init_args": {"form": "cvlface"}}
    plain = "head.kernel" in state and "head.batch_mean" not in state
    if found.name.startswith("ir_") and found.prefix != "net." and not plain:
        return {"class_path": "facex.heads.margins.AdaFace"}
    return {"class_path": "facex.heads.margins.ArcFace"}


def _insightface_checkpoint(keys: Sequence[str]) -> Format:
    return prefixed_format(
        "insightface-checkpoint",
        *("backbone", keys, "state_dict_backbone.", CENTRES),
        describe="arcface_torch's checkpoint_gpu_{rank}.pt, one for each rank",
    )


def _cvlface(keys: Sequence[str]) -> list[Format]:
    formats = []
    for name, classifier in (("cvlface-fc", "classifier"), ("cvlface", "partial_fc")):
        made = prefixed_format(
            name,
            *("backbone", keys, "net.", f"{classifier}.weight"),
            describe=f"CVLface's model.pt, class centres {classifier}.weight in classifier_rank{{rank}}.pt",
            head_required=False,
            margin_keys={f"{classifier}.{value}": value for value in _RUNNING},
            container="",
        )
        formats.append(made)
    # without its classifier the whole one cannot be told from the sharded one
    return [replace(formats[0], recognise=lambda state: "classifier.weight" in state), formats[1]]
