"""Runners of SARFace's golden cases, by kind."""

from __future__ import annotations

from facex_sarface import golden_data, golden_networks, golden_training

KINDS = {**golden_networks.KINDS, **golden_data.KINDS, **golden_training.KINDS}
