"""`facex eval --protocol ijb`: table, JSON, report, several networks and rules, occlusion, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from facex.commands import eval as command
from facex.errors import ConfigError, DataError
from facex.eval.ijb_faces import open_ijb
from facex.eval.ijb_rules import RULES
from facex.eval.ijb_run import evaluate_ijb
from tests.eval.test_report import Page, pictures
from tests.eval.tiny import Tiny, make_run
from tests.eval.tiny_ijb import make_ijb


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, and a set."""
    folder = tmp_path_factory.mktemp("ijb")
    make_ijb(folder / "ijb")
    for name, step in (("one", 10), ("two", 20)):
        make_run(folder / name, (step,))
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    return ["--checkpoint", str(folder / "one"), "--protocol", "ijb", "--ijb", str(folder / "ijb"), *more]


def test_json_alone_on_stdout_has_the_numbers_of_the_functions(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rules = ["--ijb-rules", "adaface", "magface", "--tar-rule", "at_most", "--far", "0.01", "0.1"]
    assert command.main(arguments(folder, "--json", "-", *rules)) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)["ijb"]
    assert "IJB-C:" in err
    assert (found["set"], found["templates"], found["pairs"], found["genuine_pairs"]) == ("IJBC", 24, 276, 24)
    assert found["rules"]["adaface"]["tar"] == "at_most"
    assert list(found["networks"]) == ["trained"]
    method = Tiny()
    method.net[2].weight.data.mul_(10)
    method.net[2].bias.data.fill_(0.1)
    direct = evaluate_ijb(
        method, method.networks(), open_ijb(folder / "ijb"), {"magface": RULES["magface"]}, fars=(0.01, 0.1)
    )
    numbers = found["networks"]["trained"]["rules"]
    assert numbers["magface"]["auc"] == pytest.approx(direct.clean["magface"].auc)
    assert set(numbers["adaface"]) == {"tar@far", "auc", "rank", "tpir@fpir"}
    assert list(numbers["adaface"]["tar@far"]) == ["0.01", "0.1"]


def test_the_options_change_the_rules(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    aucs = []
    for more in (
        ["--no-flip"],
        ["--fusion", "average"],
        ["--no-detector-score"],
        ["--unit-faces"],
        ["--no-search", "--threads", "2"],
    ):
        assert command.main(arguments(folder, "--json", "-", *more)) == 0
        numbers = json.loads(capfd.readouterr().out)["ijb"]["networks"]["trained"]["rules"]["insightface"]
        aucs.append(numbers["auc"])
        assert ("rank" in numbers) == ("--no-search" not in more)
    assert len(set(aucs)) == 5


def test_table_and_report_of_two_networks_under_occlusion(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--ratios", "0", "50", "--repeats", "2", "--occluder", "block", "ellipse", "--fill", "white"]
    compare = ["--compare", f"plain={folder / 'two'}", "--name", "a_name"]
    assert command.main(arguments(folder, *more, *compare, "--report", str(tmp_path))) == 0
    out = capsys.readouterr().out
    for text in ("IJB-C, 1:1", "1e-6", "1:N", "rank-10", "TPIR@0.01", "block 50 %", "ellipse", "±", "a name"):
        assert text in out, text
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert page.open == page.outside == []
    assert page.alts == ["ROC of IJB-C by insightface", "TAR under blocks by insightface"]  # charts, and no faces
    assert all(image.std() > 5 for image in pictures(page))
    found = json.loads((tmp_path / "results.json").read_text())["ijb"]["networks"]
    assert list(found) == ["a_name", "plain"]
    points = found["plain"]["occlusion"]["points"]
    assert [(p["occluder"], p["ratio"], len(p["rules"]["insightface"]["repeats"])) for p in points] == [
        ("block", 0, 1),
        ("block", 50, 2),
        ("ellipse", None, 2),
    ]
    clean = found["plain"]["rules"]["insightface"]
    assert points[0]["rules"]["insightface"]["repeats"] == [clean]
    assert points[1]["rules"]["insightface"]["repeats"][0]["auc"] != clean["auc"]
    assert found["plain"]["occlusion"]["protocol"]["fill"] == "white"


def test_missing_pictures(tmp_path: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_ijb(tmp_path / "ijb", search=False)
    (tmp_path / "ijb" / "loose_crop" / "1.png").unlink()
    options = ["--checkpoint", str(folder / "one"), "--protocol", "ijb", "--ijb", str(tmp_path / "ijb")]
    with pytest.raises(DataError, match=r"line 1: no picture .*--missing skip"):
        command.main(options)
    report = ["--missing", "skip", "--report", str(tmp_path / "report")]
    assert command.main([*options, *report]) == 0
    out, err = capfd.readouterr()
    assert "missing: faces 1, pairs 23" in err
    assert "1:N" not in out
    assert "left out" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bin", "a.bin"], "--bin does not belong to --protocol ijb"),
        (["--images", "x"], "--images does not belong"),
        (["--flip-occlusion", "shared"], "--flip-occlusion does not belong"),
        (["--repeats", "3"], "--repeats says nothing without --ratios"),
        (["--ratios", "101"], "ratio 101"),
        (["--ratios", "40", "--repeats", "0"], "0 repeats"),
        (["--fusion", "concat", "--no-flip"], "exclude each other"),
        (["--ijb-rules", "magface", "--unit-faces"], "no --unit-faces"),
        (["--threads", "0"], "--threads 0"),
        (["--protocol", "verification"], "--ijb belongs to --protocol ijb"),
        (["--protocol", "ar", "--no-search"], "belongs to --protocol ijb"),
    ],
)
def test_mistakes_are_named(folder: Path, options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command.main(arguments(folder, *options))


def test_a_folder_is_needed(folder: Path) -> None:
    with pytest.raises(ConfigError, match="needs --ijb FOLDER"):
        command.main(["--checkpoint", str(folder / "one"), "--protocol", "ijb"])
    with pytest.raises(DataError, match="loose_crop"):
        command.main(["--checkpoint", str(folder / "one"), "--protocol", "ijb", "--ijb", str(folder)])
