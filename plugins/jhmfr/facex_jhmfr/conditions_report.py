"""The work behind `facex jhmfr-report`: networks on masked and bare pairs, and the page with reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jsonargparse import Namespace
from torch import Tensor

from facex.data.imageio import encode_png
from facex.data.verification import VerificationSet
from facex.eval import page, plots
from facex.eval.report import Report, write_report
from facex.eval.run import FARS, SetResult, embed_set, evaluate_set, load_bins
from facex.eval.verification import evaluate_pairs
from facex.inference.embed import pick_device, plain_nets
from facex.methods import Method
from facex.methods.method import Nets
from facex.synth.dataset import is_rendered
from facex.train.load_run import load_run
from facex_jhmfr.conditions_command import FLAGS
from facex_jhmfr.detect import Detector
from facex_jhmfr.finetune import JHMFR
from facex_jhmfr.masked_pairs import CONDITIONS, by_conditions
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
    masked = by_conditions(load_bins(options.bin, options.folds), options.mask_seed)
    sets = [*masked, *load_bins(options.sets, options.folds)]
    found = Found({}, sets, all(is_rendered(one.path) for one in sets), [("flags", options.flags)])
    if options.flags not in FLAGS:
        found.facts.append(("detector", detect_flags(sets, options)))
    for name, folder in folders.items():
        run = load_run(folder)
        if isinstance(run.method, JHMFR):
            run.method.inference_flag = options.flags if options.flags in FLAGS else "given"  # by the detector
        nets = {each: net.to(device) for each, net in plain_nets(run.method).items()}
        own: dict[str, SetResult] = {}
        for start in range(0, len(masked), len(CONDITIONS)):
            own |= by_pictures(run.method, nets, sets[start : start + len(CONDITIONS)], options, device)
        for one in sets[len(masked) :]:
            own[one.name] = evaluate_set(run.method, nets, one, device, options.batch_size, folds=options.folds)
        found.results[name] = own
        found.facts.append((name, f"{folder}, step {run.meta.get('step', '?')}"))
    return found


def by_pictures(
    method: Method, nets: Nets, conditions: Sequence[VerificationSet], options: Namespace, device: torch.device
) -> dict[str, SetResult]:
    """A set under H-H, H-M and M-M: every picture is embedded once bare and once masked, for H-M takes the first
    pictures of H-H and the second ones of M-M."""
    bare, half, both = conditions
    first, last = (embed_set(method, nets, one, device, options.batch_size) for one in (bare, both))
    results = {}
    for one, left, right in ((bare, first, first), (half, first, last), (both, last, last)):
        rows = _paired(left.vector, right.vector)
        pairs = evaluate_pairs(rows, one.issame, options.folds, fars=FARS)
        known = left.quality is not None and right.quality is not None
        quality = _paired(left.quality, right.quality) if known else None  # type: ignore[arg-type]
        results[one.name] = SetResult(one.name, pairs, one.issame, quality)
    return results


def _paired(left: Tensor, right: Tensor) -> np.ndarray:
    """Rows 0, 2, 4, ... of `left` and 1, 3, 5, ... of `right`."""
    rows: np.ndarray = left.numpy().copy()
    rows[1::2] = right.numpy()[1::2]
    return rows


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
        items.append((encode_png(strip), f"seen · reconstructed · original; error {made.error[row]:.3f}"))
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


def large(picture: np.ndarray) -> np.ndarray:
    """A small picture, enlarged."""
    return cv2.resize(picture, None, fx=_ZOOM, fy=_ZOOM, interpolation=cv2.INTER_NEAREST)
