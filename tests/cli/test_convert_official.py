"""Official files of arcface_torch, AdaFace and CVLface: recognised, loaded strictly, written back bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from facex import cli
from facex.classification import Recogniser
from facex.commands.convert import read_centres
from facex.errors import CheckpointError
from facex.heads.collectives import Ranks
from facex.heads.margin_head import MarginHead
from facex.heads.margins import AdaFace, ArcFace
from facex.methods import Source
from facex.methods.loading import load_sources, method_from_file, recognise_file
from facex.models import create_backbone
from facex.train.load_run import load_run

CLASSES, SIZE = 7, 8
CENTRES = torch.arange(CLASSES * SIZE).float().view(CLASSES, SIZE) / 10


def weights(name: str, prefix: str = "", **options: Any) -> dict[str, Tensor]:
    """A backbone's official state dict with values of its own."""
    torch.manual_seed(1)
    state = create_backbone(name, embedding_size=SIZE, **options).state_dict()
    return {prefix + k: 0.1 * torch.rand_like(v) + 0.01 if v.is_floating_point() else v + 3 for k, v in state.items()}


def lightning() -> dict[str, Tensor]:
    head = {
        "head.kernel": CENTRES.T.contiguous(),
        "head.t": torch.zeros(1),
        "head.batch_mean": torch.tensor([23.5]),
        "head.batch_std": torch.tensor([4.25]),
    }
    return {**weights("ir_18", "model."), **head}


# layout: (file's content, what the container is called, backbone, margin, colour)
OFFICIAL: dict[str, tuple[dict[str, Tensor], str, str, str, str]] = {
    "insightface": (weights("mbf"), "", "mbf", "ArcFace", "rgb"),
    "insightface-ddp": (weights("mbf", "module."), "state_dict", "mbf", "ArcFace", "rgb"),
    "adaface-lightning": (lightning(), "state_dict", "ir_18", "AdaFace", "bgr"),
    "adaface": (weights("ir_18"), "", "ir_18", "AdaFace", "bgr"),
    "cvlface": (weights("ir_18", "net."), "", "ir_18", "ArcFace", "rgb"),
}


def same(got: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    assert list(got) == list(wanted)
    for key in wanted:
        assert got[key].dtype == wanted[key].dtype
        assert torch.equal(got[key], wanted[key]), key


@pytest.mark.parametrize("layout", OFFICIAL)
def test_there_and_back(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, container, backbone, margin, color = OFFICIAL[layout]
    file = tmp_path / "official.pt"
    torch.save({container: state, "epoch": 20} if container else state, file)
    assert cli.main(["convert", str(file), str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert f"{layout} (" in said
    assert f"Recogniser {backbone}" in said
    assert f"input {color} 112x112" in said
    run = load_run(tmp_path / "run")
    assert run.method.head is not None
    assert type(run.method.head.margin).__name__ == margin
    assert run.method.input.color == run.meta["input"]["color"] == color
    assert cli.main(["convert", str(tmp_path / "run"), str(tmp_path / "back.pt"), "--to", layout]) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    same(back[container] if container else back, state)


def test_adafaces_class_centres_and_running_values(tmp_path: Path) -> None:
    torch.save({"state_dict": lightning(), "hyper_parameters": {"m": 0.4}}, tmp_path / "a.ckpt")
    assert cli.main(["convert", str(tmp_path / "a.ckpt"), str(tmp_path / "run")]) == 0
    run = load_run(tmp_path / "run")
    assert torch.equal(read_centres(run.path / "head"), CENTRES)
    head = MarginHead(AdaFace(), SIZE, CLASSES, group="alone")
    head.load(run.path / "head", optimizer=False)
    assert (head.margin.batch_mean.item(), head.margin.batch_std.item()) == (23.5, 4.25)
    plain = {k: v for k, v in lightning().items() if not k.startswith(("head.t", "head.batch"))}
    _, arguments = recognise_file(plain, "x", "Recogniser")
    assert arguments["margin"] == {"class_path": "facex.heads.margins.ArcFace"}


def test_running_values_without_their_margin_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": lightning()}, tmp_path / "a.ckpt")
    command = ["convert", str(tmp_path / "a.ckpt"), str(tmp_path / "run"), "--options", '{"margin": "ArcFace"}']
    assert cli.main(command) == 2
    assert "running value batch_mean [1], ArcFace has no such value" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def rank_files(folder: Path, sizes: tuple[int, ...] = (4, 3), steps: tuple[int, ...] = (9, 9)) -> Path:
    """arcface_torch's checkpoint of two ranks, with what else lies in it."""
    folder.mkdir()
    for rank, shard in enumerate(CENTRES.split(sizes)):
        content = {
            "epoch": 1,
            "global_step": steps[rank],
            "state_dict_backbone": weights("mbf"),
            "state_dict_softmax_fc": {"weight": shard.clone()},
            "state_optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
            "state_lr_scheduler": {"base_lrs": [0.1], "last_epoch": 3},
        }
        torch.save(content, folder / f"checkpoint_gpu_{rank}.pt")
    return folder


@pytest.mark.parametrize("given", ["", "checkpoint_gpu_1.pt"])
def test_insightfaces_rank_files_are_read_on_any_number_of_ranks(given: str, tmp_path: Path) -> None:
    folder = rank_files(tmp_path / "work")
    command = ["convert", str(folder / given), str(tmp_path / "run"), "--num-classes", str(CLASSES)]
    assert cli.main(command) == 0
    run = load_run(tmp_path / "run")
    same(run.method.networks()["backbone"].state_dict(), weights("mbf"))
    rows = []
    for rank in range(3):
        ranks = Ranks("alone")
        ranks.rank, ranks.size = rank, 3  # as this rank of three would see it; loading communicates nothing
        head = MarginHead(ArcFace(), SIZE, CLASSES, group=ranks)
        head.load(run.path / "head", optimizer=False)
        rows.append(head.weight.detach().clone())
    assert [len(part) for part in rows] == [3, 2, 2]
    assert torch.equal(torch.cat(rows), CENTRES)


def test_rank_files_are_written_for_another_number_of_ranks(tmp_path: Path) -> None:
    assert cli.main(["convert", str(rank_files(tmp_path / "work")), str(tmp_path / "run")]) == 0
    command = ["convert", str(tmp_path / "run"), str(tmp_path / "out"), "--to", "insightface-checkpoint"]
    assert cli.main([*command, "--ranks", "3"]) == 0
    contents = [torch.load(tmp_path / "out" / f"checkpoint_gpu_{r}.pt", weights_only=True) for r in range(3)]
    assert [len(c["state_dict_softmax_fc"]["weight"]) for c in contents] == [3, 2, 2]
    same(contents[2]["state_dict_backbone"], weights("mbf"))
    assert cli.main(["convert", str(tmp_path / "out"), str(tmp_path / "again")]) == 0
    assert torch.equal(read_centres(load_run(tmp_path / "again").path / "head"), CENTRES)


def test_one_rank_file_initialises_a_backbone(tmp_path: Path) -> None:
    folder = rank_files(tmp_path / "work")
    method = Recogniser(ArcFace(), "mbf", SIZE)
    (report,) = load_sources(method, [Source(folder / "checkpoint_gpu_0.pt")])
    assert len(report.loaded) == 333


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (3, 4)}, r"checkpoint_gpu_0\.pt: holds 3 classes; of 7 on 2 ranks it should hold 4"),
        ({"steps": (9, 10)}, r"checkpoint_gpu_1\.pt: is of epoch and step \(1, 10\).*\(1, 9\)"),
    ],
)
def test_rank_files_that_do_not_belong_together(
    change: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = rank_files(tmp_path / "work", **change)
    assert cli.main(["convert", str(folder), str(tmp_path / "run")]) == 2
    capsys.readouterr()
    from facex.commands.rank_files import find_rank_files, read_rank_files

    found = find_rank_files(folder)
    assert found is not None
    with pytest.raises(CheckpointError, match=message):
        read_rank_files(found)


def test_missing_ranks_and_other_class_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = rank_files(tmp_path / "work")
    command = ["convert", str(folder), str(tmp_path / "run")]
    assert cli.main([*command, "--num-classes", "8"]) == 2
    assert "2 rank files hold 7 classes, not 8" in capsys.readouterr().err
    (folder / "checkpoint_gpu_0.pt").unlink()
    assert cli.main(command) == 2
    assert "files of some ranks are missing: checkpoint_gpu_0.pt" in capsys.readouterr().err
    torch.save({"state_dict_softmax_fc": {"weight": CENTRES, "other": CENTRES}}, folder / "checkpoint_gpu_0.pt")
    assert cli.main(command) == 2
    assert "it has state_dict_softmax_fc" in capsys.readouterr().err
    (folder / "checkpoint_gpu_0.pt").write_bytes(b"nothing")
    assert cli.main(command) == 2
    assert "not a checkpoint that can be read safely" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def cvlface(folder: Path, kind: str) -> Path:
    """CVLface's folder: 6 classes for 3 ranks padded to 7 + 2 = 9 rows, or a whole classifier."""
    folder.mkdir()
    torch.save(weights("ir_18", "net."), folder / "model.pt")
    rows = torch.cat([CENTRES, torch.zeros(2, SIZE)]).split(3) if kind == "partial_fc" else [CENTRES]
    for rank, shard in enumerate(rows):
        content = {f"{kind}.weight": shard.clone(), f"{kind}.batch_mean": torch.tensor([21.0])}
        torch.save({**content, f"{kind}.batch_std": torch.tensor([9.0])}, folder / f"classifier_rank{rank}.pt")
    return folder


@pytest.mark.parametrize(("kind", "layout"), [("partial_fc", "cvlface"), ("classifier", "cvlface-fc")])
def test_cvlfaces_folder(kind: str, layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cvlface(tmp_path / "work", kind)
    assert cli.main(["convert", str(folder), str(tmp_path / "run"), "--num-classes", str(CLASSES)]) == 0
    assert f"{layout} (" in capsys.readouterr().out
    run = load_run(tmp_path / "run")
    assert torch.equal(read_centres(run.path / "head"), CENTRES)
    assert run.method.head is not None
    assert (run.method.head.margin.form, run.method.input.color) == ("cvlface", "rgb")
    ranks = ["--ranks", "2"] if kind == "partial_fc" else ["--ranks", "1"]
    assert cli.main(["convert", str(tmp_path / "run"), str(tmp_path / "out"), "--to", layout, *ranks]) == 0
    same(torch.load(tmp_path / "out" / "model.pt", weights_only=True), weights("ir_18", "net."))
    parts = [torch.load(file, weights_only=True) for file in sorted((tmp_path / "out").glob("classifier_rank*.pt"))]
    assert torch.equal(torch.cat([part[f"{kind}.weight"] for part in parts]), CENTRES)
    assert all(part[f"{kind}.batch_mean"].item() == 21.0 for part in parts)
    assert cli.main(["convert", str(tmp_path / "run"), str(tmp_path / "bare.pt"), "--to", layout]) == 0
    same(torch.load(tmp_path / "bare.pt", weights_only=True), weights("ir_18", "net."))


def test_cvlfaces_padding_is_cut_only_within_the_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cvlface(tmp_path / "work", "partial_fc")
    assert cli.main(["convert", str(folder), str(tmp_path / "run"), "--num-classes", "6"]) == 2
    assert "3 rank files hold 9 classes, not 6" in capsys.readouterr().err
    (folder / "model.pt").unlink()
    assert cli.main(["convert", str(folder), str(tmp_path / "run")]) == 2
    assert "model.pt: no such file" in capsys.readouterr().err


def test_wrong_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(weights("mbf"), tmp_path / "m.pt")
    run = str(tmp_path / "run")
    assert cli.main(["convert", str(tmp_path / "m.pt"), run, "--num-classes", "3"]) == 2
    assert "holds 0 class centres, not 3" in capsys.readouterr().err
    assert cli.main(["convert", str(tmp_path / "m.pt"), run]) == 0
    capsys.readouterr()
    for arguments, message in [
        (["--to", "insightface", "--ranks", "2"], "insightface has one file"),
        (["--to", "insightface-checkpoint"], "there are none to write"),
        (["--to", "cvlface", "--ranks", "2"], "no class centres (partial_fc.weight)"),
        (["--to", "adaface"], "writes no layout 'adaface'"),
    ]:
        assert cli.main(["convert", run, str(tmp_path / "o"), *arguments]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "o").exists()


def test_another_architecture_is_named(tmp_path: Path) -> None:
    torch.save(weights("ir_18"), tmp_path / "m.pt")
    method = Recogniser(ArcFace(), "mbf", SIZE)
    looks = r"The file looks like ir_18 with an embedding of 8\."
    with pytest.raises(CheckpointError, match=rf"not a layout that Recogniser reads(?s:.*){looks}"):
        load_sources(method, [Source(tmp_path / "m.pt")])
    with pytest.raises(CheckpointError, match=rf"left over in the file: input_layer\.(?s:.*){looks}"):
        load_sources(Recogniser(ArcFace(), "mbf", SIZE), [Source(tmp_path / "m.pt", format="insightface")])
    with pytest.raises(CheckpointError, match=rf"the file has \(8,(?s:.*){looks}"):
        load_sources(Recogniser(ArcFace(), "ir_18", 16), [Source(tmp_path / "m.pt")])


def test_every_published_vit_is_recognised() -> None:
    for name in ("vit_t", "vit_s", "vit_b", "vit_l_dp005_mask_005", "vit_h"):
        with torch.device("meta"):
            state = create_backbone(name, embedding_size=256).state_dict()
        _, arguments = recognise_file(state, "x", "Recogniser")
        assert (arguments["backbone"], arguments["embedding_size"]) == (name, 256)


def test_a_converted_vit_embeds_like_the_network(tmp_path: Path) -> None:
    torch.save(weights("vit_t", depth=12), tmp_path / "m.pt")
    method = method_from_file(tmp_path / "m.pt")
    net = create_backbone("vit_t", embedding_size=SIZE).eval()
    net.load_state_dict(weights("vit_t"))
    x = torch.rand(1, 3, 112, 112)
    with torch.no_grad():
        assert torch.equal(method.embed(x, method.networks()).vector, net(x))
