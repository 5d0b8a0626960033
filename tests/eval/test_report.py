"""The report page: complete in itself, every picture decodes and shows something, faces stay out when asked."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from facex.eval.baselines import raw_pixels
from facex.eval.report import Report, read_metrics, rows, write_report
from facex.eval.run import SetResult, evaluate_set, load_bins
from tests.eval.tiny import Tiny, make_bin


class Page(HTMLParser):
    """Sources of images and whatever a page could fetch; checks that tags nest."""

    VOID = frozenset({"img", "meta", "br", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.alts: list[str] = []
        self.open: list[str] = []
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.images.append(values["src"] or "")
            self.alts.append(values["alt"] or "")
        self.outside += [v for k, v in attrs if k in ("href", "src") and v and not v.startswith("data:")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def pictures(page: Page) -> list[np.ndarray]:
    decoded = []
    for source in page.images:
        assert source.startswith("data:image/png;base64,")
        image = cv2.imdecode(np.frombuffer(base64.b64decode(source.split(",", 1)[1]), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        decoded.append(image)
    return decoded


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Two sets, two networks, and a metrics file whose last line a crash has cut."""
    sets = load_bins([make_bin(tmp_path / "one.bin"), make_bin(tmp_path / "two <b>.bin", seed=4)])
    method = Tiny()
    trained = {s.name: evaluate_set(method, method.networks(), s) for s in sets}
    metrics = tmp_path / "metrics.jsonl"
    lines = [{"step": i, "train/loss": 9 / (i + 1), "lr": 0.1, "loss_scale": 65536} for i in range(1, 200)]
    lines += [{"step": i, "eval": {"one": {"accuracy": 0.5 + i / 500}}} for i in (50, 100, 150)]
    metrics.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 200, "train/lo')
    results = {"trained": trained, "raw_pixels": {s.name: raw_pixels(s) for s in sets}}
    return Report("Tiny · <script>", results, sets, [("run", "runs/<x>")], metrics)


def test_page_is_self_contained_and_every_picture_shows_something(tmp_path: Path, report: Report) -> None:
    path = write_report(tmp_path / "report", report)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.outside == []
    assert "<script>" not in text
    images = pictures(page)
    assert len(images) > 50
    for alt, image in zip(page.alts, images, strict=True):
        assert image.std() > 5, alt
    for wanted in (
        "ROC of one",
        "score histogram of two <b>",
        "Loss",
        "Verification during training",
        "quality histogram",
    ):
        assert any(wanted in alt for alt in page.alts), wanted
    assert "Hardest genuine pairs" in text
    assert sorted(p.name for p in path.parent.iterdir()) == ["index.html", "results.json"]

    check_results(report, json.loads((path.parent / "results.json").read_text()))
    result = report.results["trained"]["one"]
    genuine = np.flatnonzero(result.issame)
    pairs = [int(m[1]) for alt in page.alts if (m := re.match(r"pair (\d+) ", alt))]
    assert pairs[0] == genuine[np.argmin(result.pairs.scores[genuine])]  # the hardest genuine pair comes first


def check_results(report: Report, content: dict[str, list[dict[str, object]]]) -> None:
    assert [(r["set"], r["network"]) for r in content["rows"]] == [
        ("one", "raw_pixels"),
        ("one", "trained"),
        ("two <b>", "raw_pixels"),
        ("two <b>", "trained"),
    ]
    for row in content["rows"]:
        assert {"accuracy", "std", "tar@far", "auc"} <= set(row)
        assert 0 <= float(str(row["accuracy"])) <= 1
    assert content["rows"] == rows(report.results)


def test_faces_stay_out_when_asked(tmp_path: Path, report: Report) -> None:
    report.pictures = False
    page = Page(write_report(tmp_path / "report", report).read_text(encoding="utf-8"))
    assert all(image.shape[1] > 500 for image in pictures(page))  # charts alone, no 112-pixel faces
    assert not any(re.match(r"pair \d", alt) for alt in page.alts)


def test_without_metrics_quality_or_impostors(tmp_path: Path, report: Report) -> None:
    one = report.sets[0]
    result = report.results["trained"][one.name]
    bare = SetResult(one.name, result.pairs, np.ones(len(one), bool))
    bare.pairs.auc = bare.pairs.eer = float("nan")
    path = write_report(
        tmp_path / "bare", Report("bare", {"trained": {one.name: bare}}, [one], metrics=tmp_path / "none")
    )
    text = path.read_text(encoding="utf-8")
    assert "Face quality" not in text
    assert "Training" not in text
    assert json.loads((path.parent / "results.json").read_text())["rows"][0]["auc"] is None


def test_read_metrics_flattens_and_leaves_out_what_is_cut(report: Report) -> None:
    assert report.metrics is not None
    found = read_metrics(report.metrics)
    assert len(found["train/loss"][0]) == 199
    assert found["eval/one/accuracy"][1].tolist() == [0.6, 0.7, 0.8]
