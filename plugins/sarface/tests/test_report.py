"""`facex sarface-report` and `facex eval` with both inputs on an untrained network: masks, random ones, ablations, the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from facex_sarface import report_command
from facex_sarface.inference import EvalView
from facex_sarface.mask_trials import FULL, MASKED, TrialOptions, ablations, random_actions, try_masks
from facex_sarface.masking import RegionRecogniser
from facex_sarface.method import SARFace
from facex_sarface.regions import SCHEMES
from facex_sarface.training_page import reward_histograms, training_section
from torch import Tensor

from facex.commands import eval as eval_command
from facex.commands import synth
from facex.commands.convert import write_run
from facex.data.draws import Draws
from facex.data.verification import load_bin
from facex.errors import ConfigError
from facex.eval.run import evaluate_set
from facex.eval.verification import evaluate_pairs
from facex.inference.embed import embed_batch, plain_nets
from facex.methods import Embedding
from facex.train.load_run import load_run
from plugins.sarface.tests.tiny_sarface import NETWORK

PARSER = {"size": 64, "options": {"widths": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}}
ARGUMENTS: dict[str, Any] = {
    **NETWORK,
    "margin": {"class_path": "CosFace", "init_args": {"s": 16, "m": 0.2}},
    "parsing": "parser",
    "parser": PARSER,
}
TINY = "plugins.sarface.tests.tiny_sarface.TinySARFace"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 rendered pairs, and a run of a network with random weights whose parser finds many classes."""
    from facex.methods.loading import build_method

    root = tmp_path_factory.mktemp("report")
    words = ["--split", "val", "--pairs", "20", "--val-identities", "20", "--size", "48", "--workers", "1"]
    assert synth.main([str(root), *words]) == 0
    torch.manual_seed(0)
    method = build_method(TINY, ARGUMENTS)
    for module in method.parser.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.2)
    torch.nn.init.normal_(method.policy.fc.weight)
    write_run(root / "net", method, TINY, ARGUMENTS, None, "t")
    lines = [{"step": s, "policy/reward": 0.1 * s, "policy/area": 9.0, "policy/keep/neck": 0.5} for s in range(3)]
    (root / "net" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


@pytest.fixture(scope="module")
def method(folder: Path) -> SARFace:
    found = load_run(folder / "net").method
    assert isinstance(found, SARFace)
    return found


class Given(EvalView):
    """Embeds under one mask for all."""

    def __init__(self, method: SARFace, keep: Tensor) -> None:
        super().__init__(method)
        self.keep = keep

    def embed(self, images: Tensor, nets: Any, side: Any = None, flip: bool = False) -> Embedding:
        keep = self.keep.expand(len(images), -1)
        return RegionRecogniser.embed(self.method, self.cut(images, nets, keep), nets, None, flip)

    def cut(self, images: Tensor, nets: Any, keep: Tensor) -> Tensor:
        kept = keep.gather(1, self.method.regions(images, nets).long().flatten(1)).view(len(images), 1, 48, 48)
        return images * kept


def test_masks_are_those_of_the_method(folder: Path, method: SARFace) -> None:
    one, nets = load_bin(folder / "val.bin"), plain_nets(method)
    found = try_masks(method, nets, one, CPU, TrialOptions(batch_size=14, draws=2))
    for mask, viewed in ((FULL, method), (MASKED, EvalView(method))):
        expected = evaluate_set(viewed, nets, one).pairs.scores
        np.testing.assert_allclose(found.results[mask].scores, expected, atol=1e-6)
    assert np.abs(found.results[FULL].scores - found.results[MASKED].scores).max() > 1e-3
    removed = ablations(method.scheme)
    assert list(removed)[:2] == ["neck", "cloth"] and removed["skin (all)"] == [18, 19, 20, 21] and len(removed) == 15
    for name in ("skin (all)", "cloth"):
        keep = torch.ones(1, 24)
        keep[:, removed[name]] = 0
        expected = evaluate_set(Given(method, keep), nets, one).pairs.scores
        np.testing.assert_allclose(found.results[f"without {name}"].scores, expected, atol=1e-6)
    shares = [found.area[name] for name in found.draws]
    assert found.area[FULL] == pytest.approx(1) and 0.05 < found.area[MASKED] < 0.95
    assert shares == pytest.approx([found.area[MASKED]] * 2, abs=0.05) and shares[0] != shares[1]
    assert found.random().value == pytest.approx(np.mean([found.results[n].accuracy for n in found.draws]))


def test_keep_rates_and_what_was_kept(folder: Path, method: SARFace) -> None:
    one, nets = load_bin(folder / "val.bin"), plain_nets(method)
    found = try_masks(method, nets, one, CPU, TrialOptions(draws=1, ablate=False, shown=3))
    images = method.input.to_tensor(torch.from_numpy(one.decode("bgr")), "bgr")
    with torch.no_grad():
        regions = method.regions(images, nets)
        keep = method.decide(images, regions, nets)
    for k in (14, 18, 23):
        shows = (regions == k).flatten(1).any(1)
        kept, shown = found.keep_rate[method.scheme.names[k]]
        assert shown == pytest.approx(float(shows.float().mean()))
        assert kept == pytest.approx(float(keep[shows, k].mean()) if shows.any() else 0)
    assert len(found.overlays) == 3 and found.overlays[0].shape == (48, 144, 3)
    vectors = embed_batch(EvalView(method), nets, one.decode("bgr"), "bgr", CPU, flip=True).vector.numpy()
    assert found.results[MASKED].accuracy == evaluate_pairs(vectors, one.issame).accuracy
    assert not any(name.startswith("without") for name in found.results)


def test_random_masks_of_the_same_area() -> None:
    generator = torch.Generator().manual_seed(0)
    areas = torch.randint(0, 400, (300, 12), generator=generator).float()
    areas[:, 3] = 0
    wanted = areas.sum(1) * torch.rand(300, generator=generator)
    draws = Draws(5, 0, torch.arange(300))
    actions = random_actions(areas, wanted, draws)
    gone = ((1 - actions) * areas).sum(1)
    assert (actions[:, 3] == 1).all()  # what is not there is not removed
    assert float((gone - wanted).abs().mean()) < 60 and float((gone - wanted).abs().max()) <= 200
    rates = actions[:, [k for k in range(12) if k != 3]].mean(0)
    assert float(rates.max() - rates.min()) < 0.2  # no region is preferred
    half = random_actions(areas[150:], wanted[150:], Draws(5, 0, torch.arange(150, 300)))
    assert torch.equal(half, actions[150:])
    assert not torch.equal(random_actions(areas, wanted, Draws(6, 0, torch.arange(300))), actions)
    assert (random_actions(areas, torch.zeros(300), draws) == 1).all()
    everything = random_actions(areas, areas.sum(1), draws)
    assert (((1 - everything) * areas).sum(1) == areas.sum(1)).all()


def test_schemes_without_parts_have_plain_ablations() -> None:
    assert set(ablations(SCHEMES["raw19"])) == {"background", "skin", "hair", "neck", "cloth"}


def report(folder: Path, *more: str) -> tuple[dict[str, Any], str]:
    words = ["--checkpoint", str(folder / "net"), "--bin", str(folder / "val.bin"), "--device", "cpu", "--draws", "2"]
    assert report_command.main([*words, "--report", str(folder / "out"), *more]) == 0
    return json.loads((folder / "out" / "results.json").read_text()), (folder / "out" / "index.html").read_text()


def test_the_page_and_its_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers, page = report(folder)
    assert "random masks of the same area" in capsys.readouterr().out
    masks = numbers["masks"]["val"]
    assert [row["network"] for row in numbers["rows"]] == ["full", "masked", "random_masks"]
    assert numbers["rows"][1]["accuracy"] == masks["masked"]["accuracy"]
    assert masks["masked - full"] == pytest.approx(masks["masked"]["accuracy"] - masks["full"]["accuracy"])
    assert masks["random masks"]["accuracy"] == pytest.approx(np.mean(masks["random masks"]["draws"]))
    assert len(masks["without"]) == 15 and len(masks["keep_rate"]) == 12
    assert page.count("val, picture ") == 2 * 8 and "The policy in training" in page and "without skin (all)" in page
    again, bare = report(folder, "--no-pictures", "--no-ablation")
    assert again["masks"]["val"]["random masks"] == masks["random masks"] and again["masks"]["val"]["without"] == {}
    assert "val, picture " not in bare and "Hardest" not in bare


def test_photos_are_not_shown_unless_asked_for(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photos.bin").write_bytes((folder / "val.bin").read_bytes())
    for more, shown in (([], False), (["--pictures"], True)):
        _, page = report(folder, "--bin", str(tmp_path / "photos.bin"), "--no-ablation", *more)
        assert ("photos, picture " in page) == shown


def test_what_is_refused(folder: Path) -> None:
    for words, message in (
        (["--draws", "0"], "at least 1"),
        (["--pictures", "--no-pictures"], "exclude each other"),
    ):
        with pytest.raises(ConfigError, match=message):
            report(folder, *words)


def test_both_inputs_through_the_command_line(
    folder: Path, method: SARFace, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--checkpoint", str(folder / "net"), "--bin", str(folder / "val.bin"), "--device", "cpu"]
    out = folder / "numbers.json"
    assert eval_command.main([*words, "--options", '{"eval_input": "both"}', "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "trained masked" in text
    found = json.loads(out.read_text())["val"]
    one, nets = load_bin(folder / "val.bin"), plain_nets(method)
    for numbers, viewed in ((found, method), (found["compared"]["trained masked"], EvalView(method))):
        expected = evaluate_set(viewed, nets, one).pairs
        assert numbers["accuracy"] == expected.accuracy and numbers["auc"] == pytest.approx(expected.auc)


def test_rewards_come_from_tensorboard_files(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    assert reward_histograms(tmp_path / "nothing") == {} and training_section(tmp_path) == []
    values = {5: torch.full((40,), -0.5), 10: torch.linspace(0, 1, 60), 20: torch.linspace(0.2, 1, 30)}
    with SummaryWriter(str(tmp_path / "tensorboard")) as writer:
        for step, rewards in values.items():
            writer.add_histogram("reward", rewards, step)
    found = reward_histograms(tmp_path / "tensorboard")
    assert list(found) == [5, 20]
    for step, (edges, counts) in found.items():
        assert counts.sum() == len(values[step]) and (edges[0], edges[-1]) == pytest.approx((-0.5, 1), abs=1e-6)
    assert found[5][1][0] == 40 and found[20][1][:14].sum() == 0  # nothing below 0.2
    (section,) = training_section(tmp_path)
    assert "histogram of rewards" in section
