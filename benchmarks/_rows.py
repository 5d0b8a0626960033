"""What the benchmarks share: the package on the path without an installation, the form of a row, and the printing."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the option `--json` that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="print the rows as one JSON array")
    return made


def row(
    case: str,
    device: str,
    metric: str,
    value: float,
    peer: float | None,
    peer_name: str,
    *,
    more_is_better: bool = False,
) -> dict[str, Any]:
    """One line of the result; the ratio says how many times better ours is, None without a peer's value."""
    above, below = (value, peer) if more_is_better else (peer, value)
    return {
        "case": case,
        "device": device,
        "metric": metric,
        "ours": round(value, 4),
        "peer": None if peer is None else round(peer, 4),
        "peer_name": peer_name,
        "ratio": round(above / below, 3) if above is not None and below else None,
    }


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print the rows, as JSON or a line each."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for r in rows:
        print(f"{r['case']} ({r['device']}): {r['metric']} {r['ours']} | {r['peer_name']}: {r['peer']} | {r['ratio']}x")
