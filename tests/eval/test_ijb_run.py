"""IJB with a method: every number against a float64 computation in plain loops, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from facex.data.occluders import Block
from facex.errors import ConfigError, DataError
from facex.eval.ijb_embed import Progress
from facex.eval.ijb_faces import open_ijb
from facex.eval.ijb_rules import RULES, IjbRules, thin
from facex.eval.ijb_run import evaluate_ijb
from facex.eval.occlusion import OcclusionProtocol
from facex.eval.occlusion_input import KeyedGenerators
from facex.eval.roc import roc_curve
from tests.eval.ijb_by_hand import FARS, by_hand, rows_of, unit
from tests.eval.tiny import Tiny
from tests.eval.tiny_ijb import TinyIjb, make_ijb


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyIjb:
    return make_ijb(tmp_path_factory.mktemp("ijb") / "ijb")


def test_every_rule_by_hand(made: TinyIjb) -> None:
    """Through the files: turned crops, lists, alignment, embedding, templates, pairs, probes."""
    method = Tiny()
    found = evaluate_ijb(method, method.networks(), open_ijb(made.folder), RULES, fars=FARS, batch_size=7, threads=2)
    plain, mirrored = rows_of(made.aligned), rows_of(made.aligned[:, :, ::-1])
    assert found.images_per_second > 0
    for name in RULES:
        expected, numbers = by_hand(made, name, plain, mirrored), found.clean[name]
        assert numbers.tar == pytest.approx(expected["tar"]), name
        assert numbers.auc == pytest.approx(expected["auc"]), name
        assert numbers.search is not None
        assert numbers.search.rates == pytest.approx(expected["rates"]), name
        assert numbers.search.tpir == pytest.approx(expected["tpir"]), name
        assert 0.6 < numbers.auc < 1
    assert len({numbers.auc for numbers in found.clean.values()}) == 4  # the rules do differ on these faces


@pytest.mark.parametrize("fusion", ["pre_norm_vector_add", "norm_weighted_avg", "average", "concat"])
def test_fusions_by_hand(made: TinyIjb, fusion: Any) -> None:
    """AdaFace's script: unit vector of the fused views times their fused length."""
    plain, mirrored = rows_of(made.aligned), rows_of(made.aligned[:, :, ::-1])
    rows = []
    for a, b in zip(plain, mirrored, strict=True):
        n, m = np.linalg.norm(a), np.linalg.norm(b)
        rows.append(
            {
                "pre_norm_vector_add": a + b,
                "norm_weighted_avg": unit(a / n * n + b / m * m) * (n + m) / 2,
                "average": unit(a / n + b / m) * (n + m) / 2,
                "concat": np.concatenate([a / n, b / m]) * (n + m) / 2,
            }[fusion]
        )
    method = Tiny()
    rules = IjbRules(fusion=fusion, detector_scores=False, keep_norm=fusion != "average")
    one = open_ijb(made.folder)
    got = evaluate_ijb(method, method.networks(), one, {"ours": rules}, fars=FARS, search=False).clean["ours"]
    whole = np.array(rows)
    whole = whole if rules.keep_norm else np.array([unit(row) for row in whole])
    same = by_hand(made, "adaface", whole, np.zeros_like(whole))
    assert got.auc == pytest.approx(same["auc"])
    assert got.tar == pytest.approx(same["tar"])
    assert got.search is None


def test_occlusion_is_a_loop_over_draws(made: TinyIjb) -> None:
    method, block = Tiny(), Block(40, 41, "white")
    protocol = OcclusionProtocol(ratios=(40, 0), fill="white", repeats=2, flip_occlusion="shared", seed=3)
    found = evaluate_ijb(method, method.networks(), open_ijb(made.folder), None, protocol, fars=FARS, batch_size=9)
    assert [point.condition.name for point in found.points] == ["block 40 %", "block 0 %"]
    for repeat in range(2):
        generators = KeyedGenerators(3, repr(block), repeat, False)
        shown = np.stack([block.draw(image, generators(i))[0] for i, image in enumerate(made.aligned)])
        expected = by_hand(made, "insightface", rows_of(shown), rows_of(shown[:, :, ::-1]))
        numbers = found.points[0].repeats["insightface"][repeat]
        assert numbers.tar == pytest.approx(expected["tar"])
        assert numbers.auc == pytest.approx(expected["auc"])
    clean = by_hand(made, "insightface", rows_of(made.aligned), rows_of(made.aligned[:, :, ::-1]))
    assert found.clean["insightface"].auc == pytest.approx(clean["auc"])
    mean = found.points[0].tar("insightface", 0.1)
    assert mean.value == pytest.approx(np.mean([n.tar[0.1] for n in found.points[0].repeats["insightface"]]))
    assert found.points[0].summary()["rules"]["insightface"]["tar_interval"]["0.1"] == pytest.approx(mean.half_width)
    assert found.points[1].summary()["rules"]["insightface"]["tar_interval"]["0.1"] is None


def test_lists_without_an_answer_are_refused_before_anything_is_embedded(made: TinyIjb) -> None:
    method, one = Tiny(), open_ijb(made.folder)
    one.load = None  # type: ignore[assignment]
    assert one.lists.probes is not None
    one.lists.galleries[1].subjects[0] = 2  # person 2 is in both galleries now, and another is in none
    with pytest.raises(DataError, match=r"4 of 16 probes have not exactly one mate.*--no-search"):
        evaluate_ijb(method, {}, one, {"adaface": RULES["adaface"]})
    one.lists.probes.subjects[:] = 77
    with pytest.raises(DataError, match="0 of 16 probes have a mate in gallery 1"):
        evaluate_ijb(method, {}, one)
    one.lists.issame[:] = False
    with pytest.raises(DataError, match="impostor"):
        evaluate_ijb(method, {}, one, search=False)
    with pytest.raises(ConfigError, match="no rules"):
        evaluate_ijb(method, {}, one, {})
    with pytest.raises(ConfigError, match="--unit-faces"):
        IjbRules("magface", keep_norm=False)


def test_embeddings_that_are_nan_are_named(made: TinyIjb) -> None:
    method = Tiny()
    with torch.no_grad():
        method.net[2].bias[0] = torch.nan
    with pytest.raises(DataError, match="image 0 holds NaN"):
        evaluate_ijb(method, method.networks(), open_ijb(made.folder))


def test_a_thin_curve_lies_on_the_curve() -> None:
    rng = np.random.default_rng(0)
    same = rng.random(20_000) < 0.1
    whole = roc_curve(rng.normal(size=20_000) + 2 * same, same, drop_intermediate=False)
    few = thin(whole, 200)
    assert 100 < len(few.far) <= 200
    assert {*zip(few.far, few.tar, strict=True)} <= {*zip(whole.far, whole.tar, strict=True)}
    assert (few.far[0], few.far[-1]) == (0, 1)
    assert np.max(np.diff(np.log10(few.far[few.far > 10 / np.sum(~same)]))) < 0.2  # and it leaves no wide gap
    assert thin(few, 200) is few


def test_progress_says_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    monkeypatch.setattr("facex.eval.ijb_embed.time.monotonic", lambda: now[0])
    progress = Progress("trained", 10_000)
    progress(10)
    now[0] = 120.0
    progress(200)
    assert capfd.readouterr().err == "trained: 200 of 10000 faces, 10 images/s, 0:16:20 left\n"
