"""How a policy's training went, as a section of the report's page: scalars of metrics.jsonl, rewards from TensorBoard's files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from facex.eval import page, plots
from facex.eval.report import read_metrics

_CURVES = {  # title: axis, names in metrics.jsonl
    "Reward": ("mean, shares", ("policy/reward", "policy/helped", "policy/hurt")),
    "Advantages": ("variance", ("policy/advantage_variance",)),
    "Entropy of the policy": ("nats", ("policy/policy_entropy",)),
    "Kept pixels": ("pixels", ("policy/area",)),
}
_KEEP = "policy/keep/"
_LINES = 6  # keep rates of one chart
_BINS = 30


def training_section(run: Path) -> list[str]:
    """The section of a run's folder; empty where it has no records of a policy's training."""
    metrics = run / "metrics.jsonl"
    series = read_metrics(metrics) if metrics.is_file() else {}
    charts = []
    for title, (axis, names) in _CURVES.items():
        chosen = {_short(name): series[name] for name in names if name in series}
        if chosen:
            charts.append((plots.curves(chosen, title, axis), title))
    keep = {_short(key): value for key, value in series.items() if key.startswith(_KEEP)}
    for start in range(0, len(keep), _LINES):
        part = dict(list(keep.items())[start : start + _LINES])
        charts.append((plots.curves(part, "Kept in training", "share of the masks"), "keep rates"))
    if rewards := reward_histograms(run / "tensorboard"):
        charts.append((_stairs(rewards), "histogram of rewards"))
    if not charts:
        return []
    note = (
        "Of the masks that were drawn in training; helped and hurt: shares of them whose reward is above and below 0."
    )
    return [page.section("The policy in training", note, page.charts(charts))]


def reward_histograms(folder: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """(edges [n + 1], counts [n]) of the rewards of a micro-batch by step, the first and the last that were written."""
    if not folder.is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import HISTOGRAMS, EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={HISTOGRAMS: 0})
    events.Reload()
    tag = next((name for name in events.Tags()["histograms"] if name.rsplit("/", 1)[-1] == "reward"), None)
    if tag is None:
        return {}
    written = {event.step: event.histogram_value for event in events.Histograms(tag)}
    chosen = {step: written[step] for step in (min(written), max(written))}
    low, high = min(v.min for v in chosen.values()), max(v.max for v in chosen.values())
    edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    return {step: (edges, _rebinned(value.bucket_limit, value.bucket, edges)) for step, value in chosen.items()}


def _rebinned(limits: list[float], counts: list[float], edges: np.ndarray) -> np.ndarray:
    """Counts of TensorBoard's buckets (each up to its limit), in bins of equal width: a bucket's lie at its upper limit."""
    places = np.clip(np.asarray(limits), edges[0], edges[-1])
    return np.histogram(places, edges, weights=np.asarray(counts))[0]


def _stairs(rewards: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> bytes:
    out = io.BytesIO()
    with plots.single_figure(5.2, 3.4) as (figure, axes):
        for (step, (edges, counts)), color in zip(rewards.items(), ("#999999", "#0072B2"), strict=False):
            axes.stairs(counts, edges, color=color, linewidth=1.8, label=f"step {step}")
        axes.set(xlabel="reward", ylabel="masks", title="Rewards of one batch")
        axes.legend()
        figure.savefig(out, format="png")
    return out.getvalue()


def _short(name: str) -> str:
    return name.rsplit("/", 1)[-1].replace("_", " ")
