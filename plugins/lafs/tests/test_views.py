"""Views of pre-training: crops and their two versions, landmarks with noise and shuffle, positions; the multi-crop wrapper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from facex_lafs.dino import MultiCrop, Teacher, split_decay, teacher_temperature
from facex_lafs.landmark_views import LandmarkNetwork, draw_index
from facex_lafs.networks import FViT
from facex_lafs.probe import CollapseWatch, leave_one_out
from facex_lafs.view_maker import LandmarkOptions, ViewMaker, ViewOptions
from facex_lafs.views import CropSettings, to_network
from torch import nn

from facex.data.draws import Draws
from facex.errors import TrainingError
from facex.methods import InputSpec
from facex.ops import sample_patches

INPUT = InputSpec(32, 32)


def pictures(count: int) -> torch.Tensor:
    torch.manual_seed(0)
    small = torch.rand(count, 3, 6, 6) * 255
    grown = nn.functional.interpolate(small, (32, 32), mode="bicubic").clamp(0, 255)
    return grown.permute(0, 2, 3, 1).to(torch.uint8).contiguous()


def maker(recipe: str = "lafs", views: ViewOptions | None = None, **landmarks: Any) -> ViewMaker:
    options = LandmarkOptions(**{"count": 16, "sampled": 4, "coordinate_max": 31.0, "noise_sigma": 2.0, **landmarks})
    return ViewMaker(views or ViewOptions(local_views=3), options, 8, INPUT, recipe)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def network() -> LandmarkNetwork:
    torch.manual_seed(1)
    return LandmarkNetwork(16, width=0.25, coordinate_max=31.0).eval()


def test_a_view_depends_on_the_sample_alone(network: LandmarkNetwork) -> None:
    images = pictures(6)
    with torch.no_grad():
        whole, _ = maker().make(images, Draws(3, 7, torch.arange(6)), network)
        part, _ = maker().make(images[4:], Draws(3, 7, torch.arange(4, 6)), network)
    assert [tuple(v.shape) for v in whole] == [(6, 16, 192)] * 2 + [(6, 4, 192)] * 3
    for a, b in zip(whole, part, strict=True):
        torch.testing.assert_close(a[4:], b, rtol=1e-4, atol=1e-4)
    assert not torch.equal(whole[0], whole[1])


def test_landmarks_come_from_the_clean_version_and_patches_from_the_other(network: LandmarkNetwork) -> None:
    made, images = maker(noise_sigma=0.0), pictures(4)
    source = Draws(0, 1, torch.arange(4))
    with torch.no_grad():
        views, positions = made.make(images, source, network)
        clean, augmented = made.crops(images, source)
        landmarks = network(clean[1])
        torch.testing.assert_close(views[1], sample_patches(augmented[1], landmarks, 8), rtol=1e-4, atol=1e-4)
        index = draw_index(source.uniform("landmark_index", 3, 4)[:, 0], 16)
        chosen = network(clean[2]).gather(1, index[..., None].expand(-1, -1, 2))
        torch.testing.assert_close(views[2], sample_patches(augmented[2], chosen, 8), rtol=1e-4, atol=1e-4)
    assert positions == [None] * 5


def test_noise_has_its_deviation_and_the_shuffle_replaces(network: LandmarkNetwork) -> None:
    noise = Draws(0, 0, torch.arange(200)).normal("landmark_noise", 5, 16, 2)
    assert abs(float(maker(noise_sigma=5.0).sampling.perturbed(torch.zeros(1), noise).std()) - 5) < 0.05
    uniform = Draws(0, 0, torch.arange(500)).uniform("landmark_index", 36)
    index = draw_index(uniform, 196)
    assert index.min() >= 0
    assert index.max() <= 195
    assert any(len(row.unique()) < 36 for row in index)
    without = draw_index(Draws(0, 0, torch.arange(50)).uniform("x", 196), 196, replacement=False)[:, :36]
    assert all(len(row.unique()) == 36 for row in without)
    assert without.float().mean() == pytest.approx(97.5, abs=4)


def test_positions_of_the_landmarks_are_an_option(network: LandmarkNetwork) -> None:
    with torch.no_grad():
        _, positions = maker(positional="landmark").make(pictures(2), Draws(0, 0, torch.arange(2)), network)
    assert positions[:2] == [None, None]
    assert all(p is not None and p.shape == (2, 4) for p in positions[2:])
    net = FViT(16, 1, 1, 8, 16, 16, 8, 32).eval()
    tokens, places = torch.randn(2, 4, 192), torch.tensor([[0, 1, 2, 3], [3, 3, 0, 9]])
    with torch.no_grad():
        torch.testing.assert_close(net(tokens, places)[0], net(tokens)[0])
        swapped = torch.tensor([[0, 1, 2, 3], [9, 3, 3, 0]])
        permuted = torch.stack([tokens[0], tokens[1, [3, 0, 1, 2]]])
        torch.testing.assert_close(net(permuted, swapped)[1], net(tokens, places)[1], rtol=1e-4, atol=1e-5)


def test_dino_crops_are_small_and_imagenet_normalised() -> None:
    views = ViewOptions(local_views=2, local_size=16)
    made = maker("dino", views)
    found, _ = made.make(pictures(3), Draws(0, 0, torch.arange(3)), None)
    assert [tuple(v.shape) for v in found] == [(3, 16, 192)] * 2 + [(3, 4, 192)] * 2
    white = to_network(torch.full((1, 4, 4, 3), 255, dtype=torch.uint8), imagenet=True)[0, :, 0, 0]
    torch.testing.assert_close(white, torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(to_network(torch.zeros(1, 2, 2, 3, dtype=torch.uint8)), torch.full((1, 3, 2, 2), -1.0))


def test_every_change_has_its_probability() -> None:
    settings, source = CropSettings(32, (0.4, 1.0)), Draws(0, 0, torch.arange(3000))
    found = [settings.draw(source, view, 32, 32) for view in range(3)]
    for name, wanted in (("flip", 0.5), ("jittered", 0.8), ("grey", 0.2)):
        for draws in found:
            assert float(getattr(draws, name).float().mean()) == pytest.approx(wanted, abs=0.03)
    blurred = [float((d.blur > 0).float().mean()) for d in found]
    assert blurred == pytest.approx([1.0, 0.1, 0.5], abs=0.03)
    assert [float(d.solarize.float().mean()) for d in found] == pytest.approx([0, 0.2, 0], abs=0.03)
    assert 0.1 <= float(found[0].blur.min()) < 0.12
    assert 1.98 < float(found[0].blur.max()) <= 2.0
    factors = found[0].jitter.factors
    assert float((factors[:, 0] - 1).abs().max()) == pytest.approx(0.4, abs=0.01)
    assert float((factors[:, 2] - 1).abs().max()) == pytest.approx(0.2, abs=0.01)
    assert float(factors[:, 3].abs().max()) == pytest.approx(0.1, abs=0.01)


def test_the_wrapper_joins_what_has_equally_many_tokens() -> None:
    calls = []

    class Backbone(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(tuple(x.shape))
            return x.mean(1)

    wrapper = MultiCrop(Backbone(), nn.Linear(3, 2))
    views = [torch.randn(2, 5, 3), torch.randn(2, 5, 3), torch.randn(2, 4, 3), torch.randn(2, 4, 3)]
    out = wrapper(views)
    assert calls == [(4, 5, 3), (4, 4, 3)]
    torch.testing.assert_close(out, torch.cat([wrapper.head(v.mean(1)) for v in views]))
    assert wrapper(views, features=True).shape == (8, 3)


def test_the_teacher_follows_and_is_centred() -> None:
    student = MultiCrop(nn.Linear(2, 2), None)
    teacher = Teacher(nn.Linear(2, 2), None, 3)
    before, target = teacher.backbone.weight.clone(), student.backbone.weight
    teacher.follow(student, 0.75)
    torch.testing.assert_close(teacher.backbone.weight, 0.75 * before + 0.25 * target)
    teacher.recentre(torch.tensor([1.0, 2.0, 3.0]), 0.9)
    teacher.recentre(torch.tensor([1.0, 2.0, 3.0]), 0.9)
    torch.testing.assert_close(teacher.center, torch.tensor([[0.19, 0.38, 0.57]]))


def test_temperature_by_epoch() -> None:
    values = [teacher_temperature(e, 0.07, 0.04, 4) for e in range(6)]
    assert values == pytest.approx([0.07, 0.06, 0.05, 0.04, 0.04, 0.04])
    assert teacher_temperature(0, 0.07, 0.04, 0) == 0.04
    assert teacher_temperature(0, 0.07, 0.04, 1) == 0.07


def test_biases_and_flat_parameters_do_not_decay() -> None:
    net = FViT(16, 1, 1, 8, 16, 16, 8, 32)
    decayed, plain = split_decay(net.named_parameters())
    assert {"pos_embedding", "cls_token", "patch_to_embedding.weight"} <= set(decayed)
    assert all(n.endswith(".bias") or "norm" in n or n.startswith("mlp_head") for n in plain)


class Clock:
    """What the watch asks of a context."""

    def __init__(self) -> None:
        self.step = 0

    def all_reduce(self, values: torch.Tensor, op: str) -> torch.Tensor:
        return values


@pytest.mark.parametrize(
    ("rows", "center", "words"),
    [
        (torch.zeros(8, 50), torch.zeros(1, 50), "the same target"),
        (torch.randn(8, 50), 5.0 * torch.eye(50)[:1], "one prototype wins"),
    ],
)
def test_a_collapse_that_lasts_ends_the_run(rows: torch.Tensor, center: torch.Tensor, words: str) -> None:
    watch, clock = CollapseWatch(30), Clock()
    for clock.step in range(1, 30):
        watch.look(rows, center, 0.04, clock)  # type: ignore[arg-type]
    clock.step = 30
    with pytest.raises(TrainingError, match=f"collapsed: for 30 steps .*{words}.*temperature"):
        watch.look(rows, center, 0.04, clock)  # type: ignore[arg-type]


def test_a_healthy_teacher_and_a_short_lapse_are_let_be() -> None:
    torch.manual_seed(0)
    watch, clock = CollapseWatch(30), Clock()
    for clock.step in range(1, 200):
        rows = torch.zeros(8, 50) if clock.step % 30 == 0 else torch.randn(8, 50)
        watch.look(rows, 0.01 * torch.randn(1, 50), 0.04, clock)  # type: ignore[arg-type]
    assert int(watch.bad_steps) == 0
    assert 0 < float(watch.logs()["target_entropy"]) < 1
    off = CollapseWatch(0)
    off.look(torch.zeros(8, 50), torch.zeros(1, 50), 0.04, clock)  # type: ignore[arg-type]
    assert float(off.entropies[0]) == -1


def test_nearest_neighbours_leave_the_picture_itself_out() -> None:
    vectors = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0], [0.7, 0.7]])
    assert leave_one_out(vectors, torch.tensor([0, 0, 1, 1, 2])) == 1.0  # the last one has no partner
    assert leave_one_out(vectors, torch.tensor([0, 1, 0, 1, 2])) == 0.0
