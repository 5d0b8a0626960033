"""The vision transformer: masking, stochastic depth, given draws, precision of the softmax."""

from typing import Any

import pytest
import torch
from torch import nn

from facex.models import create_backbone, identify_backbone
from facex.models.vit import Attention, Block, Draws, VisionTransformer

TINY: dict[str, Any] = {"embed_dim": 16, "num_heads": 4, "depth": 3, "embedding_size": 8, "input_size": 40}  # 16 tokens


def tiny(**options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**{**TINY, **options}).train()


def test_the_configured_ratio_is_honoured_unless_the_official_one_is_asked_for() -> None:
    kept = {}
    for official in (False, True):
        for ratio in (0.0, 0.05, 0.1, 0.5):
            kept[official, ratio] = create_backbone(
                "vit_t", depth=1, mask_ratio=ratio, official_masking=official
            ).kept_tokens
    assert kept == {
        **{(False, 0.0): 144, (False, 0.05): 136, (False, 0.1): 129, (False, 0.5): 72},
        **{(True, 0.0): 144, (True, 0.05): 129, (True, 0.1): 129, (True, 0.5): 129},
    }


def test_masked_tokens_are_not_seen_and_are_filled_at_their_places() -> None:
    net = tiny(mask_ratio=0.25, drop_path_rate=0.0)
    net.mask_token.data.fill_(7.0)
    seen: list[torch.Tensor] = []
    flat: list[torch.Tensor] = []
    net.blocks[0].register_forward_hook(lambda m, a, out: seen.append(a[0]))
    net.feature[0].register_forward_hook(lambda m, a, out: flat.append(a[0]))
    x = torch.randn(3, 3, 40, 40)
    noise = torch.rand(3, 16)
    net(x, Draws(noise, None))
    dropped = noise.argsort(1)[:, 12:]
    assert seen[0].shape == (3, 12, 16)
    tokens = flat[0].view(3, 16, 16)
    filled = (tokens == 7.0).all(2)
    assert torch.equal(filled, torch.zeros(3, 16).scatter(1, dropped, 1).bool())
    every = net.patch_embed(x) + net.pos_embed
    for row in range(3):
        torch.testing.assert_close(seen[0][row], every[row, noise[row].argsort()[:12]])


def test_stochastic_depth_drops_whole_branches_of_a_sample() -> None:
    block = Block(16, 4, 32, 0.25, "fp32")
    x = torch.randn(2, 5, 16)
    keep = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    out = block(x, keep)
    torch.testing.assert_close(out[0], x[0] + block.attn(block.norm1(x))[0] / 0.75)
    torch.testing.assert_close(out[1], x[1] + block.mlp(block.norm2(x))[1] / 0.75)


def test_draws_follow_the_rates() -> None:
    net = tiny(depth=5, drop_path_rate=0.4, mask_ratio=0.1)
    assert [block.drop_rate for block in net.blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    noise, keep = net.draw(20000, torch.device("cpu"))
    assert noise is not None
    assert keep is not None
    assert noise.shape == (20000, 16)
    torch.testing.assert_close(keep.mean(1), torch.tensor([0.9, 0.9, 0.8, 0.8, 0.7, 0.7, 0.6, 0.6]), atol=0.015, rtol=0)
    assert net.eval().draw(1, torch.device("cpu")).keep is not None
    assert tiny(drop_path_rate=0.0).draw(2, torch.device("cpu")) == (None, None)


def test_a_pass_can_be_replayed_and_evaluation_draws_nothing() -> None:
    net = tiny(mask_ratio=0.25, drop_path_rate=0.5)
    x = torch.randn(4, 3, 40, 40)
    draws = net.draw(4, x.device)
    assert torch.equal(net(x, draws), net(x, draws))
    assert not torch.equal(net(x), net(x))
    net.eval()
    state = torch.get_rng_state()
    assert torch.equal(net(x), net(x, draws))
    assert torch.equal(torch.get_rng_state(), state)


def test_attention_is_the_plain_formula_and_stays_float32_under_autocast() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 4, "fp32")
    x = 3 * torch.randn(2, 7, 16)
    qkv = attention.qkv(x).double().view(2, 7, 3, 4, 4).permute(2, 0, 3, 1, 4)
    scores = (qkv[0] @ qkv[1].transpose(2, 3) / 2).softmax(-1)
    expected = nn.functional.linear(
        (scores @ qkv[2]).transpose(1, 2).reshape(2, 7, 16),
        attention.proj.weight.double(),
        attention.proj.bias.double(),
    )
    torch.testing.assert_close(attention(x), expected.float(), atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attention.qkv(x)  # 16 bits; everything up to the projection is then float32
        assert rounded.dtype == torch.bfloat16
        seen: list[torch.Tensor] = []
        attention.proj.register_forward_hook(lambda m, a, out: seen.append(a[0]))
        attention(x)
        other = Attention(16, 4, "autocast")
        other.load_state_dict(attention.state_dict())
        other.proj.register_forward_hook(lambda m, a, out: seen.append(a[0]))
        other(x)
    q, k, v = rounded.double().view(2, 7, 3, 4, 4).permute(2, 0, 3, 1, 4)
    exact = ((q @ k.transpose(2, 3) / 2).softmax(-1) @ v).transpose(1, 2).reshape(2, 7, 16)
    assert seen[0].dtype == torch.float32
    torch.testing.assert_close(seen[0].double(), exact, atol=1e-5, rtol=1e-5)
    assert seen[1].dtype == torch.bfloat16


def test_training_compiles_with_given_draws() -> None:
    net = tiny(mask_ratio=0.25, drop_path_rate=0.5, activation_checkpointing=True)
    x = torch.randn(4, 3, 40, 40)
    draws = net.draw(4, x.device)
    expected = net(x, draws)
    got = torch.compile(net, backend="aot_eager", fullgraph=True)(x, draws)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    got.square().sum().backward()
    assert net.mask_token.grad is not None


def test_cvlface_leaves_the_mask_token_out() -> None:
    with torch.device("meta"):
        state = create_backbone("vit_b_patch8", mask_token=False).state_dict()
        found = identify_backbone(state)
        assert found is not None
        assert (found.name, found.options) == ("vit_b_patch8", {"mask_token": False, "mask_ratio": 0.0})
        again = create_backbone(found.name, **found.options)
    assert again.state_dict().keys() == state.keys()


def test_tokens_of_the_rest_are_unused() -> None:
    """112 pixels hold 12 patches of 9; the last 4 pixels right and below have no influence."""
    net = VisionTransformer(embed_dim=16, depth=1, num_heads=4, embedding_size=8).eval()
    x = torch.randn(1, 3, 112, 112)
    other = x.clone()
    other[..., 108:] = 5
    other[..., 108:, :] = 5
    assert net.tokens == 144
    assert torch.equal(net(x), net(other))
