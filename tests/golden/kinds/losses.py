"""Goldens of the margin losses: every case through the reference classifier, the fused op and the op's reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facex.heads import MagFace, Margin, MarginHead
from facex.heads.reference import ReferenceClassifier
from tests.golden import margin_specs
from tests.golden.case import Case, Variant

Build = Callable[[dict[str, Any], dict[str, Any]], Margin]
IMPLEMENTATIONS = ("logits", "fused", "reference")


def golden_weight(case: Case) -> tuple[Tensor, bool]:
    """Class centres [classes, dim], and whether the official layout is transposed to that."""
    spec = case.params["weight"]
    if spec["source"] == "filled":
        array = case.filled(spec["name"], tuple(spec["shape"]), False, spec.get("salt", ""))
    else:
        array = case.inputs[spec["source"]]
    flipped = spec["layout"].replace(" ", "").startswith("[dim")
    weight = torch.from_numpy(np.ascontiguousarray(array.T if flipped else array))
    return weight, flipped


class Trial:
    """One implementation of one loss, asked step after step."""

    def __init__(self, implementation: str, margin: Margin, weight: Tensor, flipped: bool) -> None:
        self.margin, self.flipped = margin, flipped
        self.plain = ReferenceClassifier(margin, weight) if implementation == "logits" else None
        self.head = None
        if self.plain is None:
            self.head = MarginHead(margin, weight.shape[1], weight.shape[0], group="alone", impl=implementation)
            self.head.load_weight(weight)

    def step(self, features: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """Outputs of one step by their golden names, without tags and step numbers."""
        x, y = torch.from_numpy(features).requires_grad_(), torch.from_numpy(labels).reshape(-1)
        out = (self.plain or self.head)(x, y)
        got: dict[str, Any] = {"per_sample": out.per_row, "loss": out.loss, "loss_id": out.loss_id}
        (got["grad_features_id"],) = torch.autograd.grad(out.loss_id, x, retain_graph=True)
        if self.head is not None:
            self.head.zero_grad()
        parameters = [x] if self.plain is None else [x, self.plain.weight]
        got["grad_features"], *rest = torch.autograd.grad(out.loss, parameters)
        grad_weight = rest[0] if self.head is None else self.head.grads().full()
        got["grad_weight"] = got["grad_kernel"] = grad_weight.T if self.flipped else grad_weight
        if self.plain is not None:
            got["logits"], got["cosine"] = out.logits, out.cosine.clamp(-1, 1)
            got["cos_theta"] = self.margin.scale * got["cosine"]
        got |= {name: buffer.clone() for name, buffer in self.margin.named_buffers()}
        if isinstance(self.margin, MagFace):
            got |= self._magface(torch.from_numpy(features))
        return {name: value.detach().numpy() for name, value in got.items()}

    def _magface(self, features: Tensor) -> dict[str, Tensor]:
        margin = self.margin
        assert isinstance(margin, MagFace)
        x = features.clone().requires_grad_()
        norm = torch.linalg.vector_norm(x.float(), dim=1)
        loss_g, weighted = margin.g(norm).mean(), margin.regulariser(norm)
        assert weighted is not None
        (gradient,) = torch.autograd.grad(loss_g, x)
        norm = norm[:, None]
        return {
            **{"loss_g": loss_g, "grad_features_g": gradient, "loss_g_rows": weighted[:, None]},
            **{"x_norm": margin.magnitude(norm), "margin": margin.margin(norm)},
        }


def run_losses(case: Case, build: Build) -> list[Variant]:
    """Every implementation; where the official code gives NaN, also our default, which must be finite."""
    settings = [case.params]
    if case.params.get("official_nan"):
        settings.append({**case.params, "official_nan": False})
    variants = []
    for params in settings:
        for implementation in IMPLEMENTATIONS:
            outputs = _outputs(case, params, build, implementation)
            name = implementation if params is case.params else f"{implementation}, finite"
            absent = frozenset() if implementation == "logits" else _absent(case, params)
            variants.append(Variant(outputs, name, absent, finite_only=params is not case.params))
    return variants


def _outputs(case: Case, params: dict[str, Any], build: Build, implementation: str) -> dict[str, Any]:
    weight, flipped = golden_weight(case)
    outputs: dict[str, Any] = {}
    variants = params.get("variants") or {"": params}
    for tag, spec in variants.items():
        prefix = f"{tag}__" if tag else ""
        trial = Trial(implementation, build(spec, params), weight, flipped)
        for suffix in _suffixes(case, prefix):
            got = trial.step(_input(case, prefix, f"features{suffix}"), _input(case, prefix, f"labels{suffix}"))
            outputs |= {f"{prefix}{name}{suffix}": value for name, value in got.items()}
            if prefix and "loss_g_rows" in got:
                outputs[f"{prefix}loss_g{suffix}"] = got["loss_g_rows"]
    return outputs


def _absent(case: Case, params: dict[str, Any]) -> frozenset[str]:
    """The fused path has neither logits nor cosines."""
    prefixes = [f"{tag}__" for tag in params.get("variants") or {}] or [""]
    names = ("logits", "cosine", "cos_theta")
    return frozenset(f"{p}{name}{s}" for p in prefixes for name in names for s in _suffixes(case, p))


def _suffixes(case: Case, prefix: str) -> list[str]:
    if f"{prefix}features" in case.inputs or "features" in case.inputs:
        return [""]
    found = []
    while f"{prefix}features{len(found)}" in case.inputs or f"features{len(found)}" in case.inputs:
        found.append(str(len(found)))
    return found


def _input(case: Case, prefix: str, name: str) -> np.ndarray:
    return case.inputs.get(f"{prefix}{name}", case.inputs.get(name))


def run_magface(case: Case) -> list[Variant]:
    hyper = case.inputs.get("hyper")
    return run_losses(case, lambda spec, params: margin_specs.magface(spec, params, hyper))


KINDS = {
    "magface/loss_magface": run_magface,
    "magface/loss_insightface_margins": lambda case: run_losses(case, margin_specs.insightface),
    "magface/loss_adaface": lambda case: run_losses(case, margin_specs.adaface),
    "magface/loss_adaface_heads": lambda case: run_losses(case, margin_specs.adaface),
    "magface/loss_adaface_pfc": lambda case: run_losses(case, margin_specs.cvlface_adaface),
    "magface/loss_curricularface": lambda case: run_losses(case, margin_specs.curricularface),
    "magface/loss_facexzoo_heads": lambda case: run_losses(case, margin_specs.facexzoo),
    "magface/loss_jhmfr_heads": lambda case: run_losses(case, margin_specs.jhmfr),
}
