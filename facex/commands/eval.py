"""`facex eval`: 1:1 verification of a trained run on `.bin` sets, with baselines and a report page."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from facex.errors import ConfigError
from facex.files import write_json
from facex.launchers import started_ranks

if TYPE_CHECKING:
    from facex.eval.run import SetResult
    from facex.train.launch import Ranks

Results = dict[str, dict[str, "SetResult"]]


def build_parser() -> ArgumentParser:
    """Options of `facex eval`."""
    parser = ArgumentParser(
        prog="facex eval",
        description="1:1 verification of a trained run on .bin sets. Under `deepspeed` or `torchrun` the processes share the pictures.",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_argument("--checkpoint", type=str, required=True, help="run folder or checkpoint folder")
    parser.add_argument("--bin", type=str, nargs="+", required=True, help="verification sets (insightface .bin files)")
    parser.add_argument("--best", action="store_true", help="the best checkpoint of the run, not the last")
    parser.add_argument("--step", type=int, default=None, help="the checkpoint of this step")
    parser.add_argument("--no-flip", action="store_true", help="do not fuse the mirrored view")
    parser.add_argument("--baselines", action="store_true", help="also raw pixels and the untrained network")
    parser.add_argument("--report", type=str, default=None, help="folder for index.html and results.json")
    parser.add_argument(
        "--no-pictures", action="store_true", help="keep faces out of the report (photos of real people)"
    )
    parser.add_argument("--json", type=str, default=None, help="file for the numbers; - prints them alone on stdout")
    parser.add_argument("--folds", type=int, default=10, help="folds of the accuracy")
    parser.add_argument("--uneven-folds", action="store_true", help="accept pairs that do not divide into the folds")
    parser.add_argument("--far", type=float, nargs="+", default=[1e-2, 1e-3], help="false accept rates for TAR")
    parser.add_argument(
        "--erc",
        action="store_true",
        help="error versus reject by the method's quality (MagFace, AdaFace: the magnitude)",
    )
    parser.add_argument("--erc-fmr", type=float, default=1e-3, help="false match rate of --erc")
    parser.add_argument(
        "--erc-nominal", action="store_true", help="MagFace's nominal threshold for --erc, not the measured rate"
    )
    parser.add_argument(
        "--on-error", choices=["raise", "grey"], default="raise", help="for pictures that do not decode"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="pictures of one forward pass")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    return parser


def main(argv: list[str]) -> int:
    """Print a table, or with `--json -` one JSON object alone on stdout; returns the exit code 0."""
    options = build_parser().parse_args(argv)
    if options.best and options.step is not None:
        raise ConfigError("--best and --step N exclude each other: which checkpoint is meant?")
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size {options.batch_size}: at least one picture is needed")
    if not 0 < options.erc_fmr < 1:
        raise ConfigError(f"--erc-fmr {options.erc_fmr}: a false match rate lies between 0 and 1")
    with _quiet_stdout(options.json == "-") as write, _ranks() as ranks:
        results, page = _evaluate(options, ranks)
        if ranks is not None and not ranks.first:
            return 0
        if options.json:
            numbers = as_json(results)
            if options.json == "-":
                write(json.dumps(numbers, indent=2) + "\n")
            else:
                write_json(options.json, numbers)
        if options.json != "-":
            print_table(results)
            if page is not None:
                print(f"report: {page}")
    return 0


def as_json(results: Results) -> dict[str, dict[str, Any]]:
    """`{set: {"accuracy": ..., ..., "baselines": {network: {"accuracy": ...}}}}` of the trained network."""
    numbers: dict[str, dict[str, Any]] = {name: r.summary() for name, r in results["trained"].items()}
    for network, by_set in results.items():
        if network != "trained":
            for name, result in by_set.items():
                numbers[name].setdefault("baselines", {})[network] = result.summary()
    return numbers


def print_table(results: Results) -> None:
    """The results on the console, set by set."""
    from rich.console import Console
    from rich.table import Table

    from facex.eval.report import number, rows

    listed = rows(results)
    fars = list(dict.fromkeys(far for row in listed for far in row["tar@far"]))
    table = Table(title="1:1 verification", title_justify="left")
    for name in ("set", "network"):
        table.add_column(name, no_wrap=True)
    for name in ("accuracy", *(f"TAR@{far}" for far in fars), "AUC", "images/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in listed:
        tars = [f"{row['tar@far'][far]:.3f}" if far in row["tar@far"] else "-" for far in fars]
        speed = f"{row['images/s']:.0f}" if "images/s" in row else "-"
        accuracy = f"{row['accuracy']:.4f} ± {row['std']:.4f}"
        style = "bold" if row["network"] == "trained" else None
        table.add_row(
            row["set"], row["network"].replace("_", " "), accuracy, *tars, number(row["auc"]), speed, style=style
        )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    curves = [(name, n, r.reject) for n, sets in results.items() for name, r in sets.items() if r.reject is not None]
    if curves:
        from facex.eval.quality_page import reject_table

        header, body = reject_table(curves)
        table = Table(title="error versus reject: FNMR (measured FMR)", title_justify="left")
        for i, title in enumerate(header):
            table.add_column(title, justify="left" if i < 2 else "right", no_wrap=True)
        for kind, cells in body:
            table.add_row(*cells, style="bold" if kind == "trained" else None)
        console.print(table)


@contextmanager
def _ranks() -> Iterator[Ranks | None]:
    """The processes of a launcher, which share the pictures (rank 0 prints and writes); None without one."""
    if started_ranks() == 1:
        yield None
        return
    from facex.train import launch

    yield launch.start()
    launch.stop()  # not after an error: leaving the group could wait for ever


def _evaluate(options: Namespace, ranks: Ranks | None = None) -> tuple[Results, Path | None]:
    import torch

    from facex.eval.baselines import raw_pixels
    from facex.eval.run import evaluate_set, load_bins
    from facex.inference.embed import pick_device, plain_nets
    from facex.train.checkpoint_folder import open_checkpoint
    from facex.train.load_run import load_run, method_of

    sets = load_bins(options.bin, options.folds, options.uneven_folds)
    which: str | int = options.step if options.step is not None else "best" if options.best else "last"
    run = load_run(options.checkpoint, which)
    device = ranks.device if ranks is not None and options.device == "auto" else pick_device(options.device)
    common = {
        "folds": options.folds,
        "fars": options.far,
        "on_error": options.on_error,
        "uneven_folds": options.uneven_folds,
    }

    def network(method: Any) -> dict[str, SetResult]:
        nets = {name: net.to(device) for name, net in plain_nets(method).items()}
        return {
            one.name: evaluate_set(method, nets, one, device, options.batch_size, not options.no_flip, **common)
            for one in sets
        }

    results: Results = {}
    if options.baselines:
        results["raw_pixels"] = {one.name: raw_pixels(one, **common) for one in sets}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            untrained = method_of(open_checkpoint(run.path, verify=False))
        results["untrained"] = network(untrained)
    results["trained"] = network(run.method)
    if options.erc:
        _reject(results, options.erc_fmr, options.erc_nominal)
    first = ranks is None or ranks.first
    return results, _report(options, run, results, sets) if options.report and first else None


def _reject(results: Results, fmr: float, nominal: bool) -> None:
    """Add error versus reject to every network that has a quality; the trained one must."""
    from facex.eval.run import reject_curve

    for network, by_set in results.items():
        for result in by_set.values():
            if result.quality is not None or network == "trained":
                result.reject = reject_curve(result, fmr, nominal)


def _report(options: Namespace, run: Any, results: Mapping[str, Mapping[str, SetResult]], sets: list[Any]) -> Path:
    from facex.eval.report import Report, write_report

    folder = run.path.parent.parent
    method = type(run.method).__name__
    facts = [("run", str(folder)), ("checkpoint", run.path.name), ("method", method)]
    facts += [
        (name, str(run.meta[name])) for name in ("step", "epoch", "num_classes", "world_size") if name in run.meta
    ]
    report = Report(f"{method} · verification", results, sets, facts, folder / "metrics.jsonl", not options.no_pictures)
    return write_report(options.report, report)


@contextmanager
def _quiet_stdout(active: bool) -> Iterator[Callable[[str], None]]:
    """Inside, what a library prints on stdout goes to stderr, C++ included; the function yielded writes to stdout."""
    if not active:
        yield lambda text: print(text, end="")
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    before, sys.stdout = sys.stdout, sys.stderr
    try:

        def write(text: str) -> None:
            with os.fdopen(os.dup(kept), "w", encoding="utf-8") as stdout:
                stdout.write(text)

        yield write
    finally:
        sys.stdout = before
        os.dup2(kept, 1)
        os.close(kept)
