"""MSML's method: losses, parts and their rates, freezing, warm starts, embedding and maps, pictures, what is refused."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from facex_msml.consensus_loss import ConsensusLoss
from facex_msml.fm import FMConfig
from facex_msml.margins import AMArcFace
from facex_msml.method import MSML
from facex_msml.network import build_teacher
from facex_msml.peer import PeerConfig

from facex.data.draws import Draws
from facex.errors import CheckpointError, ConfigError, DataError
from facex.heads.margins import Softmax
from facex.inference.embed import embed_images
from facex.methods import Batch, Field, Source
from facex.train.config import OptimizerConfig
from facex.train.method_state import load_method_state, method_state
from facex.train.optim import check_groups, resolve_groups

NET: dict[str, Any] = {"input_size": 32, "width": 0.125, "blocks": [1, 1, 1, 1], "osb_width": 0.125}
SIDE = 32


def make(margin: Any = None, **options: Any) -> MSML:
    torch.manual_seed(0)
    own = {"embedding_size": 16, "backbone_options": NET, **options}
    return MSML(margin or AMArcFace(), **own).train()


def make_batch(count: int = 6, occlusion: bool = True, original: bool = False) -> Batch:
    torch.manual_seed(3)
    image = torch.randint(0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8)
    fields, kinds = {"image": image, "label": torch.arange(count)}, {"image": Field("image"), "label": Field("label")}
    if occlusion:
        mask = torch.zeros(count, SIDE, SIDE, dtype=torch.uint8)
        mask[::2, 8:20, 4:30] = 255
        fields["occlusion"], kinds["occlusion"] = mask, Field("mask")
    if original:
        fields["original"], kinds["original"] = image.flip(0), Field("image")
    return Batch(fields, kinds, "rgb", torch.arange(count), torch.arange(count))


def context(method: MSML, count: int = 6) -> Any:
    draws = Draws(0, 0, torch.arange(count))
    nets: dict[str, Any] = {**method.networks(), **{k: v.module for k, v in method.frozen().items()}}
    return SimpleNamespace(
        step=0,
        nets=nets,
        uniform=draws.uniform,
        normal=draws.normal,
        mean=lambda v: v.mean(),
        all_reduce=lambda t, op="sum": t,
    )


def step(method: MSML, batch: Batch) -> Any:
    ctx = context(method, len(batch))
    updates = list(method.training_step(method.prepare(batch, ctx), ctx))
    assert len(updates) == 1
    return updates[0]


def test_one_loss_of_both_branches() -> None:
    method, twin = make(light=False), make(light=False)
    batch = make_batch()
    update = step(method, batch)
    x = (batch["image"].permute(0, 3, 1, 2).float() - 127.5) / 127.5
    out = twin.net(x)
    torch.testing.assert_close(update.embeddings, out["embedding"])
    expected = ConsensusLoss()(out["segmentation"], batch["occlusion"] == 0)
    torch.testing.assert_close(update.losses["segmentation"], expected)
    assert set(update.losses) == {"segmentation"}
    assert torch.equal(update.labels, batch["label"])
    true, found = batch["occlusion"] > 127, out["segmentation"][:, 0] > out["segmentation"][:, 1]
    assert float(update.logs["occlusion_iou"]) == pytest.approx(float((true & found).sum() / (true | found).sum()))
    heavier = step(make(light=False, segmentation_weight=2.5), batch)
    torch.testing.assert_close(heavier.losses["segmentation"], 2.5 * expected)


def test_the_recognition_loss_does_not_reach_the_segmentation_branch() -> None:
    method = make()
    step(method, make_batch()).embeddings.square().sum().backward()
    assert all(p.grad is None for p in method.net.osb.parameters())
    assert all(p.grad is not None for n, p in method.net.frb.named_parameters() if p.requires_grad)


def test_head() -> None:
    margin = make(sample_rate=0.5, head_options={"label_smoothing": 0.1}).head
    assert margin is not None
    assert (margin.embedding_size, margin.network, margin.init, margin.sample_rate) == (16, "msml", "xavier", 0.5)
    assert (margin.normalize, margin.bias, margin.options) == (True, False, {"label_smoothing": 0.1})
    plain = make(Softmax()).head
    assert plain is not None
    assert (plain.normalize, plain.bias) == (False, True)


def test_parts_have_rates_of_their_own() -> None:
    method = make(lr_scales={"osb": 0.1, "fm_ops": 10.0})
    groups = method.param_groups("msml")
    check_groups("msml", method.net, groups)
    assert {g.name: g.lr_scale for g in groups} == {"frb": 1.0, "fm_ops": 10.0, "osb": 0.1}
    fm = {id(p) for p in method.net.frb.fm_ops.parameters()}
    osb = {id(p) for p in method.net.osb.parameters()}
    members = {g.name: {id(p) for p in g.parameters} for g in groups}
    assert (members["fm_ops"], members["osb"]) == (fm, osb)
    everything: Any = OptimizerConfig()
    assert {g.weight_decay for g in resolve_groups(everything, groups)} == {5e-4}
    some: Any = OptimizerConfig(no_decay="bias_norm")
    flat = [p for g in resolve_groups(some, groups) if g.weight_decay == 0 for p in g.parameters]
    assert flat and all(p.ndim <= 1 for p in flat)


def test_osb_alone() -> None:
    method = make(parts="osb")
    assert method.head is None
    update = step(method, make_batch())
    assert (update.network, update.embeddings, set(update.losses)) == ("msml", None, {"segmentation"})
    update.losses["segmentation"].backward()
    assert all(p.grad is not None for p in method.net.osb.parameters())
    assert [g.name for g in method.param_groups("msml")] == ["osb"]
    check_groups("msml", method.net, method.param_groups("msml"))


def test_a_frozen_segmentation_branch_stays_as_it_is(tmp_path: Path) -> None:
    trained = make()
    torch.save(trained.net.state_dict(), tmp_path / "backbone.pth")
    method = make(parts="recognition", fm=FMConfig(resblocks=1))
    with pytest.raises(ConfigError, match="init_from brings none"):
        step(method, make_batch())
    report = method.init_from([Source(tmp_path / "backbone.pth", network="osb")])[0]
    assert len(report.loaded) == len(method.net.osb.state_dict())
    before = copy.deepcopy(method.net.osb.state_dict())
    update = step(method, make_batch(occlusion=False))
    assert update.losses == {}
    update.embeddings.sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in method.net.osb.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in trained.net.osb.state_dict().items())
    assert not method.net.osb.training and method.net.frb.training
    assert {g.name for g in method.param_groups("msml")} == {"frb", "fm_ops"}


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "frb."])
def test_warm_start_of_the_recognition_branch(prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(9)
    plain = build_teacher("iresnet18", 16, 32, 0.125, [1, 1, 1, 1])
    state = {prefix + k: v for k, v in plain.state_dict().items() if "num_batches" not in k}
    torch.save(state | {"fc2.weight": torch.zeros(3, 3)}, tmp_path / "plain.pth")
    method = make()
    operators = copy.deepcopy(method.net.frb.fm_ops.state_dict())
    report = method.init_from([Source(tmp_path / "plain.pth", network="frb")])[0]
    assert len(report.loaded) == len(state)
    own = method.net.frb.state_dict()
    assert all(torch.equal(own[k.removeprefix(prefix)], v) for k, v in state.items())
    assert all(torch.equal(v, operators[k]) for k, v in method.net.frb.fm_ops.state_dict().items())
    del state[f"{prefix}fc.bias"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match=r"missing in the file: fc\.bias"):
        method.init_from([Source(tmp_path / "short.pth", network="frb")])
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="holds no frb"):
        method.init_from([Source(tmp_path / "other.pth", network="frb")])
    with pytest.raises(ConfigError, match="has no peer"):
        method.init_from([Source(tmp_path / "plain.pth", network="peer")])


def test_a_warning_where_a_warm_start_is_missing(tmp_path: Path) -> None:
    method = make(warm_start=True)
    with pytest.warns(UserWarning, match="suppose a trained recognition branch"):
        step(method, make_batch())
    step(method, make_batch())  # once
    torch.save(method.net.state_dict(), tmp_path / "backbone.pth")
    warm = make(warm_start=True)
    warm.init_from([Source(tmp_path / "backbone.pth", network="frb")])
    step(warm, make_batch())


def test_peer(tmp_path: Path) -> None:
    method = make(peer=PeerConfig(kd_weight=0.5, use_decoder=True, decoder_weight=2.0), light=False)
    teacher = method.frozen()["peer"]
    assert (teacher.mode, teacher.saved) == ("eval", True)
    teacher.module.eval()
    with pytest.raises(DataError, match="KeepOriginal before Occlude"):
        step(method, make_batch())
    with pytest.raises(ConfigError, match=r"random weights: --init_from"):
        step(method, make_batch(original=True))
    plain = build_teacher("iresnet18", 16, 32, 0.125, [1, 1, 1, 1])
    torch.save(plain.state_dict(), tmp_path / "arcface.pth")
    method.init_from([Source(tmp_path / "arcface.pth", network="peer")])
    twin = copy.deepcopy(method)
    batch = make_batch(original=True)
    update = step(method, batch)
    x, clean = ((batch[k].permute(0, 3, 1, 2).float() - 127.5) / 127.5 for k in ("image", "original"))
    with torch.no_grad():
        out = twin.net(x, plain.eval()(clean).stages, clean)
    torch.testing.assert_close(update.losses["kd"], 0.5 * out["kd"].mean())
    torch.testing.assert_close(update.losses["reconstruction"], 2 * out["reconstruction"].mean())
    update.losses["kd"].backward()
    assert method.net.frb.fm_ops[0].conv2[0].weight.grad.abs().sum() > 0
    silent = make(peer=PeerConfig(kd_weight=0.0))
    assert set(step(silent, make_batch()).losses) == {"segmentation"}


def test_a_run_that_goes_on_has_its_parts_from_the_checkpoint(tmp_path: Path) -> None:
    """Neither the branch, nor the peer, nor a warm start is asked for again after the first applied step."""
    plain = build_teacher("iresnet18", 16, 32, 0.125, [1, 1, 1, 1])
    torch.save(plain.state_dict(), tmp_path / "arcface.pth")
    options: dict[str, Any] = {"peer": PeerConfig(), "warm_start": True, "parts": "recognition"}
    first, again = make(**options), make(**options)
    first.init_from([Source(tmp_path / "arcface.pth", network="peer")])
    load_method_state(again, method_state(first), "checkpoint")
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in again.frozen()["peer"].module.state_dict().items())
    batch = make_batch(original=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ctx = context(again)
        ctx.step = 3
        again.prepare(batch, ctx)
    bare = make(**options)
    ctx.step = 3
    with pytest.raises(ConfigError, match="the peer has random weights"):
        bare.prepare(batch, ctx)  # the checkpoint held none


def test_parts_of_a_file_with_a_peer_are_told_apart(tmp_path: Path) -> None:
    """The peer has the names of the recognition branch, in an official file and in a run's."""
    method = make(peer=PeerConfig())
    net, peer = method.net.state_dict(), method.frozen()["peer"].module.state_dict()
    marked = {k: torch.full_like(v, 2) for k, v in peer.items()}
    for own, theirs in (("", "frb.peer."), ("networks.msml.", "frozen.peer.")):
        torch.save(
            {own + k: v for k, v in net.items()} | {theirs + k: v for k, v in marked.items()}, tmp_path / "x.pth"
        )
        other = make(peer=PeerConfig())
        before = {k: v.clone() for k, v in net.items()}
        other.init_from([Source(tmp_path / "x.pth", network=name) for name in ("frb", "peer")])
        found = other.frozen()["peer"].module.state_dict()
        assert all(torch.equal(found[k], v) for k, v in marked.items())
        assert all(torch.equal(v, before[k]) for k, v in other.net.state_dict().items() if k.startswith("frb."))


def test_a_whole_official_file_brings_its_peer(tmp_path: Path) -> None:
    """What a recipe of `msml-recipe --resume` reads."""
    source, method = make(peer=PeerConfig()), make(peer=PeerConfig())
    peer = {k: torch.full_like(v, 2) for k, v in source.frozen()["peer"].module.state_dict().items()}
    file = {**source.net.state_dict(), **{f"frb.peer.{k}": v for k, v in peer.items()}}
    torch.save(file, tmp_path / "backbone.pth")
    method.init_from([Source(tmp_path / "backbone.pth")])
    assert all(torch.equal(v, peer[k]) for k, v in method.frozen()["peer"].module.state_dict().items())
    method.prepare(make_batch(original=True), context(method))


def test_without_the_segmentation_branch_it_is_the_backbone_alone() -> None:
    method = make(use_osb=False, fm_layers=[0, 0, 0, 0])
    update = step(method, make_batch(occlusion=False))
    assert (update.losses, update.logs) == ({}, {})
    assert [g.name for g in method.param_groups("msml")] == ["frb"]
    found = method.eval().embed(torch.rand(2, 3, SIDE, SIDE), method.networks())
    assert found.maps == {}
    assert method.visuals(make_batch(), context(method)).images == {}


def test_embedding_adds_both_views_and_shows_the_occlusion_of_one() -> None:
    method = make().eval()
    x = torch.rand(3, 3, SIDE, SIDE)
    with torch.no_grad():
        first, second = method.net(x), method.net(x.flip(3))
        plain, fused = method.embed(x, method.networks()), method.embed(x, method.networks(), flip=True)
    torch.testing.assert_close(plain.vector, first["embedding"])
    torch.testing.assert_close(fused.vector, first["embedding"] + second["embedding"])
    assert plain.quality is None
    for found in (plain, fused):
        assert torch.equal(found.maps["occlusion"] == 255, first["segmentation"].argmax(1) == 0)
    explained = method.explain(x, method.networks())
    assert {k for k in explained if k.startswith("16_")} == {"16_mul/features", "16_mul/mask", "16_mul/purified"}
    torch.testing.assert_close(explained["16_mul/purified"], explained["16_mul/features"] * explained["16_mul/mask"])
    vectors, masks = method.inference_module(masks=True)(x)
    torch.testing.assert_close(vectors, first["embedding"])
    torch.testing.assert_close(masks, first["segmentation"].softmax(1)[:, 0])
    with pytest.raises(ConfigError, match="inference option masks"):
        method.inference_module(quality=True)


def test_grey_network_reads_colour_pictures() -> None:
    options = {"input_size": 32, "width": 0.125, "osb_width": 0.125}
    method = make(Softmax(), backbone="lightcnn", backbone_options=options)
    assert (method.input.height, method.input.std) == (32, (255, 255, 255))
    batch = make_batch()
    assert step(method, batch).embeddings.shape == (6, 16)
    grey = batch["image"][..., 1:2].expand(-1, -1, -1, 3).numpy()
    vectors = embed_images(method, None, grey, "rgb").vector
    with torch.no_grad():
        direct = method.eval().net(torch.from_numpy(grey[..., 0].copy()).float()[:, None] / 255)["embedding"]
    torch.testing.assert_close(vectors, direct, atol=2e-5, rtol=1e-4)


def test_pictures_of_the_last_step() -> None:
    method = make(light=False)
    batch = make_batch()
    ctx = context(method)
    prepared = method.prepare(batch, ctx)
    list(method.training_step(prepared, ctx))
    shown = method.visuals(prepared, ctx).images["occlusion"]
    assert (shown.dtype, tuple(shown.shape)) == (torch.uint8, (6, SIDE, 3 * SIDE, 3))
    assert torch.equal(shown[:, :, :SIDE], batch["image"])
    tinted = (batch["image"].float() + torch.tensor([255, 196, 0])) / 2
    occluded = batch["occlusion"] > 0
    assert torch.equal(shown[:, :, SIDE : 2 * SIDE][occluded], tinted.round().to(torch.uint8)[occluded])
    assert torch.equal(shown[:, :, SIDE : 2 * SIDE][~occluded], batch["image"][~occluded])


def test_needs() -> None:
    assert make().needs == {"image", "label"}
    assert make(data_masks=True).needs == {"image", "label", "occlusion"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fm_layers": [1, 1, 0, 1], "peer": PeerConfig()}, "compares all four stages"),
        ({"use_osb": False}, "needs the segmentation branch"),
        ({"fm_layers": [1, 1]}, "four values"),
        ({"parts": "osb", "use_osb": False, "fm_layers": [0] * 4}, "set use_osb to true"),
        ({"parts": "fm"}, "parts is all, osb or recognition"),
        ({"lr_scales": {"classification": 10.0}}, r"head\.lr_scale"),
        ({"lr_scales": {"gcm": 10.0}}, "not 'gcm'"),
        ({"lr_scales": {"osb": -1.0}}, "must not be negative"),
        ({"segmentation_weight": -1.0}, "must not be negative"),
        ({"statistics": "rank"}, "local or global"),
        ({"backbone": "iresnet20"}, "iresnet18, iresnet34, iresnet50, lightcnn"),
        ({"backbone_options": {"depth": 3}}, "backbone_options"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make(**options)


def test_masks_that_are_missing() -> None:
    with pytest.raises(DataError, match=r"put a transform that occludes into data\.transforms"):
        step(make(), make_batch(occlusion=False))
