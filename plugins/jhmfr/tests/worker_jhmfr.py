"""Runs a list of `facex train` command lines in one process, or on each rank of a launcher's job.

    [deepspeed ... --module] python -m plugins.jhmfr.tests.worker_jhmfr RUNS.json

A run: {"name", "argv": [...], "stops": [global batches at which it is stopped and resumed]}. An error is written to
NAME.error beside the list.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from facex.errors import FacexError
from facex.train import launch
from facex.train.parsing import parse
from facex.train.trainer import train


def main() -> None:
    """Run every command line of the file."""
    listing = Path(sys.argv[-1])
    for run in json.loads(listing.read_text()):
        try:
            for stop in [*run["stops"], None]:
                pause = [] if stop is None else ["--trainer.max_steps", str(stop)]
                parsed = parse([*run["argv"], "--trainer.resume", "auto", *pause])
                train(parsed.config, parsed.resolved)
        except FacexError as error:
            if launch.start().first:
                (listing.parent / f"{run['name']}.error").write_text(f"{type(error).__name__}: {error}")
    launch.stop()


if __name__ == "__main__":
    main()
