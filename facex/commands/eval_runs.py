"""The networks of `facex eval` on its sets, one network in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from facex.data.verification import VerificationSet
from facex.errors import ConfigError
from facex.eval import page
from facex.eval.ar_database import GALLERY_1, ArResult, evaluate_ar
from facex.eval.baselines import raw_pixels
from facex.eval.mask_plots import gallery, show, write_explanation
from facex.eval.occlusion import RATIOS, OcclusionCurve, OcclusionProtocol
from facex.eval.occlusion_page import as_numbers, occlusion_section
from facex.eval.occlusion_run import evaluate_occlusion
from facex.eval.pair_lists import PairFolder, read_pairs
from facex.eval.report import Report, write_report
from facex.eval.run import FARS, SetResult, evaluate_set, load_bins, reject_curve
from facex.eval.series_page import series_numbers, series_section
from facex.inference.embed import pick_device, plain_nets
from facex.methods import Method
from facex.synth.dataset import is_rendered
from facex.train.checkpoint_folder import open_checkpoint
from facex.train.load_run import LoadedRun, load_run, method_of

Results = dict[str, dict[str, SetResult]]
Curves = dict[str, dict[str, OcclusionCurve]]
_OVERLAYS = 2  # faces a condition in the report


def named_views(name: str, method: Method, networks: Mapping[str, str]) -> dict[str, Method]:
    """The further views of a network, by the names of their results; ConfigError where a network is called so."""
    views = {f"{name} {view}": viewed for view, viewed in method.views().items()}
    if taken := sorted(set(views) & set(networks)):
        raise ConfigError(
            f"{taken[0]!r} is a view of {name!r}; call the network of that name something else (--compare)"
        )
    return views


class Evaluation:
    """What the options ask for. `device`: that of this process among several, None alone; `first`: whether it
    writes."""

    def __init__(self, options: Namespace, device: torch.device | None, first: bool) -> None:
        self.options, self.first = options, first
        self.device = device if device is not None and options.device == "auto" else pick_device(options.device)
        self.protocol = occlusion_protocol(options) if options.protocol == "occlusion" else None
        self.sets: list[VerificationSet] = []
        self.run: LoadedRun | None = None  # the checkpoint's
        self.pictures: list[Path] = []  # what --vis wrote
        self.overlays: list[tuple[bytes, str]] = []

    def load_sets(self) -> None:
        """Open .bin files and pair lists, and check that they make the folds."""
        o = self.options
        form = None if o.pair_format == "auto" else o.pair_format
        lists: list[Any] = [read_pairs(path, o.images, form, o.missing) for path in o.pairs]
        self.sets = load_bins([*o.bin, *lists], o.folds, o.uneven_folds)
        for one in self.sets:
            if isinstance(one, PairFolder) and one.skipped and self.first:
                print(f"{one.path}: {one.skipped} pairs are left out, because a picture is missing; {len(one)} remain")

    def verify(self, folders: Mapping[str, str]) -> tuple[Results, Curves]:
        """Every network on every set, the baselines first where they are wanted."""
        o = self.options
        results: Results = {}
        curves: Curves = {}
        for name, folder in folders.items():
            run = self.load(name, folder)
            if self.run is None:
                self.run = run
                if o.baselines:
                    results |= self._baselines(run)
            nets = self.nets(run.method)
            results[name] = {one.name: self._verify(run.method, nets, one) for one in self.sets}
            for called, viewed in named_views(name, run.method, folders).items():
                results[called] = {one.name: self._verify(viewed, nets, one) for one in self.sets}
            if self.protocol is not None:
                curves[name] = {one.name: self._occluded(run.method, nets, one) for one in self.sets}
            if run is self.run and self.first:
                self._draw(run.method, nets)
            del nets
        if o.erc:
            _reject(results, o.name, o.erc_fmr, o.erc_nominal)
        return results, curves

    def ar(self, folder: str) -> ArResult:
        """A run on the AR database."""
        o = self.options
        run = self.load(o.name, folder)
        return evaluate_ar(
            run.method,
            self.nets(run.method),
            o.images,
            o.gallery or GALLERY_1,
            device=self.device,
            batch_size=o.batch_size,
            flip=not o.no_flip,
            on_error=o.on_error,
            missing=o.missing,
        )

    def report(self, results: Results, curves: Curves) -> Path:
        """Write the page and results.json."""
        if self.run is None:
            raise ConfigError("no run was evaluated: there is nothing to report")
        report = Report(
            f"{type(self.run.method).__name__} · verification",
            results,
            self.sets,
            self.facts(self.run),
            self.run.path.parent.parent / "metrics.jsonl",
            not self.options.no_pictures,
        )
        if curves:
            chances = {one.name: float(max(one.issame.mean(), 1 - one.issame.mean())) for one in self.sets}
            report.sections = occlusion_section(curves, chances)
            report.numbers = {"occlusion": as_numbers(curves)}
        if self.overlays:
            note = (
                "The picture as the network saw it, the true occlusion (yellow), and where it believes it to be (red)."
            )
            report.sections = [
                *report.sections,
                page.section("Predicted masks", note, page.faces(self.overlays, wide=True)),
            ]
        if axis := self.options.axis:
            report.sections = [series_section(results, axis), *report.sections]
            report.numbers = {**report.numbers, "series": series_numbers(results, axis)}
        report.sections = [*report.sections, *map(_figures, self.options.figures)]
        return write_report(self.options.report, report)

    def facts(self, run: LoadedRun) -> list[tuple[str, str]]:
        """What a report says of the run that it is about."""
        found = [("run", str(run.path.parent.parent)), ("checkpoint", run.path.name)]
        found.append(("method", type(run.method).__name__))
        found += [
            (name, str(run.meta[name])) for name in ("step", "epoch", "num_classes", "world_size") if name in run.meta
        ]
        return found + [("compared with", text) for text in self.options.compare]

    def load(self, name: str, folder: str) -> LoadedRun:
        """The checkpoint that the options ask for; --options belongs to the first network alone."""
        o = self.options
        which: str | int = o.step if o.step is not None else "best" if o.best else "last"
        return load_run(folder, which, o.options if name == o.name else None)

    def nets(self, method: Method) -> dict[str, torch.nn.Module]:
        """The networks of a method on this process's device."""
        return {name: net.to(self.device) for name, net in plain_nets(method).items()}

    def _common(self) -> dict[str, Any]:
        o = self.options
        return {"folds": o.folds, "fars": o.far or FARS, "on_error": o.on_error, "uneven_folds": o.uneven_folds}

    def _verify(self, method: Method, nets: Any, one: VerificationSet) -> SetResult:
        o = self.options
        return evaluate_set(method, nets, one, self.device, o.batch_size, not o.no_flip, **self._common())

    def _occluded(self, method: Method, nets: Any, one: VerificationSet) -> OcclusionCurve:
        o = self.options
        assert self.protocol is not None
        return evaluate_occlusion(
            method, nets, one, self.protocol, self.device, o.batch_size, not o.no_flip, **self._common()
        )

    def _baselines(self, run: LoadedRun) -> Results:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            untrained = method_of(open_checkpoint(run.path, verify=False), self.options.options)
        nets = self.nets(untrained)
        return {
            "raw_pixels": {one.name: raw_pixels(one, **self._common()) for one in self.sets},
            "untrained": {one.name: self._verify(untrained, nets, one) for one in self.sets},
        }

    def _draw(self, method: Method, nets: Any) -> None:
        """The pictures of --vis, and the mask overlays of the report where faces may be shown."""
        o, one = self.options, self.sets[0]
        if o.vis:
            protocol = occlusion_protocol(o, ratios=[o.vis_ratio])
            condition = protocol.conditions()[-1].name
            shown = show(method, nets, one, protocol, o.vis_entry, condition, self.device, o.on_error)
            self.pictures = write_explanation(o.vis, f"{one.name}{o.vis_entry}", shown)
        if o.report and self.protocol is not None and not o.no_pictures and (o.pictures or is_rendered(one.path)):
            self.overlays = gallery(
                method, nets, one, self.protocol, range(0, 2 * _OVERLAYS, 2), self.device, o.on_error
            )


def occlusion_protocol(options: Namespace, ratios: list[int] | None = None) -> OcclusionProtocol:
    """The protocol that the options describe; with `ratios`, blocks of these instead of the asked-for conditions."""
    return OcclusionProtocol(
        ratios=tuple(ratios or options.ratios or RATIOS),
        occluders=("block",) if ratios else tuple(options.occluder or ("block",)),
        fill=options.fill or "black",
        repeats=10 if options.repeats is None else options.repeats,
        both=not options.one,
        flip_occlusion=options.flip_occlusion or "independent",
        seed=options.occlusion_seed or 0,
        pad=options.pad,
        grey=options.grey,
    )


def _figures(text: str) -> str:
    """The section of TITLE=FOLDER: its .png files by name. ConfigError where there is none."""
    title, _, folder = text.partition("=")
    files = sorted(Path(folder).glob("*.png"))
    if not files:
        raise ConfigError(f"--figures {text}: {folder} holds no .png file")
    return page.section(title, f"From {folder}.", page.faces((f.read_bytes(), f.stem) for f in files))


def _reject(results: Results, first: str, fmr: float, nominal: bool) -> None:
    """Add error versus reject to every network that has a quality; the checkpoint's must."""
    for network, by_set in results.items():
        for result in by_set.values():
            if result.quality is not None or network == first:
                result.reject = reject_curve(result, fmr, nominal)
