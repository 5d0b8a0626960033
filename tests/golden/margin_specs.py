"""The margins of golden cases: parameters in the words of the official codes -> public margin classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from facex.heads import margins as m


def insightface(spec: dict[str, Any], params: dict[str, Any]) -> m.Margin:
    """arcface_torch's losses.py, and CVLface's AdaFace for partial FC."""
    if spec["head"] == "adaface_pfc":
        return cvlface_adaface(spec, params)
    grad = spec.get("margin_grad", params.get("margin_grad", "straight_through"))
    interclass = float(spec.get("interclass_filtering_threshold", 0.0))
    if spec["head"] == "arcface":
        return m.ArcFace(spec["s"], spec["m"], margin_grad=grad, interclass_filter=interclass)
    if spec["head"] == "cosface":
        return m.CosFace(spec["s"], spec["m"], interclass_filter=interclass)
    return m.Combined(spec["s"], spec["m1"], spec["m2"], spec["m3"], interclass, combined="official", margin_grad=grad)


def cvlface_adaface(spec: dict[str, Any], params: dict[str, Any]) -> m.Margin:
    margin = m.AdaFace(
        spec["s"],
        spec["m"],
        spec["h"],
        spec["t_alpha"],
        form="cvlface",
        eps=spec.get("eps", 1e-3),
        interclass_filter=spec.get("interclass_filtering_threshold", 0.0),
        norm_clip=tuple(spec.get("norm_clip", (1e-3, 100.0))),
        official_nan=bool(spec.get("official_nan", False)),
    )
    return with_buffers(margin, spec.get("buffers", {}))


def adaface(spec: dict[str, Any], params: dict[str, Any]) -> m.Margin:
    """AdaFace's head.py."""
    eps = spec.get("clamp_eps", params.get("clamp_eps", 1e-3))
    if spec["head"] == "arcface":
        return m.ArcFace(spec["s"], spec["m"], margin_grad="exact", past_pi="clip", clamp_eps=eps)
    if spec["head"] == "cosface":
        return m.CosFace(spec["s"], spec["m"], clamp_eps=eps)
    official_nan = bool(params.get("official_nan", False))
    margin = m.AdaFace(spec["s"], spec["m"], spec["h"], spec["t_alpha"], eps=eps, official_nan=official_nan)
    return with_buffers(margin, spec.get("buffers", {}))


def curricularface(spec: dict[str, Any], params: dict[str, Any]) -> m.Margin:
    """FaceX-Zoo's and JHMFR's CurricularFace."""
    official_nan = bool(params.get("official_nan", False))
    margin = m.CurricularFace(spec["s"], spec["m"], spec.get("t_momentum", 0.01), official_nan=official_nan)
    return with_buffers(margin, spec.get("buffers", {"t": spec.get("t_start", 0.0)}))


def facexzoo(spec: dict[str, Any], params: dict[str, Any]) -> m.Margin:
    """FaceX-Zoo's head/."""
    if spec["head"] == "arcface":
        shift = spec["margin_am"]
        return m.ArcFace(spec["scale"], spec["margin_arc"], margin_grad="exact", past_pi="shift", shift=shift)
    if spec["head"] == "am_softmax":
        return m.CosFace(spec["scale"], spec["margin"])
    return magface(spec, params)


def jhmfr(spec: dict[str, Any], params: dict[str, Any]) -> m.Margin:
    """JHMFR's face_losses.py."""
    if spec["head"] == "arcface":
        easy = bool(spec.get("easy_margin", False))
        return m.ArcFace(spec["s"], spec["m"], margin_grad="exact", past_pi="sine", easy_margin=easy)
    if spec["head"] == "cosface":
        return m.CosFace(spec["s"], spec["m"])
    if spec["head"] == "curricularface":
        return curricularface(spec, params)
    if spec["head"] == "magface":
        return magface(spec, params)
    interclass = float(spec.get("interclass_filtering_threshold", 0.0))
    return m.Combined(
        *(spec["s"], spec["m1"], spec["m2"], spec["m3"], interclass),
        combined="official",
        margin_grad="exact",
        past_pi="sine",
    )


def magface(spec: dict[str, Any], params: dict[str, Any], hyper: np.ndarray | None = None) -> m.Margin:
    """MagFace in its own forms and in FaceX-Zoo's and JHMFR's (those name a `margin_am`)."""
    names = ("l_a", "u_a", "l_margin", "u_margin", "lambda_g", "scale", "easy_margin")
    if hyper is not None:
        spec = {**spec, **dict(zip(names, (float(v) for v in hyper), strict=True))}
    foreign = "margin_am" in spec
    return m.MagFace(
        *(spec["l_a"], spec["u_a"], spec["l_margin"], spec["u_margin"]),
        lambda_g=spec.get("lambda_g", spec.get("lamda", 35.0)),
        s=spec["scale"],
        form=spec.get("form", "arc"),
        easy_margin=bool(spec.get("easy_margin", not foreign)),
        hard_fallback="shift" if foreign else "sine",
        shift=spec.get("margin_am", 0.0),
        official_nan=bool(params.get("official_nan", False)),
    )


def with_buffers(margin: m.Margin, values: dict[str, float]) -> m.Margin:
    """Set the running values that the margin has."""
    for name, buffer in margin.named_buffers():
        if name in values:
            buffer.copy_(torch.as_tensor(values[name]))
    return margin
