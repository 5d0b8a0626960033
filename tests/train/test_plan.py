"""A dry run prints the plan and writes nothing; the inclusive warm-up; a file where a run is wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facex.errors import CheckpointError
from facex.train.checkpoint_folder import open_checkpoint
from facex.train.config import ScheduleConfig
from facex.train.parsing import parse
from facex.train.schedules import build_schedule
from facex.train.trainer import train


def test_an_inclusive_warmup_is_linspace() -> None:
    config = ScheduleConfig(kind="cosine", min_lr=0.1, warmup_epochs=2, warmup_start_lr=0.2, warmup_inclusive=True)
    schedule = build_schedule(config, 5, 4, 1.0)
    rest = 0.1 + 0.45 * (1 + np.cos(np.pi * np.arange(10) / 10))
    expected = np.concatenate([np.linspace(0.2, 1.0, 10), rest])
    assert [schedule.lr(k) for k in range(20)] == pytest.approx(expected.tolist(), rel=1e-12)
    plain = build_schedule(ScheduleConfig(kind="constant", warmup_steps=1), 5, 4, 1.0)
    inclusive = build_schedule(ScheduleConfig(kind="constant", warmup_steps=1, warmup_inclusive=True), 5, 4, 1.0)
    assert [plain.lr(0), inclusive.lr(0), inclusive.lr(1)] == [0.0, 0.0, 1.0]


def test_a_dry_run_prints_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--method", "Recogniser", "--method.margin", "ArcFace", "--method.backbone", "r18", "--method.norm_decay"]
    words += ["false", "--method.backbone_options", "{width: 0.125, blocks: [1, 1, 1, 1]}"]
    words += ["--data.path", "synthetic:7x56", "--trainer.global_batch", "8", "--trainer.epochs", "2"]
    words += ["--trainer.output", str(tmp_path / "run"), "--trainer.dry_run", "true", "--schedule.warmup_steps", "4"]
    parsed = parse(words)
    assert train(parsed.config, parsed.resolved).steps == 0
    assert not (tmp_path / "run").exists()
    shown = capsys.readouterr().out
    assert "groups   3: 2 below, and the head's" in shown
    assert "rates    backbone: 0 at step 0, 0.025 at step 1, 0.1 at step 4, 0.1 at step 7, 0.1 at step 13" in shown
    assert "7 classes" in shown


def test_a_file_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-last.pth").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match="is a file, not a run or checkpoint folder; init_from takes official files"
    ):
        open_checkpoint(tmp_path / "checkpoint-last.pth")
