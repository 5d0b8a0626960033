"""The published code's output folder: `backbone.pth` with the `config.yaml` that tells what the tensors cannot.

`training.log` is kept as it is: text for people.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from facex.commands.convert import export_run, import_file
from facex.errors import CheckpointError, ConfigError
from facex.files import write_text
from facex.heads.margins import Softmax
from facex.methods.loading import read_state
from facex.train.load_run import load_run
from facex_msml.formats import recognise_official
from facex_msml.margins import AMArcFace, AMCosFace
from facex_msml.network import MSMLNet
from facex_msml.recipes import CLASSES, OfficialConfig, read_config

WEIGHTS, CONFIG, LOG = "backbone.pth", "config.yaml", "training.log"


def read_arguments(folder: Path, skip: bool = True) -> dict[str, Any]:
    """Constructor arguments of MSML for a folder. `skip`: the operators add the face map once more; only code from before
    14 January 2022 did not, and nothing in the folder tells.

    Raises:
        CheckpointError: a missing file, or a config that does not fit the tensors; every disagreement is named.
        ConfigError: a config that is not MSML's.
    """
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: no {name}; the published code leaves {WEIGHTS} and {CONFIG} there")
    config = read_config(folder / CONFIG)
    found = recognise_official(read_state(folder / WEIGHTS))
    if found is None:
        raise CheckpointError(f"{folder / WEIGHTS}: its names are not those of an MSML network")
    arguments = {**found, **_arguments(config, skip)}
    wrong = _disagreements(arguments, found)
    if wrong:
        raise CheckpointError(f"{folder}: {CONFIG} does not fit {WEIGHTS}: {'; '.join(wrong)}")
    return arguments


def import_folder(folder: Path, output: Path, skip: bool = True) -> str:
    """An output folder -> a facex run of one checkpoint, loaded strictly. Returns a few lines about what was done."""
    arguments = read_arguments(folder, skip)
    report = import_file(folder / WEIGHTS, output, "MSML", arguments, "msml")
    if (folder / LOG).is_file():
        shutil.copyfile(folder / LOG, output / LOG)
    return report


def export_folder(
    run: Path, output: Path, dataset: str | None = None, batch_size: int = 128, prefix: str = "facex", number: int = 1
) -> str:
    """A facex run -> an output folder that the published code loads: `dataset` is its name for the identities (unset: by
    their number), `batch_size` that of one GPU."""
    if output.exists():
        raise ConfigError(f"{output} is there already: name a new folder")
    loaded = load_run(run)
    config = _config(loaded.method, dataset or _dataset(loaded.meta.get("num_classes")))
    config |= {"batch_size": batch_size, "exp_id": number, "output_prefix": prefix}
    output.mkdir(parents=True)
    report = export_run(run, output / WEIGHTS, "msml")
    write_text(output / CONFIG, yaml.safe_dump(config, sort_keys=False))
    for log in (LOG, "metrics.jsonl"):
        if (run / log).is_file() and not (output / LOG).exists():
            shutil.copyfile(run / log, output / LOG)
    return report


def _arguments(config: OfficialConfig, skip: bool) -> dict[str, Any]:
    kernel, blocks, activation, arith = config.fm_params
    fm = {"kernel_size": kernel, "resblocks": blocks, "activation": activation, "arith": arith, "skip": skip}
    arguments: dict[str, Any] = {
        "margin": _margin(config),
        "backbone": config.frb_type,
        "fm_layers": list(config.fm_layers),
        "fm": fm,
        "use_osb": config.use_osb,
    }
    peer = asdict(config.peer_params)
    if peer.pop("use_ori"):
        arguments["peer"] = {**peer, "kd_weight": 0.0}
    return arguments


def _margin(config: OfficialConfig) -> dict[str, Any]:
    if config.header_type == "Softmax":
        return {"class_path": "facex.heads.margins.Softmax"}
    values = dict(zip(("s", "m", "a", "k"), (float(v) for v in config.header_params), strict=True))
    return {"class_path": f"facex_msml.margins.{config.header_type}", "init_args": values}


def _disagreements(config: dict[str, Any], file: dict[str, Any]) -> list[str]:
    """What the config says otherwise than the tensors."""
    pairs = [(name, config[name], file[name]) for name in ("backbone", "fm_layers")]
    if any(file["fm_layers"]):
        pairs += [(name, config["fm"][name], value) for name, value in file["fm"].items()]
    plain = "facex.heads.margins.Softmax"
    pairs.append(("header Softmax", *(a["margin"]["class_path"] == plain for a in (config, file))))
    for name in ("use_conv", "mask_trans", "use_decoder"):
        # a peer without convolutions and with the inverted mask leaves no tensors but its own
        if "peer" in file or config.get("peer", {}).get("use_conv"):
            pairs.append((name, config.get("peer", {}).get(name), file.get("peer", {}).get(name)))
    return [f"{name} is {said} in the one, {held} in the other" for name, said, held in pairs if said != held]


def _dataset(classes: int | None) -> str:
    for name, count in CLASSES.items():
        if count == classes:
            return name
    raise ConfigError(
        f"the published code knows {', '.join(f'{n} ({c} identities)' for n, c in CLASSES.items())}; this run has "
        f"{classes}: choose one with --dataset, and set its number of classes in their config.py"
    )


def _config(method: Any, dataset: str) -> dict[str, Any]:
    """`config.yaml` of a method MSML."""
    net = getattr(method, "net", None)
    if not isinstance(net, MSMLNet) or method.head is None:
        raise ConfigError(f"{type(method).__name__}: only a run of MSML with its classifier has such a folder")
    if not net.fm.skip and any(net.fm_layers):
        raise ConfigError(
            "fm.skip is false: the published code adds the face map, and its config.yaml cannot say otherwise"
        )
    margin, fm = method.head.margin, net.fm
    kinds = {Softmax: "Softmax", AMCosFace: "AMCosFace", AMArcFace: "AMArcFace"}
    if type(margin) not in kinds:
        raise ConfigError(f"the published code has the heads {', '.join(kinds.values())}, not {type(margin).__name__}")
    numbers = [margin.scale, *(getattr(margin, name, 0.0) for name in ("m", "a", "k"))]
    config = {
        "dataset": dataset,
        "fp16": False,
        "frb_type": net.frb_name,
        "osb_type": "unet",
        "use_osb": net.use_osb,
        "fm_layers": list(net.fm_layers),
        "fm_params": [fm.kernel_size, fm.resblocks, fm.activation, fm.arith],
        "header_type": kinds[type(margin)],
        "header_params": numbers,
    }
    if net.peer is not None:
        p = net.peer
        config["peer_params"] = {
            "use_ori": True,
            "use_conv": p.use_conv,
            "mask_trans": p.mask_trans,
            "use_decoder": p.use_decoder,
        }
    return config
