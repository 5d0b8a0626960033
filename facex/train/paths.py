"""Paths in a configuration, with environment variables filled in."""

from __future__ import annotations

import os
import re
from pathlib import Path

from facex.errors import ConfigError


def expand(text: str, key: str) -> Path:
    """A path from a config with environment variables filled in; ConfigError names one that is not set."""
    filled = os.path.expanduser(os.path.expandvars(text))
    if missing := re.search(r"\$\{?(\w+)", filled):
        raise ConfigError(f"{key}: {text} needs the environment variable {missing.group(1)}, which is not set")
    return Path(filled)
