"""JHMFR's three heads as margins of the core, and its Partial FC as options of the class-sharded head."""

from __future__ import annotations

import logging
from typing import Any, Literal

from facex.errors import ConfigError
from facex.heads.margin_head import LOSS_CAP
from facex.heads.margins import ArcFace, CurricularFace, MagFace, Margin

MarginName = Literal["arcface", "curricularface", "magface"]
ForeignLabel = Literal["ignore", "official"]
BiasCorrection = Literal["step", "first"]
logger = logging.getLogger("facex")

_ARCFACE: dict[str, Any] = {"s": 64.0, "m": 0.5, "margin_grad": "exact", "past_pi": "sine"}
_CURRICULAR: dict[str, Any] = {"s": 64.0, "m": 0.5, "momentum": 0.01}
_MAGFACE: dict[str, Any] = {
    **{"l_a": 10.0, "u_a": 110.0, "l_margin": 0.45, "u_margin": 0.8, "lambda_g": 35.0, "s": 64.0},
    **{"easy_margin": False, "hard_fallback": "shift", "shift": 0.0},
}


def make_margin(name: MarginName, options: dict[str, Any], foreign_label: ForeignLabel) -> Margin:
    """The margin `name` with the published constants, `options` replacing some.

    With official foreign labels CurricularFace keeps its running mean per rank, as the published code does.
    """
    statistics = {"statistics": "rank" if foreign_label == "official" else "global"}
    classes: dict[str, tuple[type[Margin], dict[str, Any]]] = {
        "arcface": (ArcFace, _ARCFACE),
        "curricularface": (CurricularFace, _CURRICULAR | statistics),
        "magface": (MagFace, _MAGFACE),
    }
    if name not in classes:
        raise ConfigError(f"margin is one of {', '.join(classes)}, not {name!r}")
    cls, published = classes[name]
    try:
        return cls(**{**published, **options})
    except TypeError as error:
        raise ConfigError(f"margin_options of {name}: {error}") from error


def published_options(
    name: MarginName, foreign_label: ForeignLabel, official_regulariser: bool, bias_correction: BiasCorrection
) -> dict[str, Any]:
    """Options of MarginHead. ArcFace leaves rows of other ranks alone in the published code too."""
    return {
        "foreign_label": "ignore" if name == "arcface" else foreign_label,
        "official_regulariser": official_regulariser,
        "bias_correction": bias_correction,
        "sparse_update": True,
        "sampler_seeds": "per_rank",
        "loss_cap": LOSS_CAP,
    }


def warn_of_foreign_labels(name: str, world_size: int) -> None:
    """Say what the published behaviour does to the rows of other ranks."""
    logger.warning(
        "foreign_label official: on each of the %d ranks %s puts its margin on the last sampled class for every row "
        "whose class is on another rank, as JHMFR's published code does; foreign_label ignore gives what one rank "
        "would compute",
        *(world_size, name),
    )
