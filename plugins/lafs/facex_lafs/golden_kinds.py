"""Runners of all LAFS goldens (entry point `facex.golden_kinds`)."""

from __future__ import annotations

from facex_lafs.goldens import finetune, models, pictures, protocols, ssl

KINDS = {**models.KINDS, **ssl.KINDS, **finetune.KINDS, **pictures.KINDS, **protocols.KINDS}
