"""`facex eval --axis --figures`: a curve an arm over a number, the same numbers in results.json, pictures of other commands."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from facex.commands import eval as command
from facex.errors import ConfigError
from facex.eval.run import evaluate_set, load_bins
from facex.eval.series_page import check_names, series, series_numbers, split_name
from tests.eval.tiny import Tiny, make_bin, make_run


def test_names() -> None:
    assert split_name("from scratch@4") == ("from scratch", 4.0)
    assert split_name("a@b@0.5") == ("a@b", 0.5)
    for name in ("trained", "@4", "LAFS@", "LAFS@all", "LAFS@nan", "4"):
        assert split_name(name) is None, name
    check_names(["a@1", "b@2", "other"])
    for names in (["trained"], ["a@1", "b@1"], ["a@1", "other"]):
        with pytest.raises(ConfigError, match="at least two numbers"):
            check_names(names)


def test_points_lie_where_the_names_say(tmp_path: Path) -> None:
    sets = load_bins([make_bin(tmp_path / "one.bin"), make_bin(tmp_path / "two.bin", seed=4)])
    method = Tiny()
    found = {one.name: evaluate_set(method, method.networks(), one) for one in sets}
    results = {"b@4": found, "b@1": {"one": found["one"]}, "a@4": found, "trained": found}
    points = series(results)
    assert list(points) == ["one", "two"]
    assert list(points["one"]) == ["b", "a"]
    assert list(points["one"]["b"]) == [1.0, 4.0]
    assert points["two"] == {"b": {4.0: found["two"].pairs.accuracy}, "a": {4.0: found["two"].pairs.accuracy}}
    numbers = series_numbers(results, "epochs")
    assert numbers["axis"] == "epochs"
    assert numbers["sets"]["one"]["a"] == [{"at": 4.0, "accuracy": found["one"].pairs.accuracy}]


def test_the_report_draws_arms_and_figures(tmp_path: Path) -> None:
    good, zero = make_run(tmp_path / "good", (20,)), make_run(tmp_path / "zero", (20,), (0.0,))
    (tmp_path / "shown").mkdir()
    cv2.imwrite(str(tmp_path / "shown" / "overlay_7.png"), np.full((8, 8, 3), 99, np.uint8))
    common = ["--bin", str(make_bin(tmp_path / "a.bin")), "--checkpoint", str(good), "--name", "mine@1"]
    arms = ["--compare", f"mine@2={good}", f"theirs@1={zero}", f"theirs@2={good}"]
    page = ["--report", str(tmp_path / "report"), "--axis", "images of each identity"]
    assert command.main([*common, *arms, *page, "--figures", f"What it sees={tmp_path / 'shown'}"]) == 0
    numbers = json.loads((tmp_path / "report" / "results.json").read_text())
    accuracy = {row["network"]: row["accuracy"] for row in numbers["rows"]}
    assert accuracy["mine@2"] > accuracy["theirs@1"] == 0.5
    arms_found = numbers["series"]["sets"]["a"]
    assert [(p["at"], p["accuracy"]) for p in arms_found["theirs"]] == [(1, 0.5), (2, accuracy["theirs@2"])]
    text = (tmp_path / "report" / "index.html").read_text()
    for part in ("Accuracy over images of each identity", "What it sees", "overlay_7"):
        assert part in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--axis", "labels"], "--axis needs --report"),
        (["--report", "out", "--axis", "labels"], "at least two numbers"),
        (["--report", "out", "--figures", "pictures=nowhere"], r"write TITLE=FOLDER, a folder with \.png"),
        (["--report", "out", "--figures", "nowhere"], "write TITLE=FOLDER"),
        (["--report", "out", "--figures", "a=b", "--no-pictures"], "exclude each other"),
    ],
)
def test_what_cannot_be_drawn_is_refused_first(more: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command.main(["--checkpoint", "nowhere", "--bin", "nowhere.bin", *more])
