"""`facex eval --protocol ijb`: the networks of the options on IJB-B or IJB-C, one in memory at a time."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from facex.commands.eval_runs import Evaluation, named_views
from facex.data.dataset import default_threads
from facex.eval.ijb import IJB_FARS
from facex.eval.ijb_faces import IjbSet, open_ijb
from facex.eval.ijb_page import as_numbers, write_ijb_report
from facex.eval.ijb_rules import RULES, IjbRules
from facex.eval.ijb_run import CLEAN, IjbResult, check, evaluate_ijb
from facex.eval.occlusion import RATIOS, OcclusionProtocol
from facex.train.load_run import LoadedRun


@dataclass
class IjbOutcome:
    """What was found by network, on which set and by which rules; `run` is the checkpoint's."""

    one: IjbSet
    rules: dict[str, IjbRules]
    results: dict[str, IjbResult]
    run: LoadedRun

    def numbers(self) -> dict[str, Any]:
        """As plain numbers."""
        return as_numbers(self.one, self.rules, self.results)


def evaluate_networks(evaluation: Evaluation, folders: Mapping[str, str]) -> IjbOutcome:
    """Every network on the set; what is wrong with options, lists or pictures shows before one is loaded."""
    o = evaluation.options
    rules, protocol = chosen_rules(o), chosen_protocol(o)
    one = open_ijb(o.ijb, o.ijb_set, o.missing, o.on_error)
    check(rules, one, not o.no_search)
    if evaluation.first:
        _say(one)
    results: dict[str, IjbResult] = {}
    first: LoadedRun | None = None
    for name, folder in folders.items():
        run = evaluation.load(name, folder)
        first, nets = first or run, evaluation.nets(run.method)
        views = named_views(name, run.method, folders)
        for called, method in {name: run.method, **views}.items():
            results[called] = evaluate_ijb(
                method, nets, one, rules, protocol,
                fars=o.far or IJB_FARS, search=not o.no_search, device=evaluation.device, batch_size=o.batch_size,
                threads=o.threads or default_threads(), progress=called,
            )  # fmt: skip
        del nets
    assert first is not None  # the checkpoint is one of the folders
    return IjbOutcome(one, rules, results, first)


def write_report(evaluation: Evaluation, outcome: IjbOutcome) -> Path:
    """The page of --report."""
    title = f"{type(outcome.run.method).__name__} · {outcome.one.name}"
    facts = evaluation.facts(outcome.run)
    return write_ijb_report(evaluation.options.report, title, facts, outcome.one, outcome.rules, outcome.results)


def chosen_rules(options: Namespace) -> dict[str, IjbRules]:
    """The rules by name, with what the options change in them."""
    changes: dict[str, Any] = {}
    if options.no_flip or options.fusion:
        changes["fusion"] = "none" if options.no_flip else options.fusion
    if options.no_detector_score:
        changes["detector_scores"] = False
    if options.unit_faces:
        changes["keep_norm"] = False
    if options.tar_rule:
        changes["tar"] = options.tar_rule
    return {name: replace(RULES[name], **changes) for name in options.ijb_rules or ("insightface",)}


def chosen_protocol(options: Namespace) -> OcclusionProtocol:
    """What is put on the faces: nothing without --ratios and --occluder."""
    if not options.ratios and not options.occluder:
        return CLEAN
    return OcclusionProtocol(
        ratios=tuple(options.ratios or RATIOS),
        occluders=tuple(options.occluder or ("block",)),
        fill=options.fill or "black",
        repeats=10 if options.repeats is None else options.repeats,
        flip_occlusion="shared",
        seed=options.occlusion_seed or 0,
    )


def _say(one: IjbSet) -> None:
    lists = one.lists
    text = f"{one.name}: {len(lists.faces.names)} faces, {len(lists.issame)} pairs"
    if lists.probes is not None:
        text += f", {len(lists.probes.templates)} probes and {len(lists.galleries)} galleries"
    if one.skipped_faces:
        text += f"; left out because pictures are missing: faces {one.skipped_faces}, pairs {one.skipped_pairs}"
    print(text, file=sys.stderr, flush=True)
