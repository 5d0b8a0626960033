"""Official checkpoints of MSML: `backbone.pth`, and plain recognition networks for the branch or the teacher.

    msml           frb.*, osb.*, classification.weight (and .bias under Softmax); frb.peer.* with a peer
    msml-features  the same without classification.*
    msml-plain     the recognition branch alone under the names of a plain IResNet or LightCNN

What the names cannot tell: activation, arithmetic and skip of the operators. `config.yaml` beside the file tells the
first two (facex_msml.folder); nothing tells whether the skip was there yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from facex.errors import CheckpointError
from facex.methods import Format
from facex.methods.formats import shorten
from facex_msml.iresnet_fm import BLOCKS

NETWORK = "msml"
HEAD, BIAS = "classification.weight", "classification.bias"
PEER = "frb.peer."
_FM = "frb.fm_ops."
_NOT_PLAIN = ("fm_ops.", "peer.", "decoder.")
UNTOLD = (
    "activation, arithmetic and skip of the operators are not in the file: set fm to what it was trained with; "
    "code from before 14 January 2022 had tanh, add and skip false"
)

NO_PEER = (
    "the published code loads a peer's weights with this file (frb.peer.*), and this run was given none: train it with "
    "--init_from '[{path: arcface18.pth, network: peer}]', or write the recognition branch alone (msml-plain)"
)


def msml_formats(net: nn.Module, peer: bool | None = None) -> list[Format]:
    """The layouts of an MSMLNet; the first is the one to write if none is asked for. `peer`: None without a teacher; with
    one, its tensors are the network `peer`, and False says that they are still random, which is refused in writing."""
    return [_whole("msml", True, peer), _whole("msml-features", False, peer), _plain(net)]


def split_official(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The parts of a `backbone.pth`: what Format.read returns; meta holds the classifier's bias and the peer's tensors.

    Raises:
        CheckpointError: names that belong to none of the parts.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    foreign = [key for key in state if not key.startswith(("frb.", "osb.", "classification."))]
    foreign += [key for key in state if key.startswith("classification.") and key not in (HEAD, BIAS)]
    if foreign:
        raise CheckpointError(f"msml: keys that do not belong to this layout: {shorten(foreign)}")
    own = {k: v for k, v in state.items() if k.startswith(("frb.", "osb.")) and not k.startswith(PEER)}
    meta: dict[str, Any] = {}
    if BIAS in state:
        meta["bias"] = state[BIAS]
    peer = {key.removeprefix(PEER): value for key, value in state.items() if key.startswith(PEER)}
    if peer:
        meta["peer"] = peer
    return {"networks": {NETWORK: own}, "head": state.get(HEAD), "meta": meta}


def join_official(content: Mapping[str, Any], head: bool = True) -> dict[str, Tensor]:
    """The inverse: recognition branch, peer, segmentation branch, classifier, in the published order."""
    own, meta = _network(content), content.get("meta", {})
    state = {key: value for key, value in own.items() if key.startswith("frb.")}
    state |= {PEER + key: value for key, value in meta.get("peer", {}).items()}
    state |= {key: value for key, value in own.items() if key.startswith("osb.")}
    if not head:
        return state
    if content.get("head") is None:
        raise CheckpointError(f"msml holds class centres ({HEAD}), but there are none to write: use msml-features")
    state[HEAD] = content["head"]
    if meta.get("bias") is not None:
        state[BIAS] = meta["bias"]
    return state


def _whole(name: str, head: bool, peer: bool | None) -> Format:
    def read(state: dict[str, Any]) -> dict[str, Any]:
        content = split_official(state)
        if peer is not None and "peer" in content["meta"]:
            content["networks"]["peer"] = content["meta"].pop("peer")
        return content

    def write(content: dict[str, Any]) -> dict[str, Any]:
        meta = dict(content.get("meta", {}))
        if peer is not None:
            tensors = content["networks"].get("peer")
            if not peer or tensors is None:
                raise CheckpointError(NO_PEER)
            meta["peer"] = tensors
        return join_official({**content, "meta": meta}, head)

    def recognise(state: dict[str, Any]) -> bool:
        return is_official(state) and head == (HEAD in state or f"module.{HEAD}" in state)

    what = "backbone.pth" if head else "backbone.pth without its classifier"
    return Format(name, recognise, read, write, f"{what}; {UNTOLD}", "")


def is_official(state: Mapping[str, Any]) -> bool:
    """Whether both branches are there."""
    return any(f"{m}frb.fc.weight" in state and f"{m}osb.conv1.weight" in state for m in ("", "module."))


def _network(content: Mapping[str, Any]) -> Mapping[str, Tensor]:
    network: Mapping[str, Tensor] | None = content["networks"].get(NETWORK)
    if network is None:
        raise CheckpointError(
            f"this run trained {', '.join(content['networks'])} alone: there is no {NETWORK} to write"
        )
    return network


def _plain(net: nn.Module) -> Format:
    """A plain network's file: read as network `frb`; written from the recognition branch, without what a plain one
    lacks."""
    own = [k.removeprefix("frb.") for k in net.state_dict() if k.startswith("frb.")]
    names = [name for name in own if not name.startswith(_NOT_PLAIN)]

    def recognise(state: dict[str, Any]) -> bool:
        stripped = {key.removeprefix("module.") for key in state}
        return 2 * sum(name in stripped for name in names) >= len(names)

    def read(state: dict[str, Any]) -> dict[str, Any]:
        network = {key.removeprefix("module."): value for key, value in state.items()}
        # LightCNN's classifier over the identities it was trained on
        network = {key: value for key, value in network.items() if not key.startswith("fc2.")}
        return {"networks": {"frb": network}, "head": None, "meta": {}}

    def write(content: dict[str, Any]) -> dict[str, Any]:
        network = _network(content)
        return {name: network[f"frb.{name}"] for name in names}

    return Format(
        "msml-plain", recognise, read, write, "the recognition branch alone, as a plain IResNet or LightCNN", ""
    )


def recognise_official(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Constructor arguments of MSML for an official `backbone.pth`; None if the names are not MSML's.

    What the names cannot tell is the default (see the module): FMConfig's activation, arithmetic and skip, the margin's
    numbers, the input's normalisation.
    """
    if not is_official(state):
        return None
    state = {key.removeprefix("module."): value for key, value in state.items()}
    frb = _branch(state)
    if frb is None:
        return None
    layers = [int(f"{_FM}{stage}.same_conv.weight" in state) for stage in range(4)]
    arguments: dict[str, Any] = {"margin": _margin(state), "backbone": frb, "fm_layers": layers}
    size = int(state["frb.fc.weight"].shape[0])
    if size != (256 if frb == "lightcnn" else 512):
        arguments["embedding_size"] = size
    if any(layers):
        arguments["fm"] = _operator(state, layers.index(1))
        peer = _peer(state, layers.index(1))
        if peer is not None:
            arguments["peer"] = peer
    return arguments


def _branch(state: Mapping[str, Any]) -> str | None:
    if "frb.conv1.filter.weight" in state:
        return "lightcnn"
    counts = tuple(_count(state, f"frb.layer{stage}.{{}}.conv1.weight") for stage in range(1, 5))
    depth = next((d for d, blocks in BLOCKS.items() if blocks == counts and d in (18, 34, 50)), None)
    return None if depth is None else f"iresnet{depth}"


def _margin(state: Mapping[str, Any]) -> dict[str, Any]:
    plain = BIAS in state
    return {"class_path": "facex.heads.margins.Softmax" if plain else "facex_msml.margins.AMArcFace"}


def _operator(state: Mapping[str, Any], stage: int) -> dict[str, Any]:
    kernel = int(state[f"{_FM}{stage}.same_conv.weight"].shape[-1])
    return {"kernel_size": kernel, "resblocks": _count(state, f"{_FM}{stage}.res_block.{{}}.conv1.weight")}


def _peer(state: Mapping[str, Any], stage: int) -> dict[str, Any] | None:
    """The peer extension as far as names tell: without convolutions and with the inverted mask it has none."""
    use_conv, learnt = f"{_FM}{stage}.conv1.0.weight" in state, f"{_FM}{stage}.conv_m.0.weight" in state
    if not (use_conv or learnt or any(key.startswith(PEER) for key in state)):
        return None
    decoder = any(key.startswith("frb.decoder.") for key in state)
    return {"use_conv": use_conv, "mask_trans": "conv" if learnt else "invert", "use_decoder": decoder}


def _count(state: Mapping[str, Any], pattern: str) -> int:
    count = 0
    while pattern.format(count) in state:
        count += 1
    return count
