"""The options of `facex eval`, and which of them go together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from facex.errors import ConfigError

# Options that mean something with some protocols alone; unset they are None or False.
_DRAWN = ("ratios", "occluder", "fill", "repeats", "occlusion_seed")  # of the occlusion protocol and of IJB
_PAIRED = ("one", "both", "flip_occlusion", "pad", "grey")
_IJB = ("ijb", "ijb_set", "ijb_rules", "fusion", "no_detector_score", "unit_faces", "tar_rule", "no_search", "threads")


def build_parser() -> ArgumentParser:
    """Options of `facex eval`."""
    parser = ArgumentParser(
        prog="facex eval",
        description="1:1 verification of a trained run on .bin sets or pair lists, plain or under occlusion; identification on"
        " the AR database; 1:1 and 1:N of IJB-B and IJB-C. Under `deepspeed` or `torchrun` the processes share the pictures.",
    )
    add: Any = parser.add_argument
    add("--config", action="config", help="YAML file with any of the options below")
    add("--checkpoint", type=str, required=True, help="run folder or checkpoint folder")
    add("--compare", type=str, nargs="+", default=[], help="further runs on the same faces: [NAME=]FOLDER ...")
    add("--name", type=str, default="trained", help="what tables and report call the checkpoint's network")
    add("--best", action="store_true", help="the best checkpoint of each run, not the last")
    add("--step", type=int, default=None, help="the checkpoint of this step")
    add(
        "--options",
        type=dict[str, Any],
        default={},
        help="constructor arguments of the checkpoint's method in place of the run's (how faces are embedded), as JSON",
    )
    add(
        "--protocol",
        choices=["verification", "occlusion", "ar", "ijb"],
        default="verification",
        help="what is evaluated",
    )
    _sets(add)
    _numbers(add)
    _occlusion(add)
    _ijb(add)
    _output(add)
    return parser


def _sets(add: Any) -> None:
    add("--bin", type=str, nargs="+", default=[], help="verification sets (insightface .bin files)")
    add("--pairs", type=str, nargs="+", default=[], help="pair lists of picture files below --images")
    add("--images", type=str, default=None, help="folder of the pictures of --pairs, or of the AR database")
    add(
        "--pair-format",
        choices=["auto", "lines", "indexed"],
        default="auto",
        help="lines: a path a line, two a pair (PKU-Masked-Face); indexed: `person i j` (LFW, MFR2, RMFRD)",
    )
    add("--missing", choices=["raise", "skip"], default="raise", help="pairs, probes or faces whose picture is missing")
    add("--on-error", choices=["raise", "grey"], default="raise", help="for pictures that do not decode")
    add(
        "--gallery", type=int, nargs="+", default=None, help="AR: numbers of the gallery's pictures (default 1-7 14-20)"
    )


def _numbers(add: Any) -> None:
    add("--no-flip", action="store_true", help="do not fuse the mirrored view")
    add("--baselines", action="store_true", help="also raw pixels and the untrained network")
    add("--folds", type=int, default=10, help="folds of the accuracy")
    add("--uneven-folds", action="store_true", help="accept pairs that do not divide into the folds")
    add(
        "--far",
        type=float,
        nargs="+",
        default=None,
        help="false accept rates for TAR (default 1e-2 1e-3; IJB: 1e-6 ... 1e-1)",
    )
    add(
        "--erc",
        action="store_true",
        help="error versus reject by the method's quality (MagFace, AdaFace: the magnitude)",
    )
    add("--erc-fmr", type=float, default=1e-3, help="false match rate of --erc")
    add("--erc-nominal", action="store_true", help="MagFace's nominal threshold for --erc, not the measured rate")


def _occlusion(add: Any) -> None:
    add("--ratios", type=int, nargs="+", default=None, help="areas of the block in per cent (default 0 10 ... 90)")
    add("--both", action="store_true", help="occlude both pictures of a pair (default)")
    add("--one", action="store_true", help="occlude the left picture of a pair alone")
    add("--fill", choices=["black", "white", "gauss"], default=None, help="of the block (default black)")
    add("--repeats", type=int, default=None, help="draws of each condition (default 10; one where nothing is drawn)")
    add(
        "--flip-occlusion",
        choices=["independent", "shared"],
        default=None,
        help="the mirrored view has an occlusion of its own (default, official), or the same one mirrored",
    )
    add("--occluder", type=str, nargs="+", default=None, help="block (default), or others: glasses scarf rectangle ...")
    add("--occlusion-seed", type=int, default=None, help="another seed is other places (default 0)")
    add("--pad", action="store_true", help="pictures below the input's size get a black border (old MSML LightCNN)")
    add("--grey", action="store_true", help="make the pictures grey before they are occluded")


def _ijb(add: Any) -> None:
    add("--ijb", type=str, default=None, help="folder of IJB-B or IJB-C: meta/ with the lists, loose_crop/")
    add("--ijb-set", choices=["IJBB", "IJBC"], default=None, help="which one (default: what the folder holds)")
    add(
        "--ijb-rules",
        choices=["insightface", "adaface", "magface", "magface_weighted"],
        nargs="+",
        default=None,
        help="whose script counts; several share the embeddings (default insightface)",
    )
    add(
        "--fusion",
        choices=["method", "pre_norm_vector_add", "norm_weighted_avg", "average", "concat"],
        default=None,
        help="of a face and its mirror image (default: the method's own; MagFace's rules have no mirror image)",
    )
    add("--no-detector-score", action="store_true", help="do not weigh faces by the detector's score")
    add("--unit-faces", action="store_true", help="normalise every face before faces are averaged")
    add("--tar-rule", choices=["nearest", "at_most"], default=None, help="the FAR may be exceeded (official), or never")
    add("--no-search", action="store_true", help="1:1 alone, without the 1:N lists")
    add("--threads", type=int, default=None, help="threads that read and align faces (default: the cores of a rank)")


def _output(add: Any) -> None:
    add("--report", type=str, default=None, help="folder for index.html and results.json")
    add("--no-pictures", action="store_true", help="keep faces out of the report (photos of real people)")
    add("--pictures", action="store_true", help="mask overlays in the report also of faces that facex did not render")
    add(
        "--axis",
        type=str,
        default=None,
        help="the report draws networks called ARM@NUMBER over NUMBER; this is what it is",
    )
    add(
        "--figures",
        type=str,
        nargs="+",
        default=[],
        help="folders of .png files that the report shows: TITLE=FOLDER ...",
    )
    add(
        "--vis",
        type=str,
        default=None,
        help="folder for pictures of one face: predicted mask, masked features by stage",
    )
    add("--vis-entry", type=int, default=3, help="which picture of the first set --vis draws")
    add("--vis-ratio", type=int, default=35, help="area of its block in per cent")
    add("--json", type=str, default=None, help="file for the numbers; - prints them alone on stdout")
    add("--batch-size", type=int, default=64, help="pictures of one forward pass")
    add("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")


def check(options: Namespace) -> None:
    """ConfigError for options that contradict each other, before anything is loaded."""
    if options.best and options.step is not None:
        raise ConfigError("--best and --step N exclude each other: which checkpoint is meant?")
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size {options.batch_size}: at least one picture is needed")
    if not 0 < options.erc_fmr < 1:
        raise ConfigError(f"--erc-fmr {options.erc_fmr}: a false match rate lies between 0 and 1")
    for one, other in (("both", "one"), ("pictures", "no_pictures"), ("figures", "no_pictures")):
        if options[one] and options[other]:
            raise ConfigError(f"{_flag(one)} and {_flag(other)} exclude each other")
    _check_report(options)
    if options.protocol == "ijb":
        _check_ijb(options)
        return
    _refuse(options, _IJB, "belongs to --protocol ijb")
    if options.protocol != "occlusion":
        _refuse(options, (*_DRAWN, *_PAIRED), "belongs to --protocol occlusion")
    if options.protocol == "ar":
        _check_ar(options)
        return
    _refuse(options, ("gallery",), "belongs to --protocol ar")
    if not options.bin and not options.pairs:
        raise ConfigError("no faces to verify: give --bin FILE ..., or --pairs LIST ... with --images FOLDER")
    if bool(options.pairs) != bool(options.images):
        raise ConfigError("--pairs and --images go together: the lists name pictures below that folder")


def _check_report(options: Namespace) -> None:
    for name in ("axis", "figures"):
        if options[name] and not options.report:
            raise ConfigError(f"{_flag(name)} needs --report FOLDER: it is about the page")
        if options[name] and options.protocol in ("ar", "ijb"):
            raise ConfigError(f"{_flag(name)} does not belong to --protocol {options.protocol}")
    for text in options.figures:
        title, _, folder = text.partition("=")
        if not title or not folder or not any(Path(folder).glob("*.png")):
            raise ConfigError(f"--figures {text}: write TITLE=FOLDER, a folder with .png files")
    if options.axis:
        from facex.eval.series_page import check_names

        check_names(networks(options))


def _check_ar(options: Namespace) -> None:
    if not options.images:
        raise ConfigError("--protocol ar needs --images FOLDER, the aligned pictures of the AR database")
    _refuse(options, ("bin", "pairs", "report", "baselines", "erc", "vis"), "does not belong to --protocol ar")


def _check_ijb(options: Namespace) -> None:
    if not options.ijb:
        raise ConfigError("--protocol ijb needs --ijb FOLDER, with meta/ (the lists) and loose_crop/ (the pictures)")
    others = ("bin", "pairs", "images", "gallery", "baselines", "erc", "vis", "pictures", *_PAIRED)
    _refuse(options, others, "does not belong to --protocol ijb")
    if options.fusion and options.no_flip:
        raise ConfigError("--fusion and --no-flip exclude each other: there is one view")
    if not options.ratios and not options.occluder:
        _refuse(options, _DRAWN, "says nothing without --ratios or --occluder")
    if options.threads is not None and options.threads < 1:
        raise ConfigError(f"--threads {options.threads}: at least one is needed")


def _refuse(options: Namespace, names: Sequence[str], why: str) -> None:
    given = [
        name for name in names if not any(options[name] is unset for unset in (None, False)) and options[name] != []
    ]
    if given:
        raise ConfigError(f"{_flag(given[0])} {why}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def networks(options: Namespace) -> dict[str, str]:
    """Run folders by the names of their networks, the checkpoint's first. ConfigError for two of one name."""
    found = {options.name: options.checkpoint}
    for text in options.compare:
        name, separator, folder = text.partition("=")
        if not separator or Path(text).exists():
            name, folder = Path(text).resolve().name, text
        if not name or name in found or name in ("raw_pixels", "untrained"):
            raise ConfigError(f"--compare {text}: the name {name!r} is taken or empty; write OTHER={folder}")
        found[name] = folder
    return found
