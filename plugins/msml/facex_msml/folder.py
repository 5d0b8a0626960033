"""The published code's output folder: `backbone.pth` with the `config.yaml` that tells what the tensors cannot.

Official to facex, `training.log` is kept as it is (text for people), and `config.yaml` as `msml_config.yaml`; facex to
official, the log has a line for each logged step of `metrics.jsonl`.
"""

from __future__ import annotations

import json
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
KEPT = "msml_config.yaml"  # the official config in an imported run


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
    shutil.copyfile(folder / CONFIG, output / KEPT)
    if (folder / LOG).is_file():
        shutil.copyfile(folder / LOG, output / LOG)
    return report


def export_folder(
    run: Path,
    output: Path,
    dataset: str | None = None,
    batch_size: int = 128,
    prefix: str = "facex",
    number: int = 1,
    num_classes: int | None = None,
) -> str:
    """A facex run -> an output folder that the published code loads: `dataset` is its name for the identities (unset: by
    their number), `num_classes` their number where its config.py was changed, `batch_size` that of one GPU.

    Raises:
        ConfigError: a folder that is there already, a run that the published code cannot hold, another number of classes.
        CheckpointError: a run without the weights that belong into the file.
    """
    if output.exists():
        raise ConfigError(f"{output} is there already: name a new folder")
    loaded = load_run(run)
    config = _config(loaded.method, _dataset(loaded.meta.get("num_classes"), dataset, num_classes))
    config |= {"fp16": _fp16(run), "batch_size": batch_size, "exp_id": number, "output_prefix": prefix}
    output.mkdir(parents=True)
    try:
        report = export_run(run, output / WEIGHTS, "msml")
    except CheckpointError:
        output.rmdir()
        raise
    write_text(output / CONFIG, yaml.safe_dump(config, sort_keys=False))
    if (run / LOG).is_file():
        shutil.copyfile(run / LOG, output / LOG)
    elif (run / "metrics.jsonl").is_file():
        write_text(output / LOG, _log_lines(run / "metrics.jsonl"))
    return report


def _fp16(run: Path) -> bool:
    """Mixed precision as the run's own config says it, or the official one it came from; else the published default."""
    if (run / KEPT).is_file():
        return read_config(run / KEPT).fp16
    if not (run / CONFIG).is_file():
        return True
    content = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8")) or {}
    return (content.get("trainer") or {}).get("precision", "fp16") != "fp32"


def _log_lines(metrics: Path) -> str:
    """A line a logged step: its number, the losses, the learning rates."""
    lines = []
    for text in metrics.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(text)
        except ValueError:
            continue  # the last line of a run that was cut off
        shown = {k: v for k, v in entry.items() if k.endswith("/loss") or k.endswith("/lr") or "/lr/" in k}
        if "step" in entry and shown:
            lines.append(f"step {entry['step']}: " + ", ".join(f"{k} {v:.6g}" for k, v in shown.items()) + "\n")
    return "".join(lines)


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


def _dataset(classes: int | None, named: str | None = None, changed: int | None = None) -> str:
    """The published name of the identities: `named`, which must have as many (or `changed`), or the one that has."""
    known = ", ".join(f"{name} ({count} identities)" for name, count in CLASSES.items())
    if named is None:
        for name, count in CLASSES.items():
            if count == classes:
                return name
        raise ConfigError(
            f"the published code knows {known}; this run has {classes}: choose one with --dataset, set its number of "
            f"classes in their config.py, and say so with --num-classes {classes}"
        )
    expected = CLASSES[named] if changed is None else changed
    if classes != expected:
        raise ConfigError(
            f"--dataset {named} has {expected} identities, this run {classes}; the published code knows {known}. Where "
            f"their config.py was changed to this number: --num-classes {classes}"
        )
    return named


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
