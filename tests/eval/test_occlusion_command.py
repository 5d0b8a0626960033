"""`facex eval --protocol occlusion`, pair lists, the AR database, several runs: table, JSON, report, pictures,
mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from facex.commands import eval as command
from facex.errors import ConfigError, VerificationSetError
from tests.eval.test_segmentation_plots import Explaining
from tests.eval.tiny import encode, faces, make_bin, make_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of networks with masks, a set, and a folder of pictures."""
    folder = tmp_path_factory.mktemp("runs")
    make_bin(folder / "a.bin")
    for name, step in (("one", 10), ("two", 20)):
        make_run(folder / name, (step,), kind=Explaining)
    for person, two in enumerate(faces(4)):
        (folder / "faces" / str(person)).mkdir(parents=True)
        for number, image in zip((1, 8, 11), (*two, two[1]), strict=True):
            (folder / "faces" / str(person) / f"m-{person + 1:03}-{number:02}.jpg").write_bytes(encode(image))
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    return ["--checkpoint", str(folder / "one"), *more]


OCCLUSION = ["--protocol", "occlusion", "--ratios", "0", "40", "--repeats", "2"]


def test_table_json_report(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = ["--report", str(tmp_path / "report"), "--json", str(tmp_path / "out.json")]
    compare = ["--compare", f"plain={folder / 'two'}", "--name", "msml", "--bin", str(folder / "a.bin")]
    assert command.main(arguments(folder, *OCCLUSION, "--occluder", "block", "ellipse", *compare, *report)) == 0
    out = capsys.readouterr().out
    for text in ("under occlusion", "block 40 %", "ellipse", "IoU occluded", "msml − plain", "±"):
        assert text in out
    numbers = json.loads((tmp_path / "out.json").read_text())["a"]
    assert list(numbers["compared"]) == ["plain"]
    found = numbers["occlusion"]
    assert list(found["networks"]) == ["msml", "plain"]
    points = found["networks"]["msml"]["points"]
    assert [(p["occluder"], p["ratio"]) for p in points] == [("block", 0), ("block", 40), ("ellipse", None)]
    assert points[0]["accuracy"] == numbers["accuracy"]
    assert points[1]["iou"]["occluded"] > 0.5
    assert len(found["differences"]["plain"]) == 3
    assert found["differences"]["plain"][1]["mean"] == 0  # the weights of one are those of the other, doubled
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    for alt in ("accuracy under blocks on a", "accuracy by occluder on a"):
        assert f'alt="{alt}"' in page
    assert "Predicted masks" not in page  # nobody said that these faces are rendered
    content = json.loads((tmp_path / "report" / "results.json").read_text())
    assert content["occlusion"]["a"] == found
    assert [row["network"] for row in content["rows"]] == ["msml", "plain"]


def test_overlays_and_vis(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overlays are in the page where the user asks, or where facex has rendered the faces; never against
    --no-pictures."""
    monkeypatch.setattr("facex.eval.mask_plots._DPI", 50)
    bin_ = ["--bin", str(folder / "a.bin")]
    common = [*OCCLUSION, "--report", str(tmp_path / "report")]
    vis = ["--vis", str(tmp_path / "vis"), "--vis-entry", "1"]
    assert command.main(arguments(folder, *bin_, *common, *vis, "--pictures")) == 0
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'alt="(block \d+ % · entry \d+)"', page) == ["block 40 % · entry 0", "block 40 % · entry 2"]
    assert {p.name for p in (tmp_path / "vis").iterdir()} == {
        *("a1_truth.png", "a1_learned.png", "fm_cm_8_mul.png", "fm_cp_8_mul.png")
    }
    rendered = tmp_path / "rendered"
    rendered.mkdir()
    (rendered / "synth.json").write_text("{}")
    (rendered / "a.bin").write_bytes((folder / "a.bin").read_bytes())
    for extra, there in (([], True), (["--no-pictures"], False)):
        assert command.main(arguments(folder, "--bin", str(rendered / "a.bin"), *common, *extra)) == 0
        page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
        assert ("Predicted masks" in page) == there


def test_pair_list_and_ar(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = "".join(f"{p} 1 2\n{p} 1 {(p + 1) % 4} 2\n" for p in range(4)) + "0 1 9\n"
    (tmp_path / "pairs.txt").write_text(text)
    options = ["--pairs", str(tmp_path / "pairs.txt"), "--images", str(folder / "faces"), "--folds", "4"]
    with pytest.raises(VerificationSetError, match=r"pairs\.txt, line 9: there is no picture 9"):
        command.main(arguments(folder, *options))
    assert command.main(arguments(folder, *options, "--missing", "skip")) == 0
    assert "1 pairs are left out" in capfd.readouterr().out
    ar = ["--protocol", "ar", "--images", str(folder / "faces"), "--gallery", "1"]
    assert command.main(arguments(folder, *ar, "--json", "-", "--compare", str(folder / "two"))) == 0
    found = json.loads(capfd.readouterr().out)["ar"]
    assert list(found) == ["trained", "two"]
    assert found["trained"]["probes"] == {"sunglasses": 4, "scarf": 4}
    assert command.main(arguments(folder, *ar)) == 0
    assert "rank-1" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fill", "white"], "--fill belongs to --protocol occlusion"),
        (["--flip-occlusion", "shared"], "--flip-occlusion belongs"),
        (["--protocol", "occlusion", "--one", "--both"], "--both and --one exclude"),
        (["--protocol", "occlusion", "--ratios", "101"], "ratio 101"),
        (["--protocol", "occlusion", "--repeats", "0"], "0 repeats"),
        (["--protocol", "occlusion", "--occluder", "hat"], "no occluder 'hat'"),
        (["--pictures", "--no-pictures"], "exclude each other"),
        (["--pairs", "x.txt"], "--pairs and --images go together"),
        (["--gallery", "1"], "--gallery belongs to --protocol ar"),
        (["--protocol", "ar"], "--images FOLDER"),
        (["--protocol", "ar", "--images", "x"], "--bin does not belong"),
        (["--compare", "trained=x"], "'trained' is taken"),
    ],
)
def test_mistakes_are_named(folder: Path, options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command.main(arguments(folder, "--bin", str(folder / "a.bin"), *options))


def test_no_faces_to_verify(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no faces to verify"):
        command.main(arguments(folder))
