"""What the launchers (deepspeed, torchrun) tell a process about itself; nothing heavy is imported."""

from __future__ import annotations

import os

from facex.errors import ConfigError


def set_local_rank(option: str, value: str) -> None:
    """Take the launcher's `--local_rank N` (`option` as it was written): LOCAL_RANK is set to it where it is not set yet.

    Raises ConfigError for a value that is no rank or contradicts LOCAL_RANK.
    """
    if not value.isdecimal():
        raise ConfigError(f"{option} {value!r} is not a rank: a number from 0")
    variable = os.environ.setdefault("LOCAL_RANK", value)
    if variable != value:
        raise ConfigError(
            f"{option} is {value} but the environment variable LOCAL_RANK is {variable}: the launcher sets both"
        )


def started_ranks() -> int:
    """Number of processes that a launcher started for this command; 1 without a launcher."""
    value = os.environ.get("WORLD_SIZE", "1")
    return int(value) if value.isdecimal() and "RANK" in os.environ else 1
