"""The report of a run: `index.html` (one self-contained page) and `results.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facex import __version__
from facex.data.verification import VerificationSet
from facex.eval import page, plots
from facex.eval.quality_page import reject_section
from facex.eval.run import SetResult
from facex.files import write_json, write_text

NETWORKS = ("raw_pixels", "untrained", "trained")
_SHOWN = 12  # pairs in each gallery
_FACES = 30  # faces along the quality scale


@dataclass
class Report:
    """What the page shows. `results[network][set name]`, networks among raw_pixels, untrained, trained."""

    title: str
    results: Mapping[str, Mapping[str, SetResult]]
    sets: Sequence[VerificationSet]
    facts: Sequence[tuple[str, str]] = field(default_factory=list)  # (name, value) under the title
    metrics: Path | None = None  # metrics.jsonl of the run, for the training curves
    pictures: bool = True  # False keeps faces out of the page: for photos of real people
    sections: Sequence[str] = ()  # further sections (`page.section`), behind the table of results
    numbers: Mapping[str, Any] = field(default_factory=dict)  # what results.json holds beside the rows


def rows(results: Mapping[str, Mapping[str, SetResult]]) -> list[dict[str, Any]]:
    """The rows of results.json: {"network", "set", "accuracy", "std", "tar@far", "auc", ...}, set by set."""
    names = list(dict.fromkeys(name for by_set in results.values() for name in by_set))
    order = [n for n in NETWORKS if n in results] + [n for n in results if n not in NETWORKS]
    return [
        {"network": network, "set": name, **results[network][name].summary()}
        for name in names
        for network in order
        if name in results[network]
    ]


def write_report(folder: str | Path, report: Report) -> Path:
    """Write `index.html` and `results.json` into `folder`, each all of it or nothing; the path of the page."""
    folder = Path(folder)
    listed = rows(report.results)
    write_json(folder / "results.json", {"rows": listed, **report.numbers})
    trained = report.results.get("trained") or next(iter(report.results.values()))
    parts = [
        page.tiles(_headline(trained)),
        _table(listed),
        *report.sections,
        *_verification(report, trained),
        *_training(report.metrics),
    ]
    parts += _quality(report, trained)
    parts += reject_section(report.results)
    if report.pictures:
        parts += _hardest(report, trained)
    text = page.page(
        report.title, report.facts, parts, f"Written by facex {__version__}; numbers beside it in results.json."
    )
    write_text(folder / "index.html", text)
    return folder / "index.html"


def _headline(trained: Mapping[str, SetResult]) -> list[tuple[str, str]]:
    items = [(f"{r.pairs.accuracy:.1%}", f"accuracy on {name}") for name, r in list(trained.items())[:4]]
    first = next(iter(trained.values()))
    items += [
        (f"{tar:.1%}", f"TAR at FAR {far:g}, {first.name}") for far, tar in list(first.pairs.tar_at_far.items())[:1]
    ]
    items.append((number(first.summary()["auc"]), f"area under the ROC, {first.name}"))
    return items


def _table(listed: Sequence[Mapping[str, Any]]) -> str:
    fars = list(dict.fromkeys(far for row in listed for far in row["tar@far"]))
    header = [
        "set",
        "network",
        "accuracy",
        "± folds",
        *(f"TAR@FAR {far}" for far in fars),
        "AUC",
        "EER",
        "pairs",
        "images/s",
    ]
    body = []
    for row in listed:
        speed = f"{row['images/s']:.0f}" if "images/s" in row else "–"
        tars = [f"{row['tar@far'][far]:.3f}" if far in row["tar@far"] else "–" for far in fars]
        cells = [row["set"], row["network"].replace("_", " "), f"{row['accuracy']:.4f}", f"{row['std']:.4f}", *tars]
        body.append((row["network"], [*cells, number(row["auc"]), number(row["eer"]), str(row["pairs"]), speed]))
    note = (
        "1:1 verification in folds: the threshold of each fold comes from the others; ± is the deviation over folds."
        " TAR@FAR accepts at most that share of the impostor pairs."
    )
    if any(row["network"] in NETWORKS[:2] for row in listed):
        note += " Raw pixels and the untrained network are baselines."
    return page.section("Results", note, page.table(header, body))


def number(value: float | None) -> str:
    """Four decimals, or a dash for what a set of one kind of pairs does not have."""
    return "–" if value is None else f"{value:.4f}"


def _verification(report: Report, trained: Mapping[str, SetResult]) -> list[str]:
    items = []
    for one in report.sets:
        by_network = {n: s[one.name] for n, s in report.results.items() if one.name in s}
        data = {n: (r.pairs.scores, r.issame) for n, r in by_network.items()}
        result = trained[one.name]
        if result.issame.any() and not result.issame.all():
            items.append((plots.roc(data, f"ROC · {one.name}"), f"ROC of {one.name}"))
        threshold = 1 - float(np.mean(result.pairs.thresholds)) / 2
        png = plots.score_histogram(_cosine(result), result.issame, threshold, f"Scores · {one.name}")
        items.append((png, f"score histogram of {one.name}"))
    note = "Left: genuine pairs accepted over impostor pairs accepted. Right: how alike the pairs are."
    return [page.section("Verification", note, page.charts(items))]


def _cosine(result: SetResult) -> np.ndarray:
    """Cosine of each pair from its squared distance on the unit sphere."""
    return 1 + result.pairs.scores / 2


def _training(metrics: Path | None) -> list[str]:
    series = read_metrics(metrics) if metrics is not None and metrics.is_file() else {}
    groups = [
        ("Loss", "loss", False, lambda key: "loss" in key and "scale" not in key),
        ("Verification during training", "accuracy", False, lambda key: key.rsplit("/", 1)[-1] == "accuracy"),
        ("Learning rate", "learning rate", False, lambda key: key.rsplit("/", 1)[-1] == "lr" or key.startswith("lr")),
    ]
    items = []
    for title, ylabel, log, wanted in groups:
        chosen = {_short(key): values for key, values in series.items() if wanted(key) and len(values[0]) > 1}
        if chosen:
            items.append((plots.curves(dict(list(chosen.items())[:8]), title, ylabel, log), title))
    return (
        [page.section("Training", "From the run's metrics.jsonl; pale lines are single steps.", page.charts(items))]
        if items
        else []
    )


def _short(key: str) -> str:
    """`eval/lfw/accuracy` -> `lfw`, `train/loss` -> `loss`: what a legend has room for."""
    parts = key.split("/")
    if parts[-1] == "accuracy" and len(parts) > 1:
        parts = parts[:-1]
    return "/".join(p for p in parts if p not in ("train", "eval", "evaluation")) or key


def read_metrics(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(steps, values) by name from a metrics.jsonl, nested names joined by "/"; lines that a crash cut are left out."""
    points: dict[str, list[tuple[float, float]]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), (int, float)):
            for key, value in _flat(row):
                if key != "step" and np.isfinite(value):
                    points.setdefault(key, []).append((float(row["step"]), value))
    return {key: (np.array([p[0] for p in v]), np.array([p[1] for p in v])) for key, v in points.items()}


def _flat(row: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in row.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((prefix + key, float(value)))
    return found


def _quality(report: Report, trained: Mapping[str, SetResult]) -> list[str]:
    with_quality = [(s, r) for s in report.sets if (r := trained[s.name]).quality is not None and np.ptp(r.quality) > 0]
    if not with_quality:
        return []
    charts = [
        (plots.quality_histogram(r.quality, f"Quality · {s.name}"), f"quality histogram of {s.name}")
        for s, r in with_quality
        if r.quality is not None
    ]
    parts = [page.charts(charts)]
    one, result = with_quality[0]
    if report.pictures and result.quality is not None:
        order = np.argsort(result.quality, kind="stable")
        places = order[np.linspace(0, len(order) - 1, min(_FACES, len(order))).round().astype(int)]
        parts.append(page.faces([(_png(_face(one, i)), f"{result.quality[i]:.2f}") for i in places], single=True))
    note = "The quality that the method reads from a face (for MagFace the length of its embedding), from low to high."
    return [page.section("Face quality", note, *parts)]


def _hardest(report: Report, trained: Mapping[str, SetResult]) -> list[str]:
    parts = []
    for one in report.sets[:2]:
        result = trained[one.name]
        cosine = _cosine(result)
        for same, title in ((True, "Hardest genuine pairs"), (False, "Hardest impostor pairs")):
            places = np.flatnonzero(result.issame == same)
            worst = places[np.argsort(cosine[places] if same else -cosine[places], kind="stable")][:_SHOWN]
            if not len(worst):
                continue
            items = [(_pair(one, i), f"pair {i} · cosine {cosine[i]:.2f}") for i in worst]
            note = "one person, least alike first" if same else "two people, most alike first"
            parts.append(
                page.section(f"{title} · {one.name}", f"As the trained network sees them: {note}.", page.faces(items))
            )
    return parts


def _face(one: VerificationSet, entry: int) -> np.ndarray:
    return one.decode("rgb", on_error="grey", start=int(entry), stop=int(entry) + 1)[0]


def _pair(one: VerificationSet, pair: int) -> bytes:
    return _png(plots.sheet([_face(one, 2 * pair), _face(one, 2 * pair + 1)]))


def _png(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".png", rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
