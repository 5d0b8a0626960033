"""Logs and progress: what is written, what a resume drops, what a person sees without a terminal."""

import io
import json
import sys
import types

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from facex.errors import ConfigError
from facex.methods.spec import Visuals
from facex.train.config import LoggingConfig
from facex.train.logging import MetricsLogger
from facex.train.progress import Progress, Speed, StepTimer, duration, format_table, shares


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_jsonl_and_tensorboard(tmp_path):
    logger = MetricsLogger(tmp_path, LoggingConfig())
    logger.log(1, {"loss": 2.5, "lr": torch.tensor(0.1)})
    logger.log(2, {"loss": float("nan")})
    pictures = torch.randint(0, 255, (2, 8, 8, 3), dtype=torch.uint8)
    logger.visuals(2, Visuals({"faces": pictures}, {"norms": torch.rand(50)}))
    logger.close()
    logger.close()
    assert lines(tmp_path)[0] == {"step": 1, "loss": 2.5, "lr": pytest.approx(0.1)}
    assert lines(tmp_path)[1] == {"step": 2, "loss": None}
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"images": 0, "histograms": 0})
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("lr")] == [(1, pytest.approx(0.1))]
    assert {"faces/0", "faces/1"} <= set(events.Tags()["images"]) or "faces" in events.Tags()["images"]
    assert events.Tags()["histograms"] == ["norms"]


def test_resume_drops_what_lies_behind_and_torn_lines(tmp_path):
    logger = MetricsLogger(tmp_path, LoggingConfig(tensorboard=False))
    for step in range(1, 6):
        logger.log(step, {"loss": float(step)})
    logger.close()
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"step": 6, "lo')
    logger = MetricsLogger(tmp_path, LoggingConfig(tensorboard=False), resume_step=3)
    logger.log(4, {"loss": 40.0})
    logger.close()
    assert [(x["step"], x["loss"]) for x in lines(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    MetricsLogger(tmp_path, LoggingConfig(tensorboard=False)).close()
    assert lines(tmp_path) == []


def test_other_ranks_write_nothing(tmp_path):
    logger = MetricsLogger(tmp_path / "run", LoggingConfig(wandb=True), rank=1)
    logger.log(1, {"loss": 1.0})
    logger.close()
    assert not (tmp_path / "run").exists()


def test_missing_wandb_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'facex-train\[wandb\]'"):
        MetricsLogger(tmp_path, LoggingConfig(tensorboard=False, wandb=True))


def test_wandb_goes_on_under_its_own_id(tmp_path, monkeypatch):
    started, logged = [], []

    def init(**options):
        started.append(options)
        log = lambda values, step: logged.append((step, values))  # noqa: E731
        return types.SimpleNamespace(id=options["id"] or "abc", log=log, finish=lambda: None)

    fake = types.ModuleType("wandb")
    fake.init, fake.Image, fake.Histogram = init, lambda x: x, lambda x: x
    monkeypatch.setitem(sys.modules, "wandb", fake)
    settings = LoggingConfig(tensorboard=False, wandb=True)
    for resume in (None, 1):
        logger = MetricsLogger(tmp_path / "faces", settings, resume_step=resume, config={"a": 1})
        logger.log(2, {"loss": 1.0})
        logger.close()
    assert [s["id"] for s in started] == [None, "abc"]
    assert started[0]["name"] == "faces"
    assert logged == [(2, {"loss": 1.0})] * 2


def test_plain_lines_without_a_terminal():
    out = io.StringIO()
    progress = Progress(3, 64, stream=out, seconds=0.0)
    for done in range(1, 4):
        progress.update(done, {"loss": 1.0 / done})
    progress.print("[bold] stays text")
    progress.close()
    text = out.getvalue().splitlines()
    assert text[0].startswith("step 1/3  loss 1  ")
    assert "images/s  ETA 0s" in text[2]
    assert text[3] == "[bold] stays text"
    assert Progress(3, 64, stream=out, rank=1).update(1) is None
    assert len(out.getvalue().splitlines()) == 4


def test_lines_are_rare_but_the_last_one_comes():
    out = io.StringIO()
    progress = Progress(100, 8, stream=out, seconds=3600)
    for done in range(1, 101):
        progress.update(done)
    assert [x.split()[1] for x in out.getvalue().splitlines()] == ["100/100"]


def test_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    progress = Progress(2, 8, stream=out)
    progress.update(1, {"loss": 0.25})
    progress.print("evaluation [lfw] 0.99")
    progress.close()
    progress.close()
    assert "evaluation [lfw] 0.99" in out.getvalue()
    assert "1/2" in out.getvalue()


def test_speed_leaves_pauses_out(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("facex.train.progress.time.perf_counter", lambda: now[0])
    speed = Speed(10)
    speed.start()
    assert speed.recent() == speed.overall() == 0.0
    for _ in range(4):
        now[0] += 0.5
        speed.batch_done()
        with speed.pause():
            now[0] += 60
    assert speed.recent() == speed.overall() == 20.0


def test_timer_adds_up_parts(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("facex.train.progress.time.perf_counter", lambda: now[0])
    timer = StepTimer()
    for _ in range(2):
        for part, seconds in (("data", 1.0), ("forward", 3.0)):
            with timer.span(part):
                now[0] += seconds
    taken = timer.take()
    assert taken == {"data": 2.0, "forward": 6.0}
    assert shares(taken) == {"data": 0.25, "forward": 0.75}
    assert timer.take() == {}
    assert timer.total == taken
    silent = StepTimer(enabled=False)
    with silent.span("data"):
        pass
    assert silent.take() == {}


def test_tables_and_durations():
    table = format_table([("set", "accuracy"), ("lfw", "0.9983"), ("cfp_fp", "0.98")], indent="  ")
    assert table.splitlines() == [
        "  set     accuracy",
        "  ------  --------",
        "  lfw       0.9983",
        "  cfp_fp      0.98",
    ]
    assert [duration(s) for s in (0, 59.6, 185, 7620, 273600)] == ["0s", "1m00s", "3m05s", "2h07m", "3d04h"]
