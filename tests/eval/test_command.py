"""`facex eval`: one JSON object alone on stdout, the table, the baselines, the report, the choice of the checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from facex.commands import eval as command
from facex.errors import CheckpointError, ConfigError, VerificationSetError
from facex.inference import embed
from tests.eval.tiny import make_bin, make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", (10, 20), (0.9, 0.0))


def test_json_alone_on_stdout(
    tmp_path: Path, run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever libraries print, from Python or from C, goes to stderr."""
    plain = embed.embed_batch

    def chatty(*args: object, **options: object) -> object:
        print("a library says hello")
        os.write(1, b"and so does its C++\n")
        return plain(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("facex.eval.run.embed_batch", chatty)
    sets = [str(make_bin(tmp_path / f"{name}.bin", seed=i)) for i, name in enumerate("ab")]
    assert command.main(["--checkpoint", str(run), "--best", "--bin", *sets, "--json", "-"]) == 0
    out, err = capfd.readouterr()
    numbers = json.loads(out)
    assert list(numbers) == ["a", "b"]
    for values in numbers.values():
        assert next(iter(values)) == "accuracy"
        assert 0.5 <= values["accuracy"] <= 1
    assert "hello" in err
    assert "C++" in err
    print("stdout is back")
    assert "stdout is back" in capfd.readouterr().out


def test_last_best_and_step(tmp_path: Path, run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Step 20, the last, has zero weights: every face the same."""
    common = ["--checkpoint", str(run), "--bin", str(make_bin(tmp_path / "a.bin")), "--json", "-"]
    accuracy = []
    for extra in ([], ["--best"], ["--step", "10"], ["--step", "20"]):
        assert command.main([*common, *extra]) == 0
        accuracy.append(json.loads(capfd.readouterr().out)["a"]["accuracy"])
    assert accuracy[0] == accuracy[3] == 0.5
    assert accuracy[1] == accuracy[2] > 0.8
    with pytest.raises(ConfigError, match="exclude each other"):
        command.main([*common, "--best", "--step", "10"])
    with pytest.raises(CheckpointError, match="15"):
        command.main([*common, "--step", "15"])
    with pytest.raises(CheckpointError, match="nowhere"):
        command.main(["--checkpoint", "nowhere", *common[2:]])


def test_table_baselines_report_and_file(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--checkpoint", str(run), "--best", "--bin", str(make_bin(tmp_path / "a.bin")), "--baselines"]
    arguments += [
        "--report",
        str(tmp_path / "report"),
        "--json",
        str(tmp_path / "out.json"),
        "--no-flip",
        "--no-pictures",
    ]
    assert command.main(arguments) == 0
    out = capsys.readouterr().out
    for text in ("raw pixels", "untrained", "trained", "TAR@0.01", "TAR@0.001", "AUC", "images/s", "index.html"):
        assert text in out
    rows = json.loads((tmp_path / "report" / "results.json").read_text())["rows"]
    assert [row["network"] for row in rows] == ["raw_pixels", "untrained", "trained"]
    numbers = json.loads((tmp_path / "out.json").read_text())
    assert list(numbers["a"]["baselines"]) == ["raw_pixels", "untrained"]
    assert numbers["a"]["accuracy"] == rows[2]["accuracy"]
    assert "step_00000010" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


def test_wrong_input_is_named(tmp_path: Path, run: Path) -> None:
    short = str(make_bin(tmp_path / "short.bin", pairs=12))
    with pytest.raises(VerificationSetError, match=r"short\.bin: 12 pairs do not divide"):
        command.main(["--checkpoint", str(run), "--bin", short])
    assert command.main(["--checkpoint", str(run), "--bin", short, "--uneven-folds"]) == 0
    with pytest.raises(VerificationSetError, match=r"none\.bin"):
        command.main(["--checkpoint", str(run), "--bin", "none.bin"])
    with pytest.raises(ConfigError, match="--device"):
        command.main(["--checkpoint", str(run), "--bin", short, "--folds", "4", "--device", "toaster"])
    with pytest.raises(ConfigError, match="--batch-size 0"):
        command.main(["--checkpoint", str(run), "--bin", short, "--batch-size", "0"])
