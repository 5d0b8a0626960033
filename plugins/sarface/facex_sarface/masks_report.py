"""The work behind `facex sarface-report`: a run's masks on verification sets, and the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jsonargparse import Namespace

from facex.data.imageio import encode_png
from facex.data.verification import VerificationSet
from facex.errors import ConfigError
from facex.eval import page, plots
from facex.eval.report import Report, write_report
from facex.eval.run import load_bins
from facex.inference.embed import pick_device, plain_nets
from facex.synth.dataset import is_rendered
from facex.train.load_run import LoadedRun, load_run
from facex_sarface.mask_tables import Table, accuracy_table, as_numbers, keep_table
from facex_sarface.mask_trials import FULL, MASKED, RANDOM, WITHOUT, TrialOptions, Trials, try_masks
from facex_sarface.method import SARFace
from facex_sarface.training_page import training_section

_ZOOM = 2


@dataclass
class Found:
    """The run, its sets, and what every mask makes of them."""

    run: LoadedRun
    sets: list[VerificationSet]
    trials: list[Trials]


def evaluate(options: Namespace) -> Found:
    """Every mask on every set. ConfigError for a run of another method, or one without its face parser."""
    sets = load_bins(options.bin, options.folds)
    run = load_run(options.checkpoint, "best" if options.best else "last")
    if not isinstance(run.method, SARFace):
        raise ConfigError(
            f"{options.checkpoint} is a run of {type(run.method).__name__}; masks are made by SARFace's policy"
        )
    device = pick_device(options.device)
    nets = {name: net.to(device) for name, net in plain_nets(run.method).items()}
    how = TrialOptions(
        options.batch_size, not options.no_flip, options.folds, options.draws, options.mask_seed, options.ablation
    )
    return Found(run, sets, [try_masks(run.method, nets, one, device, how) for one in sets])


def write(options: Namespace, found: Found) -> Path:
    """Write index.html and results.json; the page's path."""
    pictures = not options.no_pictures and (options.pictures or all(is_rendered(one.path) for one in found.sets))
    run_folder = found.run.path.parent.parent
    shown = {FULL: FULL, MASKED: MASKED, found.trials[0].draws[0]: "random_masks"}
    report = Report(
        "SARFace · what the policy keeps",
        {name: {one.name: one.as_result(mask) for one in found.trials} for mask, name in shown.items()},
        found.sets,
        [("run", str(run_folder)), ("checkpoint", found.run.path.name), ("step", str(found.run.meta.get("step", "?")))],
        run_folder / "metrics.jsonl",
        pictures,
        [*_mask_sections(found.trials), *(_faces(found.trials) if pictures else []), *training_section(run_folder)],
        {"masks": as_numbers(found.trials)},
    )
    return write_report(options.report, report)


def _mask_sections(trials: list[Trials]) -> list[str]:
    note = (
        "The same pairs under different masks. full: whole pictures. masked: what the policy keeps (p of at least one half). random "
        "masks: regions that the policy decides about, removed in a random order until as many pixels are gone as under the "
        "policy's mask, as near as whole regions allow; ± is the 95 % interval over the draws. without: that region is removed "
        "from every picture, all others stay. area: share of the pixels that is kept."
    )
    chart = page.charts([(_chart(trials), "accuracy by mask")])
    sections = [page.section("Masks", note, chart, _html(accuracy_table(trials)))]
    note = "Of the pictures that show a region, how many keep it; and how many show it."
    return [*sections, page.section("What is kept", note, _html(keep_table(trials)))]


def _chart(trials: list[Trials]) -> bytes:
    return plots.condition_points({one.name: _points(one) for one in trials}, "Accuracy by mask", "accuracy")


def _points(one: Trials) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Masks, accuracies, half-widths of their intervals (of the random ones, over the draws)."""
    mean = one.random()
    without = [name for name in one.results if name.startswith(WITHOUT)]
    found = {name: one.results[name].accuracy for name in (FULL, MASKED)} | {RANDOM: mean.value}
    found |= {name: one.results[name].accuracy for name in without}
    half = [mean.half_width if name == RANDOM else 0.0 for name in found]
    return list(found), np.array(list(found.values())), np.nan_to_num(half)


def _html(table: Table) -> str:
    header, rows = table
    return page.table(header, [("trained" if row[0] == MASKED else "", row) for row in rows])


def _faces(trials: list[Trials]) -> list[str]:
    items = [
        (_png(picture), f"{one.name}, picture {2 * place}")
        for one in trials
        for place, picture in enumerate(one.overlays)
    ]
    note = "The face as the networks read it; the regions that the policy removes, in red; what the recogniser sees."
    return [page.section("Kept regions", note, page.faces(items, wide=True))]


def _png(rgb: np.ndarray) -> bytes:
    large = cv2.resize(rgb, None, fx=_ZOOM, fy=_ZOOM, interpolation=cv2.INTER_NEAREST)
    return encode_png(large)
