"""Official checkpoints that SARFace reads and writes, told apart by their names.

    sarface            stage 2, Lightning: `model.` recogniser, `head.kernel` [D, C], `seg_model.` parser, `policy.`
    sarface-pretrain   stage 1: the same without `policy.`
    adaface-lightning  AdaFace's, and a recogniser alone: `model.`, `head.kernel`
    adaface            AdaFace's bare backbone
    sarface-parser     the parser alone: `encoder.`, `decoder.`
    sarface-policy     the policy alone: `embed.`, `feature_extractor.`, `fc.`

`seg_model.` contains `model.`, so parts are told by the start of a name. Files are read with `weights_only` and every part
is loaded strictly (`facex.methods.loading`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from facex.errors import CheckpointError
from facex.methods import Format
from facex.methods.formats import bare_format, prefixed_format, shorten
from facex.models import identify_backbone
from facex_sarface.swiftformer import VARIANTS

RECOGNISER, PARSER, POLICY = "recogniser", "parser", "policy"
PREFIXES = {RECOGNISER: "model.", PARSER: "seg_model.", POLICY: "policy."}
HEAD = "head.kernel"
# AdaFace's running values; `t` is kept by the official code and never used
RUNNING = ("batch_mean", "batch_std")
UNUSED = "head.t"


def sarface_formats(networks: Mapping[str, nn.Module], parser: nn.Module | None = None) -> list[Format]:
    """The layouts of a method with these networks (`recogniser`, `policy`, `parser`, or some of them); the first is the one to
    write if none is asked for.

    A part of a file that is none of the method's networks is left. `parser` is written where the run did not keep its own.
    """
    keys = {name: list(module.state_dict()) for name, module in networks.items()}
    formats = [whole_format(stage, list(networks), parser) for stage in (2, 1)]
    if RECOGNISER in keys:
        formats += _recogniser_formats(keys[RECOGNISER])
    if PARSER in keys:
        formats.append(bare_format("sarface-parser", PARSER, keys[PARSER], "the face parser's .pth"))
    if POLICY in keys:
        formats.append(bare_format("sarface-policy", POLICY, keys[POLICY], "the policy alone"))
    return formats if POLICY in keys else [formats[1], formats[0], *formats[2:]]


def whole_format(stage: int, networks: Iterable[str], parser: nn.Module | None = None) -> Format:
    """The Lightning checkpoint of a stage."""
    wanted = tuple(networks)

    def recognise(state: dict[str, Any]) -> bool:
        return official_stage(state) == stage

    def read(state: dict[str, Any]) -> dict[str, Any]:
        content = split_official(state)
        content["networks"] = {name: part for name, part in content["networks"].items() if name in wanted}
        return content

    def write(content: dict[str, Any]) -> dict[str, Any]:
        return join_official(content, stage, parser)

    name = "sarface" if stage == 2 else "sarface-pretrain"
    return Format(name, recognise, read, write, f"SARFace's Lightning checkpoint of stage {stage}")


def official_stage(state: Mapping[str, Any]) -> int | None:
    """2 with a policy, 1 with a parser alone beside the recogniser, None for a file that is not SARFace's."""
    parts = {name for name, prefix in PREFIXES.items() if any(key.startswith(prefix) for key in state)}
    if RECOGNISER not in parts or parts == {RECOGNISER}:
        return None
    return 2 if POLICY in parts else 1


def split_official(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The parts of a Lightning file: what Format.read returns; meta holds the margin's running values.

    Raises:
        CheckpointError: names that belong to none of the parts.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    margin: dict[str, Tensor] = {}
    head: Tensor | None = None
    foreign = []
    for key, value in state.items():
        name = next((n for n, prefix in PREFIXES.items() if key.startswith(prefix)), None)
        if name is not None:
            parts.setdefault(name, {})[key[len(PREFIXES[name]) :]] = value
        elif key == HEAD:
            head = value.T.contiguous()
        elif key.removeprefix("head.") in RUNNING:
            margin[key.removeprefix("head.")] = value
        elif key != UNUSED:
            foreign.append(key)
    if foreign:
        raise CheckpointError(f"sarface: keys that do not belong to this layout: {shorten(foreign)}")
    return {"networks": parts, "head": head, "meta": {"margin": margin} if margin else {}}


def join_official(content: Mapping[str, Any], stage: int = 2, parser: nn.Module | None = None) -> dict[str, Tensor]:
    """The inverse: recogniser, class centres, parser, policy, under the official names.

    Raises:
        CheckpointError: a part that the stage's file has and the content lacks.
    """
    parts: dict[str, Mapping[str, Tensor]] = dict(content["networks"])
    if PARSER not in parts and parser is not None:
        parts[PARSER] = parser.state_dict()
    needed = (RECOGNISER, PARSER, POLICY) if stage == 2 else (RECOGNISER, PARSER)
    missing = [name for name in needed if name not in parts]
    missing += ["class centres"] if content.get("head") is None else []
    if missing:
        raise CheckpointError(
            f"a SARFace checkpoint of stage {stage} holds {', '.join(missing)}, which this run does not; a recogniser "
            "alone is written as adaface-lightning or adaface"
        )
    state = {PREFIXES[RECOGNISER] + key: value for key, value in parts[RECOGNISER].items()}
    state[HEAD] = content["head"].T.contiguous()
    margin = content.get("meta", {}).get("margin", {})
    if margin:
        state |= {UNUSED: torch.zeros(1), **{f"head.{name}": margin[name] for name in RUNNING if name in margin}}
    for name in needed[1:]:
        state |= {PREFIXES[name] + key: value for key, value in parts[name].items()}
    return state


def recognise_official(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """What the names and shapes of a SARFace file tell; None for a file of another kind.

    backbone, embedding_size, stage (1, 2), adaptive (whether AdaFace's running values are there), parser_variant (None
    for one of other widths), classes of the parser, and in stage 2 actions and regions.
    """
    stage = official_stage(state)
    found = None if stage is None else identify_backbone(state, (PREFIXES[RECOGNISER],))
    if found is None:
        return None
    facts: dict[str, Any] = {"backbone": found.name, "embedding_size": found.embedding_size, "stage": stage}
    facts["adaptive"] = "head.batch_mean" in state
    facts |= _parser_facts(state)
    if stage == 2:
        first, last = state.get("policy.embed.weight"), state.get("policy.fc.weight")
        if first is None or last is None:
            return None
        facts |= {"actions": int(last.shape[0]), "regions": int(first.shape[1]) - 3}
    return facts


def _parser_facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    prefix = f"{PREFIXES[PARSER]}encoder.norm"
    norms = [state.get(f"{prefix}{2 * i}.weight") for i in range(4)]
    widths = tuple(len(n) for n in norms if n is not None)
    last = state.get(f"{PREFIXES[PARSER]}decoder.network.7.0.bias")
    if last is None or len(widths) != len(norms):
        return {}
    variant = next((name for name, (own, _) in VARIANTS.items() if own == widths), None)
    return {"parser_variant": variant, "classes": len(last) // 16}


def _recogniser_formats(keys: list[str]) -> list[Format]:
    lightning = prefixed_format(
        "adaface-lightning",
        *(RECOGNISER, keys, PREFIXES[RECOGNISER], HEAD, "DC", "AdaFace's Lightning checkpoint: head.kernel [D, C]"),
        head_required=False,
        margin_keys={f"head.{name}": name for name in RUNNING},
        constants={UNUSED: torch.zeros(1)},
    )
    plain = lightning.recognise
    bare = bare_format("adaface", RECOGNISER, keys, "AdaFace's backbone alone")
    return [replace(lightning, recognise=lambda state: official_stage(state) is None and plain(state)), bare]
