"""FaceT: prompts that offer keys only, stochastic depth with given draws, checkpointing, compilation, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from facex_jhmfr.patches import PatchEmbed, patchify, unpatchify

from facex.errors import ConfigError, DataError
from facex.models import create_backbone
from plugins.jhmfr.tests.tiny_jhmfr import facet

FLAGS = torch.tensor([0, 1, 1, 0])


def images(count: int = 4, size: int = 32) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(count, 3, size, size)


@pytest.mark.parametrize("residual", ["deepnorm", "prenorm", "res_post_norm"])
@pytest.mark.parametrize("pool", ["mean", "cls", "adj"])
def test_prompts_as_keys_equal_prompts_as_tokens(residual: str, pool: str) -> None:
    net = facet(residual=residual, pool=pool, class_head=False).eval()
    whole = net.block_outputs(images(), FLAGS)
    assert [o.shape[1] for o in whole] == [3 + 16, 3 + 16]
    pooled = net.prompts_pool(whole[-1][:, 3:], FLAGS)
    torch.testing.assert_close(net(images(), FLAGS), net.pooled(pooled), rtol=1e-5, atol=1e-6)


def test_each_flag_has_its_prompts_and_none_is_holistic() -> None:
    net = facet().eval()
    holistic, masked = net(images(), torch.zeros(4)), net(images(), torch.ones(4))
    assert not torch.allclose(holistic, masked)
    torch.testing.assert_close(net(images()), holistic)
    torch.testing.assert_close(net(images(), FLAGS.bool()), torch.where(FLAGS[:, None] == 1, masked, holistic))


def test_without_prompts_the_flag_changes_nothing() -> None:
    net = facet(prompt_layers=0).eval()
    assert not any("prompt" in name for name in net.state_dict())
    torch.testing.assert_close(net(images(), FLAGS), net(images()))


def test_more_conditions_than_two() -> None:
    net = facet(conditions=4).eval()
    seen = [net(images(1), torch.tensor([c])) for c in range(4)]
    assert all(not torch.allclose(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_given_draws_decide_which_branches_are_lost() -> None:
    net = facet(drop_path_rate=0.5, class_head=False).train()
    assert net.branches == 2  # the first block never drops
    kept, lost = torch.full((2, 4), 0.99), torch.zeros(2, 4)
    both = torch.stack([kept[0], lost[0]])
    outputs = [net(images(), FLAGS, u) for u in (kept, lost, both)]
    assert all(not torch.allclose(a, b) for i, a in enumerate(outputs) for b in outputs[:i])
    torch.testing.assert_close(net(images(), FLAGS, kept), outputs[0], rtol=0, atol=0)
    last = net.blocks[1]
    x = torch.randn(4, 16, 32)
    torch.testing.assert_close(last(x, u=lost), last.norm2(last.scale * last.norm1(last.scale * x)))
    pictures = images()
    assert not torch.allclose(net(pictures, FLAGS), net(pictures, FLAGS))  # fresh draws
    with pytest.raises(ConfigError, match="3 rows of draws for 2"):
        net(images(), FLAGS, torch.rand(3, 4))


def test_recomputed_activations_give_the_same_gradients() -> None:
    gradients = []
    for recompute in (False, True):
        net = facet(drop_path_rate=0.3, activation_checkpointing=recompute).train()
        torch.manual_seed(5)
        net(images(), FLAGS, torch.rand(2, 4)).square().sum().backward()
        gradients.append({n: p.grad for n, p in net.named_parameters()})
        assert int(net.class_head[1].num_batches_tracked) == 1
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-6, atol=1e-7)


def test_it_compiles_in_one_piece() -> None:
    net = facet(drop_path_rate=0.2).eval()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images(), FLAGS), net(images(), FLAGS))
    net.train()
    u = torch.rand(2, 4)
    torch.testing.assert_close(compiled(images(), FLAGS, u), net(images(), FLAGS, u))
    torch.compiler.reset()


def test_autocast_keeps_the_embedding_in_float32() -> None:
    net = facet().eval()
    exact = net(images(), FLAGS)
    for precision in ("autocast", "fp32"):
        net = facet(attention_precision=precision).eval()
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(images(), FLAGS)
        assert rough.dtype == torch.float32
        torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.1)


def test_patches_are_row_column_channel_and_a_convolution_can_be_made() -> None:
    x = images(2)
    cut = patchify(x, 8)
    assert cut.shape == (2, 16, 192)
    assert cut[0, 5, 3 * (8 * 2 + 4) + 1] == x[0, 1, 8 + 2, 8 + 4]  # patch (1, 1), row 2, column 4, channel 1
    torch.testing.assert_close(unpatchify(cut, 8, (4, 4)), x)
    embed = PatchEmbed(8, 12)
    kernel = embed.to_token.weight.view(12, 8, 8, 3).permute(0, 3, 1, 2)
    convolved = torch.nn.functional.conv2d(x, kernel, embed.to_token.bias, stride=8).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(x), convolved, rtol=1e-4, atol=1e-5)


def test_degenerate_parameters_have_no_gradient_worth_the_name() -> None:
    for residual in ("deepnorm", "prenorm", "res_post_norm"):
        net = facet(residual=residual).double().train()
        net(images().double(), FLAGS).square().sum().backward()  # constant under the batch norm, so take another loss
        net.zero_grad()
        (net(images().double(), FLAGS) * torch.randn(4, 8, dtype=torch.float64)).sum().backward()
        largest = max(float(p.grad.abs().max()) for p in net.parameters())
        for name, parameter in net.degenerate().items():
            assert float(parameter.grad.abs().max()) < 1e-6 * largest, name
    frozen = facet(freeze_degenerate=True)
    assert {n for n, p in frozen.named_parameters() if not p.requires_grad} == set(frozen.degenerate())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_layers": 3}, "prompts for 3 layers, but there are 2 blocks"),
        ({"patch_size": 7}, "patches of 7 pixels do not divide"),
        ({"num_heads": 5}, "5 heads must divide"),
        ({"pool": "max"}, "pool is mean, cls or adj"),
        ({"drop_path_rate": 1.0}, "drop_path_rate 1.0"),
        ({"conditions": 0}, "conditions 0"),
        ({"residual": "postnorm"}, "residual is one of"),
        ({"positions": "sincos", "embed_dim": 30, "num_heads": 3}, "that 4 divides"),
    ],
)
def test_shapes_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        facet(**options)


def test_unused_prompts_are_accepted_by_name() -> None:
    net = facet(prompt_layers=5, allow_unused_prompts=True).eval()
    assert net.state_dict()["prompts"].shape == (5, 2, 3, 32)
    assert net(images(), FLAGS).shape == (4, 8)


@pytest.mark.parametrize(
    "flags", [torch.tensor([0, 2, 0, 1]), torch.tensor([0, -1, 0, 1]), torch.tensor([0, 0.5, 0, 1])]
)
def test_a_flag_outside_0_and_1(flags: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"outside 0\.\.1"):
        facet()(images(), flags)
    with pytest.raises(DataError, match="flags of shape"):
        facet()(images(), flags[:2])


def test_the_registered_networks_have_the_published_size() -> None:
    with torch.device("meta"):
        whole, plain = create_backbone("facet_base"), create_backbone("facet_base", prompt_layers=0)
    assert sum(p.numel() for p in whole.parameters()) == 86_976_512
    assert len(whole.state_dict()) == 156
    assert sum(p.numel() for p in plain.parameters()) == 85_746_944
    assert len(plain.state_dict()) == 152
