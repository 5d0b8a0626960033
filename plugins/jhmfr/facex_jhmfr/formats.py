"""Official JHMFR files: `{"model": state dict}` of a masked autoencoder or of a fine-tuned network, told apart by their
names.

jhmfr        FaceT or IResNet, trained with a margin: the network's own names
jhmfr-mae    a masked autoencoder: `mask_token`, `encoder.*`, `enc_to_dec.*`, `decoder.*`, `to_pixels.*`
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from facex.errors import CheckpointError
from facex.methods import Format
from facex.methods.formats import bare_format

ENCODER = "encoder."
MAE_KEY = "mask_token"


def network_format(name: str, network: str, keys: Sequence[str], describe: str) -> Format:
    """The network's own names under the key `model`; a `module.` of data-parallel training is taken off."""
    layout = bare_format(name, network, keys, describe)
    plain = (layout.recognise, layout.read)
    layout.recognise = lambda state: plain[0](bare_names(state))
    layout.read = lambda state: plain[1](bare_names(state))
    layout.container = "model"
    return layout


def encoder_format(network: str) -> Format:
    """A masked autoencoder's file as the start of a network: its encoder, which has no prompts."""

    def read(state: dict[str, Any]) -> dict[str, Any]:
        return {"networks": {network: encoder_of(state)}, "head": None, "meta": {}}

    def write(content: dict[str, Any]) -> dict[str, Any]:
        raise CheckpointError(
            "jhmfr-mae holds a whole masked autoencoder; a fine-tuned network goes into the format jhmfr"
        )

    return Format("jhmfr-mae", is_autoencoder, read, write, "JHMFR's MAE file: its encoder alone", "model")


def bare_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """The names without the `module.` of data-parallel training."""
    return {name.removeprefix("module."): value for name, value in state.items()}


def is_autoencoder(state: Mapping[str, Any]) -> bool:
    """Whether these are the names of a masked autoencoder."""
    names = bare_names(state)
    return MAE_KEY in names and any(name.startswith(ENCODER) for name in names)


def encoder_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder's tensors under FaceT's own names."""
    return {name[len(ENCODER) :]: value for name, value in bare_names(state).items() if name.startswith(ENCODER)}


def recognise_facet(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Constructor arguments of the method JHMFR for a FaceT's tensors; None if they are none.

    Names and shapes tell everything but the residual form, which is deepnorm in every published command, and without
    prompts the number of heads, which are 64 wide there.
    """
    names = bare_names(state)
    needed = ("pos_embed", "patch_embed.to_token.weight", "blocks.0.attn.qkv.weight", "class_head.0.weight")
    if any(name not in names for name in needed):
        return None
    options = facet_options(names)
    return {
        "backbone": "facet_base",
        "embedding_size": int(names["class_head.0.weight"].shape[0]),
        "backbone_options": options,
        "input": _input(names, options["patch_size"]),
    }


def facet_options(names: Mapping[str, Tensor]) -> dict[str, Any]:
    """A FaceT's shape, from its tensors."""
    width, patch_values = names["patch_embed.to_token.weight"].shape
    depth = 0
    while f"blocks.{depth}.attn.qkv.weight" in names:
        depth += 1
    options: dict[str, Any] = {
        "embed_dim": int(width),
        "depth": depth,
        "num_heads": max(int(width) // 64, 1),
        "mlp_ratio": names["blocks.0.mlp.fc1.weight"].shape[0] / int(width),
        "patch_size": math.isqrt(int(patch_values) // 3),
        "prompt_layers": 0,
    }
    if "prompts" in names and "prompts_pool.tokens" in names:
        layers, conditions, tokens, _ = names["prompts"].shape
        options |= {"prompt_layers": int(layers), "conditions": int(conditions), "prompt_tokens": int(tokens)}
        options |= {"num_heads": int(names["prompts_pool.tokens"].shape[1]), "allow_unused_prompts": layers > depth}
    return options


def _input(names: Mapping[str, Tensor], patch: int) -> dict[str, int]:
    side = patch * math.isqrt(int(names["pos_embed"].shape[1]))
    return {"height": side, "width": side}


def recognise_autoencoder(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Constructor arguments of the method JHMFRPretrain for a masked autoencoder's tensors; None if they are none."""
    if not is_autoencoder(state):
        return None
    names = bare_names(state)
    found = recognise_facet(encoder_of(names))
    if found is None:
        return None
    depth = 0
    while f"decoder.blocks.{depth}.attn.qkv.weight" in names:
        depth += 1
    width = int(names[MAE_KEY].shape[-1])
    decoder = {"decoder_dim": width, "decoder_depth": depth}
    decoder["decoder_mlp_ratio"] = names["decoder.blocks.0.mlp.fc1.weight"].shape[0] / width
    del found["backbone_options"]["prompt_layers"]
    return {**found, **decoder}
