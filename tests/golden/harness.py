"""Runs golden cases: finds them, calls the runner of their kind, compares every output, prints a line a case."""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

from tests.golden.case import Case, Expected, Runner, Variant
from tests.golden.comparisons import comparison_of
from tests.golden.discover import find_cases
from tests.golden.kinds import all_kinds


def run_case(case: Case, expected: Expected | None, runner: Runner) -> tuple[bool, str]:
    """Whether the case passes, and a line about it. A missing output fails; no exception escapes."""
    if case.problem:
        return False, case.problem
    try:
        result = runner(case)
    except AssertionError as error:
        return False, str(error) or "assertion failed"
    except Exception as error:
        trace = traceback.extract_tb(error.__traceback__)[-1]
        return False, f"{type(error).__name__}: {error} ({Path(trace.filename).name}:{trace.lineno})"
    if expected is None:
        return True, "as expected"
    if not isinstance(result, list):
        result = [result if isinstance(result, Variant) else Variant(dict(result or {}))]
    if not result or result[0].absent:
        return False, "the first variant must give every output"
    compare = comparison_of(case.family)
    worst, where = 0.0, "-"
    for variant in result:
        for name, spec in expected.specs.items():
            if name in variant.absent:
                continue
            if name not in expected.arrays:
                return False, f"{name}: the golden file holds no such array"
            if name not in variant.outputs:
                return False, f"{variant.name}: output {name} is missing"
            ratio, problem = compare(name, variant, expected)
            if problem:
                return False, f"{variant.name}: {name}: {problem}"
            if ratio >= worst:
                worst, where = ratio, f"{variant.name}: {name}, tol {spec.get('tol') or 0:g}"
    return True, f"worst {worst:.2f} of what is allowed ({where})"


def run(
    folders: Iterable[Path], kinds: set[str] | None = None, skip_unknown: bool = False, quiet: bool = False
) -> tuple[int, int, int]:
    """Run every case below `folders`; (passed, failed, skipped)."""
    runners = all_kinds()
    families = {key.split("/")[0] for key in runners}
    passed = failed = skipped = 0
    for folder in folders:
        if not folder.is_dir():
            print(f"FAIL  {folder}: no such folder")
            failed += 1
            continue
        for case, expected in find_cases(folder, families):
            if kinds and not kinds & {case.key, case.kind}:
                skipped += 1
                continue
            runner = runners.get(case.key)
            if runner is None and skip_unknown:
                skipped += 1
                continue
            start = time.perf_counter()
            ok, line = (
                run_case(case, expected, runner) if runner else (False, f"no runner for kind {case.key!r} is installed")
            )
            passed, failed = passed + ok, failed + (not ok)
            if not (quiet and ok):
                print(
                    f"{'ok  ' if ok else 'FAIL'}  {case.key}  {case.name}  {line}  [{time.perf_counter() - start:.1f} s]",
                    flush=True,
                )
    return passed, failed, skipped


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--kinds", nargs="*", help="only these kinds (pfc, or magface/pfc)")
    parser.add_argument("--skip-unknown", action="store_true", help="count a kind without a runner as skipped")
    parser.add_argument("--quiet", action="store_true", help="print failures only")
    options = parser.parse_args(argv)
    passed, failed, skipped = run(
        options.folders, set(options.kinds) if options.kinds else None, options.skip_unknown, options.quiet
    )
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0
