"""`facex train`: train a method, from a YAML file and overrides."""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """Train as the arguments say; see `facex train --help`. Returns the exit code."""
    from facex.train import launch
    from facex.train.parsing import parse
    from facex.train.trainer import train

    parsed = parse(argv)
    train(parsed.config, parsed.resolved)
    launch.stop()  # after an error the process group is left to die with the process: leaving it could wait for ever
    return 0
