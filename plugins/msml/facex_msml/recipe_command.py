"""`facex msml-recipe`: a config.yaml of MSML's repository as a recipe of `facex train`.

facex msml-recipe config.yaml recipe.yaml --gpus 4               what `train.py` trains on 4 GPUs
facex msml-recipe out/x_1/config.yaml go_on.yaml --resume 13     where `train.py --resume 13` goes on, with its backbone.pth
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from facex.errors import ConfigError
from facex.files import write_text


def main(argv: list[str]) -> int:
    """Write the recipe, and say how to train it."""
    options = build_parser().parse_args(argv)
    from facex_msml.recipe_files import training_config
    from facex_msml.recipes import read_config

    output = Path(options.output)
    if output.exists():
        raise ConfigError(f"{output} is there already: name a new file")
    config = read_config(options.input)
    content = training_config(config, options.gpus, options.data, options.resume, not options.no_occ)
    weights = Path(options.input).parent / "backbone.pth"  # beside the config
    if options.resume:
        content["init_from"][0]["path"] = str(weights)
    write_text(output, yaml.safe_dump(content, sort_keys=False))
    print(f"{output}: train with `deepspeed --num_gpus {options.gpus} --module facex train --config {output}`")
    if config.peer_params.use_ori and not (options.resume and _holds_peer(weights)):
        source = f"{{path: {config.frb_type}.pth, network: peer}}"
        print(
            f"the peer (use_ori) needs the weights of a plain {config.frb_type}: add {source} to init_from in {output}"
        )
    return 0


def _holds_peer(weights: Path) -> bool:
    """Whether a `backbone.pth` brings the peer, which `init_from` then reads with the rest."""
    from facex.methods.loading import read_state
    from facex_msml.formats import PEER

    if not weights.is_file():
        return False
    return any(key.removeprefix("module.").startswith(PEER) for key in read_state(weights))


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="facex msml-recipe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", help="config.yaml of the published code")
    parser.add_argument("output", help="recipe to write")
    parser.add_argument("--gpus", type=int, default=4, help="GPUs of the run; batch_size counts for each of them")
    parser.add_argument("--data", help="RecordIO folder (default: data/ and the name of the data set)")
    parser.add_argument("--resume", type=int, default=0, help="epoch at which a run of the published code goes on")
    parser.add_argument(
        "--no-occ", action="store_true", help="without occluders (the published --occ, which is always on)"
    )
    return parser
