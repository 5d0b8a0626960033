"""`facex eval --erc`: numbers, console and page, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from facex.commands import eval as command
from facex.errors import ConfigError
from facex.eval.page import page
from facex.eval.quality import error_versus_reject
from facex.eval.quality_page import reject_section, reject_table
from facex.eval.run import SetResult, reject_curve
from facex.eval.verification import evaluate_distances
from tests.eval.test_report import Page, pictures
from tests.eval.tiny import make_bin, make_run

PAIRS = 600


def result(seed: int = 0, name: str = "lfw") -> SetResult:
    rng = np.random.default_rng(seed)
    same, quality = np.arange(PAIRS) % 2 == 0, rng.random(2 * PAIRS).astype(np.float32)
    lower = np.minimum(quality[0::2], quality[1::2])
    d = np.clip(np.where(same, 1.6 - 2 * lower, 2) + 0.3 * rng.normal(size=PAIRS), 0, 4)
    return SetResult(name, evaluate_distances(d, same), same, quality)


def test_curve_of_a_result() -> None:
    one = result()
    curve = reject_curve(one, 0.05)
    quality = np.minimum(one.quality[0::2], one.quality[1::2])  # type: ignore[index]
    want = error_versus_reject(-one.pairs.scores, one.issame, quality, fmr=0.05)
    np.testing.assert_array_equal(curve.fnmr, want.fnmr)
    assert curve.fnmr[10] < curve.fnmr[0]
    one.reject = curve
    assert one.summary()["error_versus_reject"]["fnmr"][0] == curve.fnmr[0]
    with pytest.raises(ConfigError, match="lfw: the method gives no quality"):
        reject_curve(SetResult("lfw", one.pairs, one.issame))


@pytest.mark.parametrize("nominal", [False, True])
def test_page_and_table(nominal: bool) -> None:
    results = {network: {"lfw": result(i)} for i, network in enumerate(("untrained", "trained"))}
    assert reject_section(results) == []
    for by_set in results.values():
        by_set["lfw"].reject = reject_curve(by_set["lfw"], 0.05, nominal)
    text = page("title", [], reject_section(results), "")
    found = Page(text)
    assert not found.open
    assert not found.outside
    assert found.alts == ["error versus reject on lfw"]
    assert pictures(found)[0].std() > 5
    assert ("nominal" in text) == nominal
    curve = results["trained"]["lfw"].reject
    assert curve is not None
    header, body = reject_table([("lfw", "trained", curve)])
    assert len(header) == len(body[0][1])
    assert body[0][1][2] == f"{curve.fnmr[0]:.4f} ({curve.fmr[0]:.4f})"
    assert body[0][1][header.index("reject 75%")] == "–"  # about 75 impostor pairs are left


def test_a_set_too_small_for_a_curve() -> None:
    few = result()
    few.pairs.scores, few.issame = few.pairs.scores[:40], few.issame[:40]
    few.quality = few.quality[:80]  # type: ignore[index]
    few.reject = reject_curve(few)
    text = page("title", [], reject_section({"trained": {"lfw": few}}), "")
    assert text.count("<td>–</td>") == 6
    assert pictures(Page(text))[0].std() > 5


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    common = ["--checkpoint", str(run), "--bin", str(make_bin(tmp_path / "a.bin", 240)), "--batch-size", "240"]
    options = ["--erc", "--erc-fmr", "0.1", "--report", str(tmp_path / "report"), "--json", str(tmp_path / "n.json")]
    assert command.main([*common, *options, "--no-pictures"]) == 0
    numbers = json.loads((tmp_path / "n.json").read_text())["a"]["error_versus_reject"]
    assert numbers["target_fmr"] == 0.1
    assert numbers["fnmr"][0] is not None
    assert 0 < numbers["measured_fmr"][0] <= 0.1
    assert numbers["fnmr"][-1] is None
    assert "error versus reject" in capsys.readouterr().out
    assert "Error versus reject" in (tmp_path / "report" / "index.html").read_text()
    assert command.main(common) == 0
    assert "error versus reject" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--erc-fmr 0"):
        command.main([*common, "--erc", "--erc-fmr", "0"])
