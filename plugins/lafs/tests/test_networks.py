"""fViT and Part fViT: names, sizes, tokens, options; what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from facex_lafs.landmark_cnn import LandmarkCNN, landmark_loss, normalise_landmarks
from facex_lafs.networks import FViT, PartFViT, grid_tokens
from facex_lafs.standard import StandardCoordinateViT

from facex.errors import ConfigError, TrainingError
from facex.models import backbone_names, create_backbone
from facex.models.registry import measure_backbone
from facex.ops import sample_patches

SMALL: dict[str, Any] = {
    "dim": 16,
    "depth": 2,
    "heads": 2,
    "head_dim": 8,
    "mlp_dim": 16,
    "num_patches": 16,
    "input_size": 32,
}
PART = {**SMALL, "landmark_width": 0.25, "coordinate_max": 31.0}
PUBLISHED = {
    "part_fvit_b": (66_955_616, 196, 8),
    "fvit_b": (64_082_688, 196, 8),
}


@pytest.mark.parametrize("name", ["part_fvit_b", "fvit_b"])
def test_published_sizes(name: str) -> None:
    parameters, patches, patch = PUBLISHED[name]
    with torch.device("meta"):
        net = create_backbone(name)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert (net.num_patches, net.patch_size, net.embedding_size, net.input_size) == (patches, patch, 768, (112, 112))
    assert len(net.state_dict()) == (432 if name == "part_fvit_b" else 138)


@pytest.mark.parametrize(("name", "patches", "patch"), [("144", 144, 10), ("49", 49, 28), ("16", 16, 28)])
def test_variants_embed(name: str, patches: int, patch: int) -> None:
    small = {"dim": 16, "depth": 1, "heads": 1, "mlp_dim": 8, "landmark_width": 0.25}
    net = create_backbone(f"part_fvit_b_{name}", **small).eval()
    assert (net.num_patches, net.patch_size) == (patches, patch)
    with torch.no_grad():
        embeddings, landmarks = net(torch.rand(2, 3, 112, 112), with_landmarks=True)
    assert embeddings.shape == (2, 16)
    assert landmarks.shape == (2, patches, 2)


def test_every_name_is_registered() -> None:
    assert {"fvit_b", "fvit_s", "part_fvit_b", "part_fvit_b_144", "part_fvit_s", "fvit_b_standard"} <= set(
        backbone_names()
    )


def test_the_landmark_network_has_mobilenets_sizes() -> None:
    net = LandmarkCNN()
    assert sum(p.numel() for p in net.parameters()) == 2_809_816
    with torch.no_grad():
        assert net.eval()(torch.rand(1, 3, 112, 112)).shape == (1, 160, 4, 4)
    assert LandmarkCNN(0.5).channels == 80


def test_grid_tokens_are_row_major_with_channels_last() -> None:
    x = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6).float()
    tokens = grid_tokens(x, 2)
    assert tokens.shape == (2, 6, 12)
    for row in range(2):
        for column in range(3):
            piece = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(tokens[:, 3 * row + column], piece.permute(0, 2, 3, 1).reshape(2, 12))


def test_part_fvit_is_landmarks_patches_and_fvit() -> None:
    torch.manual_seed(0)
    part, plain = PartFViT(**PART).eval(), FViT(**SMALL).eval()
    plain.load_state_dict({k: v for k, v in part.state_dict().items() if not k.startswith(("stn.", "output_layer."))})
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        embeddings, landmarks = part(x, with_landmarks=True)
        torch.testing.assert_close(embeddings, plain(sample_patches(x, landmarks, 8)))
        torch.testing.assert_close(part(x), embeddings)
    assert landmarks.flatten(1).amin(1).tolist() == [0.0, 0.0]
    torch.testing.assert_close(landmarks.flatten(1).amax(1), torch.full((2,), 31.0))


def test_gradient_reaches_the_landmark_network() -> None:
    net = PartFViT(**PART).train()
    net(torch.rand(4, 3, 32, 32)).square().sum().backward()
    assert net.stn.features[0][0].weight.grad.abs().sum() > 0
    assert net.output_layer[1].weight.grad.abs().sum() > 0


def test_landmarks_stay_in_float32_under_autocast_unless_asked() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 32, 32)
    exact, rounded = PartFViT(**PART).eval(), PartFViT(**PART, fp16_landmarks=True).eval()
    rounded.load_state_dict(exact.state_dict())
    with torch.no_grad():
        plain = exact.landmarks(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(exact.landmarks(x), plain)
            assert not torch.equal(rounded.landmarks(x).float(), plain)
            assert exact(x).dtype == torch.float32


def test_recomputation_changes_nothing() -> None:
    torch.manual_seed(0)
    net = FViT(**SMALL, dropout=0.3, drop_path=0.3).train()
    tokens, gradients = torch.randn(3, 5, 192), []
    for recompute in (False, True):
        net.transformer.activation_checkpointing = recompute
        net.zero_grad()
        torch.manual_seed(7)
        net(tokens).square().sum().backward()
        gradients.append({n: p.grad.clone() for n, p in net.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_stochastic_depth_has_one_rate_and_keeps_the_mean() -> None:
    net = FViT(**SMALL, drop_path=0.25)
    drops = [m for m in net.modules() if type(m).__name__ == "DropPath"]
    assert [d.p for d in drops] == [0.25] * 4
    torch.manual_seed(0)
    out = drops[0].train()(torch.ones(20000, 1, 1))
    assert float(out.mean()) == pytest.approx(1, abs=0.02)
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])


def test_a_mean_of_all_tokens_is_an_option() -> None:
    torch.manual_seed(0)
    net = FViT(**SMALL, pool="mean").eval()
    tokens = torch.randn(2, 16, 192)
    seen: list[torch.Tensor] = []
    net.transformer.register_forward_hook(lambda m, a, o: seen.append(o))
    with torch.no_grad():
        torch.testing.assert_close(net(tokens), net.mlp_head(seen[0].mean(1)))


def test_fixed_places_without_noise_give_the_picture_half_a_pixel_off() -> None:
    net = StandardCoordinateViT(**SMALL).eval()
    x = torch.rand(1, 3, 32, 32)
    tokens = net.patches(x, net.places(1, x.device))
    padded = torch.nn.functional.pad(x, (1, 0, 1, 0))
    mean = torch.nn.functional.avg_pool2d(padded, 2, 1)
    torch.testing.assert_close(tokens, grid_tokens(mean, 8))
    noisy = StandardCoordinateViT(random_prob=True, shuffle=True, **SMALL)
    assert not torch.equal(noisy.landmarks(1, x.device, None, None), net.places(1, x.device))


def test_the_regulariser_is_a_mean_a_picture() -> None:
    a, b = torch.rand(3, 5, 2) * 111, torch.rand(3, 5, 2) * 111
    torch.testing.assert_close(landmark_loss(a, b), ((a - b) / 111).square().mean((1, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_patches": 15}, "no square number.*9 or 16"),
        ({"num_patches": 0}, "no square number"),
        ({"embedding_size": 512}, "embedding_size=512 must be dim=16"),
        ({"pool": "max"}, "cls or mean"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FViT(**{**SMALL, **options})


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 3, 40, 40), "built for 32x32"), ((1, 17, 192), "17 tokens for 16 positions")],
)
def test_input_that_does_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FViT(**SMALL)(torch.rand(shape))


def test_a_grid_that_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="25 patches of 6, the network 16"):
        FViT(**{**SMALL, "patch_size": 6, "input_size": 30})(torch.rand(1, 3, 30, 30))
    with pytest.raises(ConfigError, match="cannot be cut"):
        grid_tokens(torch.rand(1, 3, 30, 30), 8)


def test_equal_landmarks_are_an_error_in_words() -> None:
    raw = torch.randn(3, 8)
    raw[1] = 0.25
    with pytest.raises(TrainingError, match=r"all 4 landmarks of picture 1 .*on one point.*init_from"):
        normalise_landmarks(raw)


@pytest.mark.parametrize("name", ["part_fvit_s", "fvit_s", "part_fvit_b"])
def test_sizes_are_counted_without_memory(name: str) -> None:
    info = measure_backbone(name)
    assert info.flops > 1e8
    assert info.embedding_size == (768 if name == "part_fvit_b" else 192)


@pytest.mark.parametrize("name", ["part_fvit_b", "fvit_b_standard", "fvit_b"])
def test_a_misspelt_option_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"backbone '{name}' has no option 'num_patch'; did you mean 'num_patches'"):
        create_backbone(name, num_patch=16)
