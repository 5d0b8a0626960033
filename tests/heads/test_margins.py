"""Margins alone: closed forms, gradients, safety at the edges, names and YAML."""

from __future__ import annotations

import logging
import math
from typing import Any

import jsonargparse
import pytest
import torch
from torch import Tensor

from facex.errors import ConfigError
from facex.heads import AdaFace, ArcFace, Combined, CosFace, CurricularFace, MagFace, Margin, Softmax, margins
from tests.heads import cases

COS = torch.tensor([-0.97, -0.5, -0.01, 0.01, 0.3, 0.9], dtype=torch.float64)
NORM = torch.tensor([3.0, 12.0, 30.0, 60.0, 100.0, 150.0], dtype=torch.float64)


def same(margin: Margin, expected: Tensor) -> None:
    torch.testing.assert_close(margin.target(COS, NORM), margin.scale * expected)


def test_closed_forms() -> None:
    arc = (COS.acos() + 0.5).cos()
    past = math.cos(math.pi - 0.5) >= COS
    same(ArcFace(), arc)
    same(ArcFace(easy_margin=True, margin_grad="exact"), torch.where(COS > 0, arc, COS))
    same(ArcFace(past_pi="sine"), torch.where(past, COS - 0.5 * math.sin(math.pi - 0.5), arc))
    same(ArcFace(past_pi="shift", shift=0.1), torch.where(past, COS - 0.1, arc))
    clipped = (COS.acos() + 0.5).clamp(1e-4, math.pi - 1e-4).cos()
    same(ArcFace(past_pi="clip", clamp_eps=1e-4), clipped)
    same(CosFace(30, 0.35), COS - 0.35)
    same(Combined(64, 1.0, 0.5, 0.0), arc)
    same(Combined(64, 1.0, 0.3, 0.2, combined="official"), COS - 0.2)
    same(Combined(64, 0.9, 0.3, 0.2, combined="true"), (0.9 * COS.acos() + 0.3).cos() - 0.2)
    same(Softmax(5), COS)
    m = 0.0035 * (NORM.clamp(10, 110) - 10) + 0.45
    same(MagFace(), torch.where(COS > 0, (COS.acos() + m).cos(), COS))
    hard = torch.where((math.pi - m).cos() < COS, (COS.acos() + m).cos(), COS - (math.pi - m).sin() * m)
    same(MagFace(easy_margin=False), hard)
    same(MagFace(form="cos"), COS - m)


def test_straight_through_gradient_is_the_scale() -> None:
    for margin in (ArcFace(), Combined(64, 1.0, 0.5, 0.0), AdaFace(form="cvlface")):
        cos = COS.clone().requires_grad_()
        margin.target(cos, NORM).sum().backward()
        torch.testing.assert_close(cos.grad, torch.full_like(COS, 64))


@pytest.mark.parametrize(
    "name",
    [
        "arcface_exact",
        "cosface",
        "combined_true",
        "magface",
        "mag_cosface",
        "curricular",
        "adaface",
        "elastic",
        "uniface",
    ],
)
def test_gradients_are_those_of_the_value(name: str) -> None:
    margin = cases.MARGINS[name]()
    cos = COS.clone().requires_grad_()
    norm = NORM.clone().requires_grad_(name.startswith("mag"))
    assert torch.autograd.gradcheck(margin.target, (cos, norm))
    if name.startswith("mag"):
        assert torch.autograd.gradcheck(margin.regulariser, (norm,))


@pytest.mark.parametrize("name", list(cases.MARGINS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_at_the_edges(name: str, dtype: torch.dtype) -> None:
    margin = cases.MARGINS[name]()
    edge = torch.tensor([1.0, -1.0, 1 + 1e-7, -1 - 1e-7, 0.0, 0.5], dtype=dtype).requires_grad_()
    norm = torch.tensor([0.0, 1e-12, 1e3, 10.0, 110.0, 1.0], dtype=dtype).requires_grad_()
    value = margin.target(edge, norm)
    value.sum().backward()
    assert bool(torch.isfinite(value).all())
    assert edge.grad is not None
    assert bool(torch.isfinite(edge.grad).all())
    assert norm.grad is None or bool(torch.isfinite(norm.grad).all())


def test_adaface_statistics() -> None:
    margin, n = AdaFace(t_alpha=0.5), torch.tensor([10.0, 14.0, 30.0, 200.0])
    margin.observe({"norm": n}, lambda values: values)
    cut = n.clamp(1e-3, 100)
    assert float(margin.batch_mean) == pytest.approx(float(10 + cut.mean() / 2), rel=1e-6)
    assert float(margin.batch_std) == pytest.approx(float(50 + cut.std() / 2), rel=1e-6)
    before = margin.batch_std.clone()
    margin.observe({"norm": n[:1]}, lambda values: values)  # a batch of one has no deviation
    assert torch.equal(margin.batch_std, before)
    poisoned = AdaFace(official_nan=True)
    poisoned.observe({"norm": n[:1]}, lambda values: values)
    assert bool(poisoned.batch_std.isnan())


def test_curricular_ignores_unlabelled_rows() -> None:
    margin = CurricularFace(momentum=0.5)
    cos, valid = torch.tensor([[0.4], [0.9], [0.2]]), torch.tensor([[True], [False], [True]])
    margin.observe({"cos": cos, "valid": valid}, lambda values: values)
    assert float(margin.t) == pytest.approx(0.15)
    margin.observe({"cos": cos, "valid": torch.zeros_like(valid)}, lambda values: values)
    assert float(margin.t) == pytest.approx(0.15)
    assert margin.negatives(cos, valid).threshold[1] == math.inf


def test_lambda_warning_has_the_real_scale(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "facex"):
        MagFace()
        assert not caplog.records
        MagFace(lambda_g=20)
        MagFace(lambda_g=20, s=32)
    assert len(caplog.records) == 1
    assert "22.5867" in caplog.text


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Combined(64, 1.0, 0.3, 0.2), "ignores m1=1 and m2=0.3"),
        (lambda: Combined(64, 1.35, 0.0, 0.0), "no loss for m1=1.35"),
        (lambda: ArcFace(margin_grad="ste"), "straight_through, exact"),
        (lambda: MagFace(l_a=10, u_a=10), "l_a"),
        (lambda: CosFace(s=0), "positive"),
    ],
)
def test_errors_say_what_to_do(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


def test_registry_names_every_margin() -> None:
    listed = margins.available()
    assert {"ArcFace", "CosFace", "Combined", "CurricularFace", "AdaFace", "MagFace", "Softmax"} <= set(listed)
    assert all(listed.values())


def test_yaml_by_class_name() -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--margin", type=Margin)
    config = parser.parse_args(['--margin={"class_path": "ArcFace", "init_args": {"m": 0.3, "margin_grad": "exact"}}'])
    margin = parser.instantiate(config).margin
    assert isinstance(margin, ArcFace)
    assert (margin.m, margin.margin_grad) == (0.3, "exact")
    full = parser.parse_args(['--margin={"class_path": "facex.heads.margins.MagFace", "init_args": {"lambda_g": 40}}'])
    assert isinstance(parser.instantiate(full).margin, MagFace)
