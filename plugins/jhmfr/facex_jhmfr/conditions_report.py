"""The work behind `facex jhmfr-report`: networks on masked and bare pairs, and the page with reconstructions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from jsonargparse import Namespace

from facex.data.verification import VerificationSet
from facex.eval import page, plots
from facex.eval.report import Report, write_report
from facex.eval.run import SetResult, evaluate_set, load_bins
from facex.inference.embed import pick_device, plain_nets
from facex.synth.dataset import STAMP
from facex.train.load_run import load_run
from facex_jhmfr.conditions_command import FLAGS
from facex_jhmfr.detect import Detector
from facex_jhmfr.finetune import JHMFR
from facex_jhmfr.masked_pairs import by_conditions
from facex_jhmfr.reconstructions import reconstruct

Results = dict[str, dict[str, SetResult]]
_SHOWN, _ZOOM = 8, 2  # reconstructions, and how many times larger they are shown


@dataclass
class Found:
    """Results by network and set, the sets, and facts for the head of the page."""

    results: Results
    sets: list[VerificationSet]
    rendered: bool  # nobody's photo is among the pictures
    facts: list[tuple[str, str]] = field(default_factory=list)


def evaluate(options: Namespace, folders: Mapping[str, str]) -> Found:
    """Every network on every set under every condition, one network in memory at a time."""
    device = pick_device(options.device)
    plain = load_bins(options.bin, options.folds)
    sets = [*by_conditions(plain, options.mask_seed), *load_bins(options.sets, options.folds)]
    found = Found({}, sets, all(is_rendered(one) for one in sets), [("flags", options.flags)])
    if options.flags not in FLAGS:
        found.facts.append(("detector", detect_flags(sets, options)))
    for name, folder in folders.items():
        run = load_run(folder)
        if isinstance(run.method, JHMFR) and options.flags in ("holistic", "masked", "both"):
            run.method.inference_flag = options.flags
        nets = {each: net.to(device) for each, net in plain_nets(run.method).items()}
        size = options.batch_size
        found.results[name] = {
            one.name: evaluate_set(run.method, nets, one, device, size, folds=options.folds) for one in sets
        }
        for result in found.results[name].values():
            result.conditions = {}  # each set is one condition, whatever its flags say
        found.facts.append((name, f"{folder}, step {run.meta.get('step', '?')}"))
    return found


def detect_flags(sets: list[VerificationSet], options: Namespace) -> str:
    """Put a detector's flags in the place of the given ones; how many pictures it is right about."""
    detector, right, known = Detector(options.flags, options.device), 0, 0
    for place, one in enumerate(sets):
        sets[place] = replace(one, flags=detector.set(one))
        if one.flags is not None:
            right, known = right + int(np.sum(sets[place].flags == one.flags)), known + len(one.flags)
    return f"right on {right} of {known} pictures"


def write(options: Namespace, found: Found) -> Path:
    """Write index.html and results.json; the page's path."""
    pictures = found.rendered and not options.no_pictures
    sections = [] if options.mae is None or not pictures else [reconstruction_section(options, found.sets[0])]
    report = Report(
        "JHMFR · faces without and with masks",
        found.results,
        found.sets,
        found.facts,
        Path(options.checkpoint) / "metrics.jsonl",
        pictures,
        [_conditions_note(), *sections],
    )
    return write_report(options.report, report)


def reconstruction_section(options: Namespace, one: VerificationSet) -> str:
    """A gallery: what the autoencoder saw, what it made of it, and the picture."""
    device = pick_device(options.device)
    method = load_run(options.mae).method
    images = np.concatenate([one.decode("rgb", start=2 * i, stop=2 * i + 1) for i in range(min(_SHOWN, len(one)))])
    made = reconstruct(method, images, device=device)
    items = []
    for row in range(len(images)):
        strip = plots.sheet([large(part[row]) for part in (made.seen, made.filled, made.originals)])
        items.append((png(strip), f"seen · reconstructed · original; error {made.error[row]:.3f}"))
    note = (
        f"{made.hidden:.0%} of the patches are hidden (grey, left), and drawn by the autoencoder (middle), which never saw "
        "these people. Error: mean squared difference of the hidden pixels, whose range is -1..1."
    )
    return page.section("Reconstructions of the masked autoencoder", note, page.faces(items, wide=True))


def _conditions_note() -> str:
    note = (
        "H-H: both faces of a pair bare. H-M: the second wears a mask. M-M: both do. The pairs are the same, masks are "
        "drawn on the pictures, and each condition has thresholds of its own."
    )
    return page.section("Conditions", note)


def is_rendered(one: VerificationSet) -> bool:
    """Whether `facex synth` wrote the set."""
    return one.path is not None and (one.path.parent / STAMP).is_file()


def large(picture: np.ndarray) -> np.ndarray:
    """A small picture, enlarged."""
    return cv2.resize(picture, None, fx=_ZOOM, fy=_ZOOM, interpolation=cv2.INTER_NEAREST)


def png(rgb: np.ndarray) -> bytes:
    """The bytes of a PNG."""
    return cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()
