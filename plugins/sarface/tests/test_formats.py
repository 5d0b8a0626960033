"""Official files: told apart by the start of their names, loaded strictly and safely, written back as they were."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from facex_sarface.formats import (
    PARSER,
    POLICY,
    RECOGNISER,
    join_official,
    official_stage,
    recognise_official,
    sarface_formats,
    split_official,
)
from facex_sarface.policy_network import PolicyNetwork
from facex_sarface.swiftformer import SwiftFormerParser
from torch import Tensor, nn

from facex.errors import CheckpointError
from facex.layouts import recognise_official as recognise_plain
from facex.methods import Format
from facex.methods.loading import load_network, read_state
from facex.models import create_backbone

CLASSES, SIZE = 5, 8
MARGIN = {"batch_mean": torch.tensor([19.0]), "batch_std": torch.tensor([90.0])}


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """A small recogniser, parser and policy."""
    torch.manual_seed(0)
    small = {"embedding_size": SIZE, "input_size": 32, "width": 0.125}
    return {
        RECOGNISER: create_backbone("ir_18", **small),
        PARSER: SwiftFormerParser(widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), classes=3),
        POLICY: PolicyNetwork(3, 4),
    }


def content_of(networks: Mapping[str, nn.Module], margin: bool = True) -> dict[str, Any]:
    """What a run gives to a format."""
    meta = {"margin": dict(MARGIN)} if margin else {}
    parts = {name: module.state_dict() for name, module in networks.items()}
    return {"networks": parts, "head": torch.randn(CLASSES, SIZE), "meta": meta}


def lightning(state: Mapping[str, Tensor], path: Path, **more: Any) -> Path:
    """A file as Lightning writes it, with what its optimizer and MultiStepLR keep."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], 0.1, 0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [12, 20, 24])
    beside = {"epoch": 3, "global_step": 7, "hyper_parameters": {"arch": "ir_18", "lr": 0.1}, "loops": {"fit": {}}}
    beside |= {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [schedule.state_dict()]}
    torch.save({"state_dict": dict(state), **beside, **more}, path)
    return path


def chosen(formats: list[Format], state: Mapping[str, Tensor]) -> str:
    """The first format that recognises a file."""
    return next((f.name for f in formats if f.recognise(dict(state))), "none")


@pytest.mark.parametrize("stage", [1, 2])
def test_a_whole_file_is_read_and_written_back(stage: int, networks: dict[str, nn.Module], tmp_path: Path) -> None:
    content = content_of(networks)
    state = join_official(content, stage)
    assert {key.split(".")[0] for key in state} == {"model", "head", "seg_model"} | (
        {"policy"} if stage == 2 else set()
    )
    assert state["head.kernel"].shape == (SIZE, CLASSES)
    found = read_state(lightning(state, tmp_path / "last.ckpt", options=argparse.Namespace(m=0.4)))
    formats = sarface_formats(networks)
    name = chosen(formats, found)
    assert name == ("sarface" if stage == 2 else "sarface-pretrain")
    layout = next(f for f in formats if f.name == name)
    parts = layout.read(found)
    assert set(parts["networks"]) == ({RECOGNISER, PARSER, POLICY} if stage == 2 else {RECOGNISER, PARSER})
    for part, tensors in parts["networks"].items():
        load_network(networks[part], tensors, "last.ckpt", part)
    assert torch.equal(parts["head"], content["head"])
    assert parts["meta"]["margin"] == MARGIN
    again = layout.write(parts)
    assert list(again) == list(state)
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_seg_model_is_not_model(networks: dict[str, nn.Module]) -> None:
    state = join_official(content_of(networks))
    parts = split_official(state)["networks"]
    assert list(parts[RECOGNISER]) == list(networks[RECOGNISER].state_dict())
    assert list(parts[PARSER]) == list(networks[PARSER].state_dict())
    with pytest.raises(CheckpointError, match=r"teacher\.weight"):
        split_official({**state, "teacher.weight": torch.zeros(1)})


def test_parts_alone(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    formats = sarface_formats(networks)
    for part, name in ((PARSER, "sarface-parser"), (POLICY, "sarface-policy"), (RECOGNISER, "adaface")):
        torch.save(networks[part].state_dict(), tmp_path / f"{part}.pth")
        state = read_state(tmp_path / f"{part}.pth")
        assert chosen(formats, state) == name
        layout = next(f for f in formats if f.name == name)
        content = layout.read(state)
        assert list(content["networks"]) == [part]
        load_network(networks[part], content["networks"][part], name, part)
        assert list(layout.write(content)) == list(state)
    content = content_of({RECOGNISER: networks[RECOGNISER]})
    adaface = next(f for f in formats if f.name == "adaface-lightning")
    state = read_state(lightning(adaface.write(content), tmp_path / "adaface.ckpt"))
    assert chosen(formats, state) == "adaface-lightning"
    assert torch.equal(adaface.read(state)["head"], content["head"])


def test_a_method_takes_what_it_has(networks: dict[str, nn.Module]) -> None:
    first = {name: networks[name] for name in (RECOGNISER, PARSER)}
    formats = sarface_formats(first)
    assert formats[0].name == "sarface-pretrain"
    state = join_official(content_of(networks))
    layout = next(f for f in formats if f.recognise(dict(state)))
    assert set(layout.read(dict(state))["networks"]) == {RECOGNISER, PARSER}


def test_what_is_missing_is_named(networks: dict[str, nn.Module]) -> None:
    content = content_of({RECOGNISER: networks[RECOGNISER]})
    with pytest.raises(CheckpointError, match="holds parser, policy"):
        join_official(content)
    assert official_stage(join_official(content, 1, networks[PARSER])) == 1
    with pytest.raises(CheckpointError, match="class centres"):
        join_official({**content, "head": None}, 1, networks[PARSER])


def test_cosface_has_no_running_values(networks: dict[str, nn.Module]) -> None:
    state = join_official(content_of(networks, margin=False))
    assert [key for key in state if key.startswith("head.")] == ["head.kernel"]
    assert split_official(state)["meta"] == {}


def published(**parts: nn.Module) -> dict[str, Tensor]:
    """The names and shapes of published networks, without memory."""
    state = {f"{prefix}.{key}": value for prefix, module in parts.items() for key, value in module.state_dict().items()}
    return {**state, "head.kernel": torch.zeros(512, CLASSES)}


def test_files_say_what_they_hold() -> None:
    with torch.device("meta"):
        recogniser, parser, policy = create_backbone("ir_se_50"), SwiftFormerParser(), PolicyNetwork(11, 23)
    whole = published(model=recogniser, seg_model=parser, policy=policy)
    assert recognise_official(whole) == {
        **{"backbone": "ir_se_50", "embedding_size": 512, "stage": 2, "adaptive": False},
        **{"parser_variant": "l1", "classes": 19, "actions": 11, "regions": 23},
    }
    first = published(model=recogniser, seg_model=parser)
    facts = recognise_official({**first, "head.batch_mean": torch.zeros(1)})
    assert facts is not None
    assert (facts["stage"], facts["adaptive"]) == (1, True)
    plain = published(model=recogniser)
    assert recognise_official(plain) is None
    assert recognise_official({"encoder.norm0.weight": torch.zeros(1)}) is None
    # the plain recogniser takes AdaFace's files, and leaves those with further networks
    assert recognise_plain(plain) is not None
    assert recognise_plain(first) is None


class Payload:
    """What an unpickler without an allow-list would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("PWNED"),))


def test_nothing_is_run(networks: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lightning(join_official(content_of(networks)), tmp_path / "bad.ckpt", callbacks=Payload())
    with pytest.raises(CheckpointError, match="weights_only"):
        read_state(tmp_path / "bad.ckpt")
    assert not (tmp_path / "PWNED").exists()
