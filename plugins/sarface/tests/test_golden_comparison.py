"""What the golden comparison keeps of an output, what it refuses, and runners of parameters that no public case has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from facex_sarface.golden_inputs import RecordedDropout, recogniser, with_dropout
from facex_sarface.golden_networks import run_parser_train
from facex_sarface.swiftformer import SwiftFormerParser
from torch.nn.functional import cross_entropy, interpolate

from tests.golden import fill
from tests.golden.case import Case, Expected, Variant
from tests.golden.comparisons.sarface import compare, stats, table


def judged(name: str, got: Any, ref: np.ndarray, **spec: Any) -> str | None:
    """What is wrong with an output."""
    return compare(name, Variant({name: got}), Expected({name: {"is": "", "tol": 1e-4, **spec}}, {name: ref}))[1]


def test_slices_and_statistics() -> None:
    whole = np.random.RandomState(0).standard_normal((2, 6, 8)).astype(np.float32)
    assert judged("x_slice", whole, whole[:, ::2, 3::4], slice=":, ::2, 3::4") is None
    assert "expected" in str(judged("x_slice", whole, whole[:, ::2, 3::4] + 1, slice=":, ::2, 3::4"))
    assert "shape" in str(judged("x_slice", whole, whole, slice=":, ::2, 3::4"))
    wide = whole.astype(np.float64)
    expected = [wide.mean(), wide.std(ddof=1), np.abs(wide).max(), np.sqrt((wide**2).sum())]
    np.testing.assert_allclose(stats(whole), expected)
    for name in ("enc0_stats", "gkernel_stats1"):
        assert judged(name, whole, np.array(expected)) is None
    maps = whole[:, :, :, None]
    assert judged("processed_mean", maps, maps.mean((2, 3))) is None
    by_class = np.moveaxis(wide[..., None], 1, 0).reshape(6, -1)
    assert judged("logits_std", maps, by_class.std(1, ddof=1)) is None
    assert judged("last_bn_mean", whole[0, 0], whole[0, 0, :3]) is None


def test_tables_of_a_row_a_parameter() -> None:
    rows = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array([3.0, 4.0]), "c": None}
    assert table("names", rows).tolist() == ["a", "b", "c"]
    assert table("present", rows).tolist() == [True, True, False]
    np.testing.assert_allclose(table("norm", rows), [np.sqrt(506), 5, 0])
    np.testing.assert_allclose(table("mean", rows), [5.5, 3.5, 0])
    assert table("head", rows)[1].tolist() == [3, 4, 0, 0, 0, 0, 0, 0]
    assert judged("grad_names", rows, np.array(["a", "b", "c"]), tol=0) is None
    assert judged("grad_names", rows, np.array(["b", "a", "c"]), tol=0) is not None
    assert judged("grad_norm", rows, np.array([np.sqrt(506), 5.01, 0])) is not None


def test_agreement_absence_and_equality() -> None:
    labels = np.zeros(1000, np.uint8)
    almost, less = labels.copy(), labels.copy()
    almost[0], less[:2] = 1, 1
    assert judged("label", almost, labels, tol=0, min_agreement=0.999) is None
    assert "agree" in str(judged("label", less, labels, tol=0, min_agreement=0.999))
    assert "entries differ" in str(judged("label", almost, labels, tol=0))
    nothing = np.zeros(0, np.float32)
    assert judged("gnorm", None, nothing, empty_means="no gradient") is None
    assert judged("gnorm", np.zeros(3), nothing, empty_means="no gradient") is None
    assert judged("gnorm", np.ones(3), nothing, empty_means="no gradient") is not None
    assert "not implemented" in str(judged("gnorm", None, nothing, empty_means="unused"))
    assert "not implemented" in str(judged("x", labels, labels, rows="names"))
    assert "not finite" in str(judged("x", np.full(3, np.nan), np.ones(3)))


def parser_case(train: bool = True) -> Case:
    """A case of a small parser, as no public one is in training mode."""
    widths, depths, tall = [8, 16, 16, 16], [1, 1, 2, 1], [2, 1, 1, 1]
    state = SwiftFormerParser("l1", 5, widths, depths, tall).state_dict()
    model = {"variant": "l1", "classes": 5, "encoder_depths": depths, "encoder_widths": widths, "mlp_ratio": 4}
    model |= {"decoder_depths": tall, "decoder_widths": widths, "bn_eps": 1e-5, "bn_momentum": 0.2}
    params = {
        "model": model,
        "images": {"count": 2, "size": 48, "seed": 3},
        "resize": {"to": [64, 64]},
        "salt": "x",
        "label_seed": 7,
    }
    inputs = {
        "keys": np.array(list(state)),
        "shapes": np.array(["x".join(map(str, v.shape)) for v in state.values()]),
        "integer": np.array([not v.is_floating_point() for v in state.values()]),
    }
    return Case("sarface", "parser_train", "small", params, inputs)


def test_parser_train_is_one_pass_in_training_mode() -> None:
    found = run_parser_train(parser_case())
    parser = SwiftFormerParser("l1", 5, (8, 16, 16, 16), (1, 1, 2, 1), (2, 1, 1, 1)).train()
    state = {
        key: torch.from_numpy(np.asarray(fill.filled(key, tuple(v.shape), not v.is_floating_point(), "x"))).reshape(
            v.shape
        )
        for key, v in parser.state_dict().items()
    }
    parser.load_state_dict(state)
    x = interpolate(torch.from_numpy(fill.images(2, 48, 3)), (64, 64), mode="bilinear", align_corners=False)
    logits = parser(x)
    labels = torch.from_numpy(np.random.RandomState(7).randint(0, 5, (2, 64, 64)))
    cross_entropy(logits, labels).backward()
    np.testing.assert_allclose(found["loss"], cross_entropy(logits, labels).item(), rtol=1e-6)
    np.testing.assert_array_equal(found["logits_slice"], logits.detach().numpy())
    first = parser.encoder.patch_embed
    np.testing.assert_allclose(found["grad_norm"]["encoder.patch_embed.0.weight"], first[0].weight.grad, rtol=1e-5)
    mean = first[0](x).mean((0, 2, 3)).detach()
    expected = 0.8 * state["encoder.patch_embed.1.running_mean"] + 0.2 * mean
    np.testing.assert_allclose(found["bn_mean"], expected, rtol=1e-5, atol=1e-6)


def test_a_recorded_dropout_stands_in_for_the_drawn_one() -> None:
    spec = {"arch": "ir_18", "units": [1, 1, 1, 1], "input_size": [16, 16], "embedding": 8, "dropout": {"p": 0.4}}
    keep = np.random.RandomState(0).rand(2, 512) > 0.4
    case = Case("sarface", "backbone_train", "x", {}, {"dropout_keep": np.packbits(keep, axis=1)})
    network = with_dropout(case, recogniser(spec), spec).train()
    dropped = network.output_layer[1]
    assert isinstance(dropped, RecordedDropout)
    x = torch.randn(2, 512, 1, 1)
    expected = x[:, :, 0, 0] * torch.from_numpy(keep) / 0.6
    torch.testing.assert_close(dropped(x)[:, :, 0, 0], expected)
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 8)


@pytest.mark.parametrize("arch", ["ir_se_50"])
def test_other_recognisers_are_built_from_a_cases_words(arch: str) -> None:
    with torch.device("meta"):
        network = recogniser(
            {"arch": arch, "units": [3, 4, 14, 3], "embedding": 512, "input_size": [112, 112], "dropout": {"p": 0.0}}
        )
    assert len(network.state_dict()) == 515
    assert network.output_layer[1].p == 0
