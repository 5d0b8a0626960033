"""JHMFR's method: margins, groups, flags in training and at inference, hand-over, official files, what it refuses."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from facex_jhmfr import JHMFR, JHMFRPretrain
from facex_jhmfr.groups import layer_scales

from facex.errors import CheckpointError, ConfigError, DataError
from facex.heads.margins import ArcFace, CurricularFace, MagFace
from facex.methods import Source
from facex.methods.loading import load_sources, method_from_file
from facex.train.config import HeadConfig, OptimizerConfig
from facex.train.head import TrainedHead
from facex.train.launch import Ranks
from plugins.jhmfr.tests.tiny_jhmfr import SHAPE, batch, context, pretrained, tuned

THIN = {"width": 0.125, "blocks": [1, 1, 1, 1]}


def test_published_constants() -> None:
    arc, curricular, mag = (tuned(margin=name).head.margin for name in ("arcface", "curricularface", "magface"))
    assert isinstance(arc, ArcFace) and (arc.scale, arc.m, arc.margin_grad, arc.past_pi) == (64, 0.5, "exact", "sine")
    assert isinstance(curricular, CurricularFace) and (curricular.m, curricular.momentum) == (0.5, 0.01)
    assert isinstance(mag, MagFace) and (mag.l_a, mag.u_a, mag.l_margin, mag.u_margin, mag.lambda_g) == (
        10,
        110,
        0.45,
        0.8,
        35,
    )
    assert (mag.easy_margin, mag.hard_fallback, mag.shift) == (False, "shift", 0)
    head = tuned().head
    assert (head.sample_rate, head.init, head.options["sparse_update"]) == (0.1, "normal", True)
    assert head.options["loss_cap"] == pytest.approx(69.0776, abs=1e-4)


def test_official_behaviours_are_options() -> None:
    plain = tuned(margin="curricularface").head
    assert (plain.options["foreign_label"], plain.options["official_regulariser"]) == ("ignore", False)
    assert (plain.options["bias_correction"], plain.margin.statistics) == ("step", "global")
    official = {"foreign_label": "official", "official_regulariser": True, "bias_correction": "first"}
    head = tuned(margin="curricularface", **official).head
    assert {k: head.options[k] for k in official} == official
    assert head.margin.statistics == "rank"
    assert tuned(margin="arcface", **official).head.options["foreign_label"] == "ignore"
    with pytest.raises(ConfigError, match="margin_options of arcface"):
        tuned(margin_options={"l_a": 3})


def test_foreign_labels_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    method = tuned(margin="magface", foreign_label="official")
    with caplog.at_level(logging.WARNING, "facex"):
        for _ in range(2):
            next(method.training_step(batch(), context(method, world_size=2)))
    assert [r.message for r in caplog.records if "foreign_label official" in r.message] == [caplog.records[-1].message]
    assert "on each of the 2 ranks magface" in caplog.records[-1].message


def test_groups_by_layer_and_decay() -> None:
    method = tuned(layer_decay=0.5)
    groups = method.param_groups("backbone")
    assert [(g.name, g.lr_scale, g.weight_decay) for g in groups[:3]] == [
        ("layer 0 (no decay)", 0.125, 0.0),
        ("layer 3", 1.0, None),
        ("layer 0", 0.125, None),
    ]
    names = {id(p): n for n, p in method.backbone.named_parameters()}
    assert [names[id(p)] for p in groups[0].parameters] == ["pos_embed", "patch_embed.to_token.bias"]
    assert [names[id(p)] for p in groups[1].parameters][:2] == ["prompts", "prompts_pool.tokens"]
    assert len(groups) == 8
    assert len(tuned().param_groups("backbone")) == 2
    assert len(tuned(filter_decay=False).param_groups("backbone")) == 1
    assert layer_scales(0.75, 12)[0] == pytest.approx(0.75**13)


def test_scheduled_weight_decay() -> None:
    method = tuned(weight_decay_range=(0.05, 0.2))
    groups = method.param_groups("backbone")
    assert {g.weight_decay_schedule for g in groups} == {None, "weight_decay"}
    assert all((g.weight_decay_schedule is None) == (g.weight_decay == 0) for g in groups)
    assert [method.schedules()["weight_decay"].value(k, 10) for k in (0, 5, 10)] == pytest.approx([0.05, 0.125, 0.2])
    assert tuned().schedules() == {} and tuned().head.weight_decay_schedule is None


def test_the_class_centres_follow_the_scheduled_decay() -> None:
    ranks = Ranks(0, 1, 0, torch.device("cpu"))
    optimizer = OptimizerConfig("sgd", lr=0.1, momentum=0.0, weight_decay=0.3)
    for config, decay in ((HeadConfig(), 0.05), (HeadConfig(weight_decay=0.2), 0.2)):
        spec = tuned(weight_decay_range=(0.05, 0.2), sample_rate=1.0).head
        head = TrainedHead(spec, config, optimizer, 4, ranks, 0)
        before = head.module.weight.detach().clone()
        head.module(torch.zeros(2, 8, requires_grad=True), torch.tensor([0, 1])).loss.backward()
        head.step(0.1, 1.0, 1.0, lambda name: {"weight_decay": 0.05}[name])
        torch.testing.assert_close(head.module.weight.detach(), before * (1 - 0.1 * decay))


def test_a_step_uses_each_pictures_flag() -> None:
    method = tuned({"drop_path_rate": 0.3}).eval()
    update = next(method.training_step(batch(), context(method)))
    flags = batch()["flag"].long()
    torch.testing.assert_close(update.embeddings, method.backbone(batch()["image"], flags))
    assert torch.equal(update.labels, batch()["label"]) and update.losses == {}
    holistic = next(tuned(flags="holistic").eval().training_step(batch(), context(method)))
    torch.testing.assert_close(holistic.embeddings, method.backbone(batch()["image"]))
    with pytest.raises(ConfigError, match="bring no field `flag`"):
        next(method.training_step(batch(flags=False), context(method)))
    assert tuned(flags="companion").needs == {"image", "label", "flag"}
    assert method.needs == {"image", "label"}


@pytest.mark.parametrize("value", [2.0, -1.0, 0.5])
def test_a_flag_that_is_none_is_refused(value: float) -> None:
    method = tuned().eval()
    flags = torch.tensor([0.0, 1.0, value, 0.0])
    with pytest.raises(DataError, match=r"outside 0\.\.1"):
        next(method.training_step(batch().with_fields(flag=flags), context(method)))
    with pytest.raises(DataError, match=r"outside 0\.\.1"):
        method.embed(batch()["image"], method.networks(), {"flag": flags})


def test_stochastic_depth_follows_a_pictures_place() -> None:
    method = tuned({"drop_path_rate": 0.6, "class_head": False}).train()
    update = next(method.training_step(batch(), context(method)))
    again = next(method.training_step(batch(), context(method)))
    torch.testing.assert_close(update.embeddings, again.embeddings, rtol=0, atol=0)
    draws = context(method).uniform("drop_path", 2).T
    torch.testing.assert_close(update.embeddings, method.backbone(batch()["image"], batch()["flag"], draws))


def test_flags_at_inference() -> None:
    x, nets = batch()["image"], tuned().eval().networks()
    side = {"flag": torch.tensor([0, 1, 1, 0])}
    seen = {rule: tuned(inference_flag=rule).eval() for rule in ("given", "holistic", "masked", "both")}
    found = {rule: method.embed(x, method.networks(), side) for rule, method in seen.items()}
    holistic, masked = nets["backbone"](x), nets["backbone"](x, torch.ones(4))
    torch.testing.assert_close(found["holistic"].vector, holistic)
    torch.testing.assert_close(found["masked"].vector, masked)
    torch.testing.assert_close(found["given"].vector, nets["backbone"](x, side["flag"]))
    given = seen["given"]
    torch.testing.assert_close(given.embed(x, given.networks()).vector, holistic)
    both = torch.nn.functional.normalize(found["both"].vector)
    cosine = torch.nn.functional.cosine_similarity
    mean = (cosine(holistic[0], holistic[1], 0) + cosine(masked[0], masked[1], 0)) / 2
    torch.testing.assert_close(both[0] @ both[1], mean, rtol=1e-4, atol=1e-5)


def test_the_mirrored_view_is_added() -> None:
    method = tuned().eval()
    x, nets = batch()["image"], method.networks()
    found = method.embed(x, nets, flip=True)
    torch.testing.assert_close(found.vector, nets["backbone"](x) + nets["backbone"](x.flip(3)))


def test_the_flag_can_be_baked_in() -> None:
    method = tuned().eval()
    x = batch()["image"]
    torch.testing.assert_close(method.inference_module(flag=1)(x), method.backbone(x, torch.ones(4)))
    assert method.inference_module() is method.backbone
    with pytest.raises(ConfigError, match="no inference options"):
        method.inference_module(view=1)


def test_the_baseline_ignores_flags_and_has_no_layers() -> None:
    options = THIN | {"input_size": 32}
    method = JHMFR(backbone="r18", embedding_size=8, backbone_options=options, freeze_degenerate=True)
    update = next(method.training_step(batch(flags=False), context(method)))
    assert update.embeddings.shape == (4, 8)
    assert not method.backbone.fc.bias.requires_grad
    with pytest.raises(ConfigError, match="no layers to decay over"):
        JHMFR(backbone="r18", backbone_options=THIN, layer_decay=0.75)


# -- files ------------------------------------------------------------------------------------------------------------
def official(method: object, path: Path, prefix: str = "") -> Path:
    (network,) = method.networks().values()  # type: ignore[attr-defined]
    torch.save({"model": {prefix + k: v for k, v in network.state_dict().items()}}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_files_load_strictly_and_go_back(tmp_path: Path, prefix: str) -> None:
    for made, name in ((tuned(), "jhmfr"), (pretrained(), "jhmfr-mae")):
        path = official(made, tmp_path / f"{name}.pth", prefix)
        heads = {} if name == "jhmfr" else {"backbone_options": SHAPE, "decoder_heads": 2}  # no file tells them
        found = method_from_file(path, arguments=heads)
        assert type(found) is type(made)
        (network, module), (_, theirs) = next(iter(found.networks().items())), next(iter(made.networks().items()))
        assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in module.state_dict().items())
        written = found.formats()[0].write({"networks": {network: module.state_dict()}})
        assert found.formats()[0].container == "model"
        assert list(written) == list(theirs.state_dict())


def test_shapes_are_recognised() -> None:
    found = JHMFR.recognise(
        tuned({"embed_dim": 128, "depth": 3, "num_heads": 2, "mlp_ratio": 3.0}).backbone.state_dict()
    )
    assert found == {
        "backbone": "facet_base",
        "embedding_size": 8,
        "backbone_options": {
            **{"embed_dim": 128, "depth": 3, "num_heads": 2, "mlp_ratio": 3.0, "patch_size": 8, "prompt_layers": 2},
            **{"conditions": 2, "prompt_tokens": 3, "allow_unused_prompts": False},
        },
        "input": {"height": 32, "width": 32},
    }
    mae = JHMFRPretrain.recognise(pretrained().mae.state_dict())
    assert mae is not None and (mae["decoder_dim"], mae["decoder_depth"], mae["decoder_mlp_ratio"]) == (16, 1, 3.0)
    assert JHMFR.recognise(pretrained().mae.state_dict()) is None
    assert JHMFRPretrain.recognise(tuned().backbone.state_dict()) is None


def test_the_baselines_file_loads(tmp_path: Path) -> None:
    options = {"backbone": "r18", "embedding_size": 8, "backbone_options": THIN}
    made, other = JHMFR(**options), JHMFR(**options)
    (report,) = other.init_from([Source(official(made, tmp_path / "ir.pth"))])
    assert not report.missing and not report.unexpected
    assert torch.equal(made.backbone.fc.weight, other.backbone.fc.weight)


def test_an_autoencoder_starts_a_network_and_leaves_its_prompts(tmp_path: Path) -> None:
    made, method = pretrained(), tuned()
    prompts = method.backbone.prompts.clone()
    (report,) = method.init_from([Source(official(made, tmp_path / "checkpoint-last.pth"))])
    assert "encoder of a masked autoencoder" in str(report)
    assert sorted(report.missing) == [
        f"backbone.{n}" for n in ("prompts", "prompts_pool.fc.bias", "prompts_pool.fc.weight", "prompts_pool.tokens")
    ]
    assert torch.equal(method.backbone.prompts, prompts)
    for name, value in made.mae.encoder.state_dict().items():
        assert torch.equal(method.backbone.state_dict()[name], value), name


def test_the_wrong_kind_of_file_stops_with_the_list(tmp_path: Path) -> None:
    narrow = official(pretrained({"embed_dim": 16}), tmp_path / "narrow.pth")
    with pytest.raises(
        CheckpointError, match=r"(?s)names fit FaceT \(\d+%\): the wrong kind of file.*patch_embed.* \(16, 192\)"
    ):
        tuned().init_from([Source(narrow)])
    cnn = official(JHMFR(backbone="r18", embedding_size=8, backbone_options=THIN), tmp_path / "cnn.pth")
    for strict in (True, False):
        with pytest.raises(
            CheckpointError, match=r"(?s)\(0%\).*missing in the file: pos_embed, .*left over in the file: conv1"
        ):
            tuned().init_from([Source(cnn, strict=strict)])
    with pytest.raises(CheckpointError, match="no such file"):
        tuned().init_from([Source(tmp_path / "none.pth")])


def test_a_strict_start_names_a_few_misfits_and_a_loose_one_reports_them(tmp_path: Path) -> None:
    deep = {"depth": 6}
    path = official(pretrained(deep, embedding_size=6), tmp_path / "mae.pth")
    with pytest.raises(CheckpointError, match="class_head"):
        tuned(deep).init_from([Source(path)])
    (report,) = tuned(deep).init_from([Source(path, strict=False)])
    assert "backbone.class_head.0.weight" in report.missing


def test_a_fine_tuned_network_is_no_autoencoder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a layout that JHMFRPretrain reads"):
        load_sources(pretrained(), [Source(official(tuned(), tmp_path / "tuned.pth"))])
