"""Parser, policy and recognisers: published sizes, forms, look-up against masks, ImageNet files, what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from facex_sarface.parser import class_logits, mean_confidence, parse
from facex_sarface.policy_network import PolicyNetwork
from facex_sarface.swiftformer import VARIANTS, SwiftFormerParser
from facex_sarface.swiftformer_blocks import AdditiveAttention
from torch import Tensor, nn
from torch.nn.functional import interpolate, one_hot

from facex.errors import CheckpointError, ConfigError
from facex.models import create_backbone

TINY = {"widths": (8, 16, 24, 32), "depths": (2, 1, 2, 1)}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_sizes() -> None:
    parser, policy = SwiftFormerParser(), PolicyNetwork()
    assert (count(parser.encoder), count(parser.decoder)) == (11_288_592, 14_116_720)
    assert len(parser.state_dict()) == 757
    assert sum(key.endswith("num_batches_tracked") for key in parser.state_dict()) == 61
    assert (count(policy), len(policy.state_dict())) == (11_257_932, 122)


@pytest.mark.parametrize(
    ("name", "parameters", "entries"),
    [
        ("ir_18", 24_020_352, 179),
        ("ir_34", 34_134_080, 323),
        ("ir_50", 43_585_600, 467),
        ("ir_101", 65_150_912, 917),
        ("ir_se_50", 43_808_320, 515),
    ],
)
def test_recognisers_have_the_published_sizes(name: str, parameters: int, entries: int) -> None:
    with torch.device("meta"):
        network = create_backbone(name)
    assert (count(network), len(network.state_dict())) == (parameters, entries)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_variant_parses(variant: str) -> None:
    with torch.device("meta"):
        parser = SwiftFormerParser(variant, 7).eval()  # type: ignore[arg-type]
        assert parser(torch.zeros(1, 3, 64, 96)).shape == (1, 7, 64, 96)
        assert [m.shape[1] for m in parser.encoder(torch.zeros(1, 3, 64, 64))] == list(VARIANTS[variant][0])


def test_initial_weights() -> None:
    torch.manual_seed(0)
    parser = SwiftFormerParser(**TINY)
    attention = parser.encoder.network[2][-1].attn
    assert attention.to_query.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert not attention.to_query.bias.any()
    # the decoder's attention and its way up keep torch's
    assert parser.decoder.network[0][-1].attn.to_query.bias.any()
    assert parser.decoder.network[1][0].bias.any()
    assert not parser.decoder.network[2][0].dwconv.bias.any()
    block = parser.encoder.network[0][-1]
    assert (block.layer_scale_1 == 1e-5).all()
    assert (block.local_representation.layer_scale == 1).all()


def test_attention_is_the_formula() -> None:
    torch.manual_seed(0)
    attention = AdditiveAttention(6, 6).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    got = attention(x)
    for b in range(2):
        q, k = ([row / row.norm() for row in layer(x[b])] for layer in (attention.to_query, attention.to_key))
        alpha = torch.stack([(row @ attention.w_g)[0] / 6**0.5 for row in q])
        alpha = alpha / alpha.norm()
        pooled = sum((a * row for a, row in zip(alpha, q, strict=True)), torch.zeros(6, dtype=torch.float64))
        for n in range(5):
            expected = attention.final(attention.Proj(pooled * k[n]) + q[n])
            torch.testing.assert_close(got[b, n], expected)


class ByColour(nn.Module):
    """A parser whose logits are the picture's channels and a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros_like(x[:, :1])], 1)


def test_parse_resizes_takes_the_strongest_and_translates() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 112, 112).clamp(-1, 1)
    labels = parse(ByColour(), images)
    small = interpolate(images, (128, 128), mode="bilinear", align_corners=False)
    expected = torch.cat([small, torch.zeros(2, 1, 128, 128)], 1).argmax(1)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels, expected.to(torch.uint8))
    translated = parse(ByColour(), images, table=[13, 1, 17, 0])
    assert torch.equal(translated.long(), torch.tensor([13, 1, 17, 0])[expected])
    with pytest.raises(ConfigError, match=r"\[19\]"):
        parse(ByColour(), images, table=[13, 1, 19, 0])


def test_the_parsers_input_is_official_or_imagenets() -> None:
    pixel = torch.tensor([0.2, 0.5, 0.9])  # R, G, B of 0..1
    images = (pixel.flip(0) * 2 - 1).view(1, 3, 1, 1).expand(1, 3, 128, 128)
    official = class_logits(ByColour(), images, 128, "official")[0, :3, 0, 0]
    torch.testing.assert_close(official, pixel.flip(0) * 2 - 1)
    imagenet = class_logits(ByColour(), images, 128, "rgb_imagenet")[0, :3, 0, 0]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(imagenet, (pixel - mean) / std)
    logits = torch.tensor([*imagenet.tolist(), 0.0])
    found = mean_confidence(ByColour(), images, parser_input="rgb_imagenet")
    torch.testing.assert_close(found, logits.softmax(0).max())
    with pytest.raises(ConfigError, match="official or rgb_imagenet"):
        parse(ByColour(), images, parser_input="bgr")  # type: ignore[arg-type]


def test_a_parser_that_is_trained_keeps_no_graph_here_and_refuses_odd_sizes() -> None:
    parser = SwiftFormerParser(**TINY).eval()
    assert parse(parser, torch.zeros(1, 3, 112, 112)).shape == (1, 128, 128)
    logits = parser(torch.zeros(1, 3, 64, 64))
    logits.sum().backward()
    assert all(p.grad is not None for p in parser.parameters())
    with pytest.raises(ValueError, match="multiples of 32"):
        parser(torch.zeros(1, 3, 112, 112))
    with pytest.raises(ConfigError, match="xs, s, l1, l1_tiny, l3"):
        SwiftFormerParser("l2")  # type: ignore[arg-type]


def policy_inputs(regions: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, region ids in blocks, and the state of pictures and masks."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    ids = torch.randint(0, regions, (2, 8, 8), dtype=torch.uint8).repeat_interleave(8, 1).repeat_interleave(8, 2)
    masks = one_hot(ids.long(), regions).permute(0, 3, 1, 2).float()
    return images, ids, torch.cat([images, masks], 1)


@pytest.mark.parametrize("train", [False, True])
def test_the_look_up_is_the_convolution_over_masks(train: bool) -> None:
    torch.manual_seed(1)
    policy = PolicyNetwork(5, 9).train(train)
    images, ids, state = policy_inputs(9)
    looked_up, over_masks = policy(images, ids), policy.decide(policy.embedded_state(state))
    torch.testing.assert_close(looked_up, over_masks, rtol=1e-4, atol=1e-5)
    gradients = []
    for logits in (looked_up, over_masks):
        gradients.append(torch.autograd.grad(logits.square().sum(), policy.embed.weight, retain_graph=True)[0])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4 * gradients[1].abs().max().item())
    torch.testing.assert_close(policy.eval().probabilities(images, ids), torch.sigmoid(policy(images, ids)))


def imagenet_file(policy: PolicyNetwork, folder: Path) -> Path:
    """A torchvision ResNet-18 file with these weights."""
    names = {"0": "bn1", **{str(i + 2): f"layer{i}" for i in range(1, 5)}}
    state = {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    for key, value in policy.state_dict().items():
        if key.startswith("feature_extractor."):
            _, index, rest = key.split(".", 2)
            state[f"{names[index]}.{rest}"] = value
    state |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(state, folder / "resnet18.pth")
    return folder / "resnet18.pth"


def test_imagenet_weights_come_from_a_torchvision_file(tmp_path: Path) -> None:
    source = PolicyNetwork(3, 4)
    torch.nn.init.normal_(source.feature_extractor[0].running_mean)
    path = imagenet_file(source, tmp_path)
    policy = PolicyNetwork(3, 4, imagenet=path)
    own, theirs = policy.state_dict(), source.state_dict()
    for key in own:
        assert torch.equal(own[key], theirs[key]) == key.startswith("feature_extractor."), key


def test_other_files_are_refused(tmp_path: Path) -> None:
    state = torch.load(imagenet_file(PolicyNetwork(3, 4), tmp_path), weights_only=True)
    del state["layer3.0.conv1.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"feature_extractor.5.0.conv1.weight"):
        PolicyNetwork(3, 4, imagenet=tmp_path / "part.pth")
    torch.save({"layer5.0.conv1.weight": torch.zeros(1)}, tmp_path / "deep.pth")
    with pytest.raises(CheckpointError, match="layer5"):
        PolicyNetwork(3, 4, imagenet=tmp_path / "deep.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        PolicyNetwork(3, 4, imagenet=tmp_path / "none.pth")
