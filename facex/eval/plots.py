"""Charts of the report as PNG bytes: drawn off screen, one look, readable at half size."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from facex.eval.roc import Roc, roc_curve

# Okabe-Ito colours: told apart by colour-blind readers too.
COLORS = {"trained": "#0072B2", "untrained": "#E69F00", "raw_pixels": "#888888"}
_FURTHER = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#000000")  # of networks of other names
GENUINE, IMPOSTOR = "#009E73", "#D55E00"
_STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": "#333333",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "figure.dpi": 150,
}


def roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str) -> bytes:
    """TAR over FAR on a logarithmic axis; `curves` gives (scores [n], issame [n]) by network."""
    found = {n: (roc_curve(*data, drop_intermediate=False), int(np.sum(~data[1]))) for n, data in curves.items()}
    return roc_lines(found, title)


def roc_lines(curves: Mapping[str, tuple[Roc, int]], title: str) -> bytes:
    """As `roc`, of (points of the curve, number of impostor pairs) by network."""
    with _figure(5.2, 4.0) as (figure, axes, out):
        smallest = 1.0
        for name, (curve, impostors) in curves.items():
            floor = 0.5 / max(impostors, 1)  # half an impostor pair: below it nothing can be said
            smallest = min(smallest, floor)
            axes.step(
                np.maximum(curve.far, floor),
                curve.tar,
                where="post",
                label=_label(name),
                color=_color(name, list(curves)),
            )
        axes.set(xscale="log", xlim=(smallest, 1), ylim=(0, 1.01), title=title)
        axes.set(xlabel="false accept rate (log)", ylabel="true accept rate")
        axes.legend(loc="lower right")
        _save(figure, out)
    return out.getvalue()


def score_histogram(cosine: np.ndarray, issame: np.ndarray, threshold: float | None, title: str) -> bytes:
    """How the cosines of genuine and impostor pairs lie, with the chosen threshold; `cosine` [n], `issame` [n]."""
    with _figure(5.2, 4.0) as (figure, axes, out):
        low, high = float(cosine.min()), float(cosine.max())
        bins = np.linspace(low, max(high, low + 1e-6), 41)
        for same, name, color in ((False, "impostor pairs", IMPOSTOR), (True, "genuine pairs", GENUINE)):
            values = cosine[issame == same]
            axes.hist(values, bins, color=color, alpha=0.55, label=f"{name} ({len(values)})")
        if threshold is not None and low <= threshold <= high:
            axes.axvline(threshold, color="#333333", linestyle="--", linewidth=1.2, label=f"threshold {threshold:.2f}")
        axes.set(title=title, xlabel="cosine similarity", ylabel="pairs")
        axes.legend(loc="upper center")
        axes.set_ylim(0, axes.get_ylim()[1] * 1.25)
        _save(figure, out)
    return out.getvalue()


def curves(series: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, ylabel: str, log: bool = False) -> bytes:
    """Lines over the training step; `series` gives (steps [m], values [m]) by name."""
    import matplotlib

    palette = [matplotlib.colormaps["tab10"](i) for i in range(10)]
    with _figure(5.2, 3.4) as (figure, axes, out):
        for i, (name, (steps, values)) in enumerate(series.items()):
            color = palette[i % 10]
            if len(values) > 60:  # the noisy line pale, its running mean strong
                axes.plot(steps, values, color=color, alpha=0.25, linewidth=1)
                steps, values = _smooth(steps, values)
            axes.plot(steps, values, color=color, label=name, marker="o" if len(values) < 20 else None, markersize=4)
        axes.set(title=title, xlabel="step", ylabel=ylabel)
        if log:
            axes.set_yscale("log")
        if len(series) > 1:
            axes.legend()
        _save(figure, out)
    return out.getvalue()


def quality_histogram(values: np.ndarray, title: str) -> bytes:
    """How the qualities (lengths of the embeddings) lie; `values` [n]."""
    with _figure(5.2, 3.4) as (figure, axes, out):
        axes.hist(values, 50, color=COLORS["trained"], alpha=0.75)
        axes.axvline(float(np.median(values)), color="#333333", linestyle="--", linewidth=1.2)
        axes.annotate(
            f"median {np.median(values):.2f}",
            (float(np.median(values)), 0.95),
            xycoords=("data", "axes fraction"),
            xytext=(6, 0),
            textcoords="offset points",
            va="top",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        )
        axes.set(title=title, xlabel="quality", ylabel="faces")
        _save(figure, out)
    return out.getvalue()


def reject_curves(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, ylabel: str) -> bytes:
    """FNMR over the share of pairs rejected; `curves` gives (rates [m], fnmr [m], NaN left out) by network. The dashed
    line is what rejecting at random keeps."""
    with _figure(5.2, 4.0) as (figure, axes, out):
        top = 0.0
        for name, (rates, fnmr) in curves.items():
            known = ~np.isnan(fnmr)
            if not known.any():
                continue
            axes.plot(
                rates[known],
                fnmr[known],
                marker="o",
                markersize=3.5,
                label=_label(name),
                color=_color(name, list(curves)),
            )
            axes.axhline(
                float(fnmr[known][0]), color=_color(name, list(curves)), linestyle="--", linewidth=0.9, alpha=0.6
            )
            top = max(top, float(fnmr[known].max()))
        axes.set(title=title, xlabel="pairs of lowest quality rejected", ylabel=ylabel)
        axes.set(xlim=(-0.015, 1), ylim=(-0.02 * (top or 1), 1.25 * (top or 1)))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper right")
        else:
            axes.annotate("too few impostor pairs to measure", (0.5, 0.5), xycoords="axes fraction", ha="center")
        _save(figure, out)
    return out.getvalue()


def occlusion_curves(
    series: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    title: str,
    ylabel: str,
    chance: float | None = None,
    xlabel: str = "occluded area of the picture (%)",
    marks: Sequence[float] = (),
) -> bytes:
    """A line a network over the occluded area; `series` gives (per cent of the area [m], rate [m], half-width of its
    interval [m], NaN = none) by network. The dotted line is what guessing reaches. With `xlabel` over another quantity,
    and with `marks` (positive) on a logarithmic axis labelled there."""
    with _figure(5.8, 4.2) as (figure, axes, out):
        for name, (area, rate, half) in series.items():
            color, width = _color(name, list(series)), np.nan_to_num(half)
            axes.fill_between(area, rate - width, rate + width, color=color, alpha=0.18, linewidth=0)
            axes.errorbar(area, rate, half, color=color, label=_label(name), marker="o", markersize=4, capsize=2.5)
        if chance is not None:
            axes.axhline(chance, color="#888888", linestyle=":", linewidth=1.2, label="guessing")
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        if marks:
            axes.set_xscale("log")
            axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
            axes.set_xticks([], minor=True)
        low, high = axes.get_ylim()  # an interval of few draws may leave 0..1, a rate does not
        axes.set_ylim(max(low, -0.01), min(high, 1.01))
        axes.legend(loc="best")
        _save(figure, out)
    return out.getvalue()


def condition_points(
    series: Mapping[str, tuple[Sequence[str], np.ndarray, np.ndarray]], title: str, xlabel: str
) -> bytes:
    """A row an occluder, a point a network; `series` gives (occluders [m], rate [m], half-width [m]) by network."""
    rows = list(dict.fromkeys(label for labels, _, _ in series.values() for label in labels))
    with _figure(5.8, 1.5 + 0.42 * len(rows)) as (figure, axes, out):
        for i, (name, (labels, rate, half)) in enumerate(series.items()):
            shift = 0.22 * (i - (len(series) - 1) / 2) / max(len(series) - 1, 1)
            height = [rows.index(label) + shift for label in labels]
            color = _color(name, list(series))
            axes.errorbar(
                rate,
                height,
                xerr=np.nan_to_num(half),
                color=color,
                label=_label(name),
                fmt="o",
                markersize=5,
                capsize=2.5,
            )
        axes.set(title=title, xlabel=xlabel, yticks=range(len(rows)), yticklabels=rows)
        low, high = axes.get_xlim()
        axes.set(xlim=(max(low, -0.01), min(high, 1.01)), ylim=(len(rows) - 0.5, -0.5))
        figure.legend(loc="outside lower center", ncols=3)
        _save(figure, out)
    return out.getvalue()


def _smooth(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    width = max(len(values) // 40, 2)
    kernel = np.ones(width) / width
    return np.convolve(steps, kernel, "valid"), np.convolve(values, kernel, "valid")


def _label(network: str) -> str:
    return network.replace("_", " ")


def _color(network: str, among: Sequence[str] = ()) -> str:
    """The network's own colour, or the next one that none of `among` has."""
    if network in COLORS:
        return COLORS[network]
    taken = {COLORS[name] for name in among if name in COLORS}
    others = [name for name in among if name not in COLORS]
    free = [color for color in _FURTHER if color not in taken]
    return free[others.index(network) % len(free) if network in others else 0]


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Any, Any, io.BytesIO]]:
    """A figure without pyplot: no display, no global state, nothing left open."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(cast("Any", _STYLE)):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.add_subplot(), io.BytesIO()


@contextmanager
def single_figure(width: float, height: float) -> Iterator[tuple[Any, Any]]:
    """(figure, axes) in the report's look, for charts that are drawn elsewhere; sizes in inches."""
    with _figure(width, height) as (figure, axes, _):
        yield figure, axes


def _save(figure: Any, out: io.BytesIO) -> None:
    figure.savefig(out, format="png", metadata={"Software": "facex"})


def sheet(images: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Pictures uint8 [H, W, 3] RGB side by side on white: uint8 [H, sum of W, 3]."""
    height = max(image.shape[0] for image in images)
    width = sum(image.shape[1] for image in images) + gap * (len(images) - 1)
    canvas = np.full((height, width, 3), 255, np.uint8)
    x = 0
    for image in images:
        canvas[: image.shape[0], x : x + image.shape[1]] = image
        x += image.shape[1] + gap
    return canvas
