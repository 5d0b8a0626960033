"""Runners of JHMFR's golden cases, by kind."""

from __future__ import annotations

from facex_jhmfr import golden_evaluation, golden_networks, golden_npair, golden_training

KINDS = {**golden_networks.KINDS, **golden_training.KINDS, **golden_npair.KINDS, **golden_evaluation.KINDS}
