"""Distracting textures: what is painted, with whose texture, in how many pictures, and pairs that mislead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from facex_sarface import distract_command
from facex_sarface.distracted_pairs import texture_numbers
from facex_sarface.textures import PaintTextures, paint, texture
from torch import Tensor

from facex.commands import synth
from facex.data.draws import Draws
from facex.data.verification import load_bin
from facex.errors import ConfigError, DataError
from facex.methods import Batch, Field
from facex.synth import Renderer
from facex.synth.pairs import make_pairs
from plugins.sarface.tests.tiny_parser import tiny_parser

SIDE = 32


def batch(count: int, color: str = "rgb", classes: int = 7) -> Batch:
    """Black pictures whose upper half is background, the lower one skin but for a corner of clothes."""
    maps = torch.ones(count, SIDE, SIDE, dtype=torch.uint8)
    maps[:, : SIDE // 2], maps[:, -4:, :4] = 0, 18
    fields = {"image": torch.zeros(count, SIDE, SIDE, 3, dtype=torch.uint8), "parsing": maps}
    fields["label"] = torch.arange(count) % classes
    kinds = {"image": Field("image"), "parsing": Field("label_map"), "label": Field("label")}
    return Batch(fields, kinds, color, torch.arange(count), torch.arange(count))


def draws(count: int, seed: int = 0) -> Draws:
    return Draws(seed, 3, torch.arange(count))


def colors(images: Tensor) -> Tensor:
    """A picture's lightest and darkest values by channel [m, 6]: the same for a texture whatever its phase, nearly."""
    flat = images[:, : SIDE // 2].flatten(1, 2).float()
    return torch.cat([flat.amin(1), flat.amax(1)], 1)


def test_the_named_labels_alone_are_painted() -> None:
    data = batch(5)
    out = PaintTextures(labels=[0, 18])(data, draws(5))["image"]
    where = (data["parsing"] == 0) | (data["parsing"] == 18)
    assert not out[~where].any() and (out[where] > 0).any(-1).float().mean() > 0.99
    assert not data["image"].any()  # the input is left as it is
    reversed_ = PaintTextures(labels=[0, 18])(batch(5, "bgr"), draws(5))["image"]
    assert torch.equal(reversed_, out.flip(3))


def test_a_texture_is_told_by_its_number() -> None:
    number = torch.tensor([4, 4, 9])
    phase = torch.zeros(3, 2)
    made = texture(number, SIDE, 48, phase)
    assert made.shape == (3, SIDE, 48, 3) and torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    moved = texture(number[:1], SIDE, 48, phase[:1] + 0.5)
    assert not torch.equal(moved[0], made[0])
    large = texture(number, 2 * SIDE, 96, phase)  # the same at another size: 2 x 2 pixels are one
    means = large.float().view(3, SIDE, 2, 48, 2, 3).mean((2, 4))
    assert (means - made.float()).abs().mean() < 3
    both = torch.cat([texture(torch.arange(64), 8, 8, torch.rand(64, 2))])
    assert len(both.float().mean((1, 2)).round().unique(dim=0)) > 60


def test_shares_of_painted_pictures_and_of_their_own_textures() -> None:
    count = 2000
    data = batch(count)
    out = PaintTextures(p=0.8, own=0.25, textures=7)(data, draws(count))["image"]
    painted = (out > 0).flatten(1).any(1)
    assert float(painted.float().mean()) == pytest.approx(0.8, abs=0.03)
    own = paint(data["image"], data["parsing"], data["label"], draws(count).uniform("phase", 2))
    equal = (own == out).flatten(1).all(1)
    assert float(equal[painted].float().mean()) == pytest.approx(0.25, abs=0.03)
    again = PaintTextures(p=0.8, own=0.25, textures=7)(data, draws(count))["image"]
    assert torch.equal(again, out)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    mixed = Batch({k: v[order] for k, v in data.fields.items()}, data.kinds, "rgb", order, order)
    assert torch.equal(PaintTextures(p=0.8, own=0.25, textures=7)(mixed, Draws(0, 3, order))["image"], out[order])


def test_another_texture_is_never_the_own_one() -> None:
    count = 500
    data = batch(count, classes=3)
    out = PaintTextures(own=1e-9, textures=3)(data, draws(count))["image"]
    phase = draws(count).uniform("phase", 2)
    made = [paint(data["image"], data["parsing"], torch.full((count,), k), phase) for k in range(3)]
    found = torch.stack([(out == one).flatten(1).all(1) for one in made], 1)
    assert (found.sum(1) == 1).all() and not found.gather(1, data["label"][:, None]).any()
    others = found.float().sum(0) / count
    assert float(others.min()) > 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1.5}, "shares"),
        ({"textures": 1}, "2 at least"),
        ({"labels": [19]}, r"0\.\.18"),
        ({"labels": []}, "labels"),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PaintTextures(**options)  # type: ignore[arg-type]


def test_missing_fields_and_maps_of_another_size() -> None:
    data = batch(2)
    del data.fields["label"]
    PaintTextures()(data, draws(2))
    with pytest.raises(ConfigError, match="field 'label'"):
        PaintTextures(own=0.5)(data, draws(2))
    with pytest.raises(ConfigError, match="field 'maps'"):
        PaintTextures(field="maps")(data, draws(2))
    with pytest.raises(DataError, match="one size"):
        paint(data["image"], data["parsing"][:, 1:], torch.zeros(2, dtype=torch.int64), torch.zeros(2, 2))


# -- pairs ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 rendered pairs."""
    folder = tmp_path_factory.mktemp("distract")
    words = ["--split", "val", "--pairs", "20", "--val-identities", "20", "--size", "48", "--workers", "1"]
    assert synth.main([str(folder), *words]) == 0
    return folder


def test_two_people_share_a_texture_and_one_has_two() -> None:
    same = np.arange(4000) % 2 == 0
    number, phase = texture_numbers(same, 50, 3)
    pairs = number.view(-1, 2).numpy()
    assert (pairs[same][:, 0] != pairs[same][:, 1]).all() and (pairs[~same][:, 0] == pairs[~same][:, 1]).all()
    assert set(pairs.ravel()) == set(range(50)) and len(phase.unique(dim=0)) == 8000
    assert torch.equal(texture_numbers(same[:10], 50, 3)[0], number[:20])
    assert not torch.equal(texture_numbers(same, 50, 4)[0], number)


def test_the_backgrounds_of_rendered_pairs(faces: Path) -> None:
    out = faces / "distracted.bin"
    assert distract_command.main([str(faces / "val.bin"), str(out), "--textures", "9", "--seed", "2"]) == 0
    plain, made = load_bin(faces / "val.bin"), load_bin(out)
    assert made.name == "distracted" and (made.issame == plain.issame).all()
    before, after = plain.decode(size=None), made.decode(size=None)
    number, phase = texture_numbers(plain.issame, 9, 2)
    painted = texture(number, 48, 48, phase).numpy()
    pictures = [p for pair in make_pairs(0, 20, 20) for p in (pair.first, pair.second)]
    for place in (0, 7, 22):
        background = Renderer(0, 48).render(*pictures[place]).parsing == 0
        assert background.any() and not background.all()
        assert (after[place][background] == painted[place][background]).all()
        assert (after[place][~background] == before[place][~background]).all()


def test_the_backgrounds_of_other_pairs(faces: Path, tmp_path: Path) -> None:
    parser = tiny_parser()
    torch.save(parser.parser.state_dict(), tmp_path / "parser.pth")
    other = tmp_path / "other.bin"
    other.write_bytes((faces / "val.bin").read_bytes())
    with pytest.raises(DataError, match="was not rendered by facex synth"):
        distract_command.main([str(other), str(tmp_path / "out.bin")])
    words = ["--parser", str(tmp_path / "parser.pth"), "--labels", *map(str, range(10)), "--device", "cpu"]
    assert distract_command.main([str(other), str(tmp_path / "out.bin"), *words]) == 0
    changed = (
        (load_bin(tmp_path / "out.bin").decode(size=None) != load_bin(other).decode(size=None)).any(-1).mean((1, 2))
    )
    assert 0 < changed.mean() < 1


def test_what_cannot_be_written(faces: Path, tmp_path: Path) -> None:
    for out, message in ((faces / "val.bin", "another file"), (tmp_path / "out.png", "is a .bin file")):
        with pytest.raises(ConfigError, match=message):
            distract_command.main([str(faces / "val.bin"), str(out)])
    (tmp_path / "synth.json").write_text((faces / "synth.json").read_text().replace('"seed": 0', '"seed": 1'))
    (tmp_path / "val.bin").write_bytes((faces / "val.bin").read_bytes())
    with pytest.raises(DataError, match="picture 0 is not the one that facex synth renders now"):
        distract_command.main([str(tmp_path / "val.bin"), str(tmp_path / "out.bin")])
    (tmp_path / "synth.json").write_text("{}")
    with pytest.raises(DataError, match="not the stamp"):
        distract_command.main([str(tmp_path / "val.bin"), str(tmp_path / "out.bin")])
