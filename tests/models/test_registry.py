"""The registry, and one test over every backbone in it."""

import copy
import importlib

import pytest
import torch
from torch import nn

from facex.errors import ConfigError
from facex.models import (
    backbone_names,
    create_backbone,
    describe_backbone,
    get_backbone,
    identify_backbone,
    measure_backbone,
    register_backbone,
)
from facex.models.registry import core_backbones

# Every architecture at a size that runs in a moment: as registered but for these options.
SMALL = {
    "IResNet": {"width": 0.125, "input_size": 32, "embedding_size": 16},
    "IR": {"width": 0.125, "input_size": 32, "embedding_size": 16},
    "MobileFaceNet": {"width": 0.125, "input_size": 32, "embedding_size": 16},
    "VisionTransformer": {"embed_dim": 32, "input_size": 32, "embedding_size": 16},
    "ResFace": {"embedding_size": 16},
}
# and with few blocks, where their number is an argument of its own
BLOCKS = {"IResNet": {"blocks": (2, 1, 1, 1)}, "IR": {"blocks": (2, 1, 1, 1)}, "VisionTransformer": {"depth": 3}}
# Parameters (embedding 512) and tensors of the official state dicts: spec D1 to D4.
PUBLISHED = {
    "r18": (24_025_600, 187),
    "r34": (34_139_328, 331),
    "r50": (43_590_848, 475),
    "r100": (65_156_160, 925),
    "r200": (118_833_920, 1807),
    "iresnet18": (24_025_600, 187),
    "iresnet34": (34_139_328, 331),
    "iresnet50": (43_590_848, 475),
    "iresnet100": (65_156_160, 925),
    "iresnet200": (118_833_920, 1807),
    "mbf": (2_059_520, 333),
    "mbf_large": (6_314_880, 606),
    "vit_t": (19_137_792, None),
    "vit_t_dp005_mask0": (19_137_792, None),
    "vit_s": (76_023_296, None),
    "vit_s_dp005_mask_0": (76_023_296, None),
    "vit_b": (113_833_472, None),
    "vit_b_dp005_mask_005": (113_833_472, None),
    "vit_l_dp005_mask_005": (255_684_352, None),
    "vit_h": (756_393_984, None),
    "ir_18": (24_020_352, 179),
    "ir_34": (34_134_080, 323),
    "ir_50": (43_585_600, 467),
    "ir_101": (65_150_912, 917),
    "ir_se_50": (43_808_320, 515),
}
DEEP = {"r2060"}  # a thousand blocks: built once, on the meta device


def small(name: str, shallow: bool = False, **options: object) -> nn.Module:
    family = get_backbone(name).build.__name__
    return create_backbone(name, **{**SMALL[family], **(BLOCKS.get(family, {}) if shallow else {}), **options})


def one_of_a_kind() -> list[str]:
    """The first name of every class and of every switch that changes its layers."""
    return [
        "iresnet18",
        "r18",
        "ir_18",
        "ir_152",
        "ir_se_50",
        "mbf",
        "mbf_large",
        "vit_t",
        "vit_b_patch8",
        "resface_xs",
    ]


def unused(net: nn.Module) -> set[str]:
    """Parameters that official nets have and do not always use."""
    return {"mask_token"} if getattr(net, "mask_ratio", 1) == 0 else set()


@pytest.mark.parametrize("name", [n for n in core_backbones() if n not in DEEP])
def test_every_backbone(name: str) -> None:
    torch.manual_seed(0)
    net = small(name, shallow=True).train()
    x = torch.randn(4, 3, *net.input_size)
    out = net(x)
    assert out.shape == (4, net.embedding_size)
    assert out.dtype == torch.float32
    (out * torch.randn_like(out)).sum().backward()
    for key, parameter in net.named_parameters():
        if key not in unused(net):
            assert parameter.requires_grad == (parameter.grad is not None), key
    net.eval()
    with torch.no_grad():
        expected = net(x)
        torch.testing.assert_close(net(x[:1]), expected[:1], atol=1e-4 * float(expected.abs().max()), rtol=1e-3)
        last = copy.deepcopy(net).to(memory_format=torch.channels_last)
        got = last(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(got, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-3)
        again = small(name, shallow=True).eval()
        again.load_state_dict(net.state_dict(), strict=True)
        assert torch.equal(again(x), expected)
    if not getattr(net, "resize", False):
        with pytest.raises(ConfigError, match="set input_size"):
            net(torch.zeros(1, 3, 40, 24))


@pytest.mark.parametrize("name", one_of_a_kind())
def test_checkpointing_changes_nothing(name: str) -> None:
    """Dropout, masking and stochastic depth are drawn alike, BatchNorm's statistics move once."""
    torch.manual_seed(0)
    plain = small(name, shallow=True).train()
    saving = small(name, shallow=True, activation_checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3, *plain.input_size)
    results = []
    for net in (plain, saving):
        for step in range(2):
            torch.manual_seed(step)
            out = net(x)
            net.zero_grad()
            (out * torch.arange(out.numel()).view_as(out)).sum().backward()
        results.append((out.detach(), {n: p.grad for n, p in net.named_parameters() if p.grad is not None}))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1].keys() == results[1][1].keys()
    assert all(torch.equal(g, results[1][1][n]) for n, g in results[0][1].items())
    for (key, a), b in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(a, b), key
    counters = [b for n, b in saving.named_buffers() if n.endswith("num_batches_tracked")]
    assert counters
    assert all(int(counter) == 2 for counter in counters)


@pytest.mark.parametrize("name", ["iresnet18", "ir_se_50", "mbf", "vit_t", "resface_xs"])
def test_compile(name: str) -> None:
    torch.manual_seed(0)
    net = small(name, shallow=True).eval()
    x = torch.randn(2, 3, *net.input_size)
    with torch.no_grad():
        got = torch.compile(net, backend="aot_eager", fullgraph=True)(x)
        torch.testing.assert_close(got, net(x), atol=1e-5 * float(got.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("name", one_of_a_kind())
def test_the_tail_stays_float32_under_autocast(name: str) -> None:
    net = small(name, shallow=True).eval()
    seen: dict[str, torch.dtype] = {}
    for key, module in net.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.Linear) and not key.startswith("blocks"):
            module.register_forward_hook(lambda m, a, out, key=key: seen.__setitem__(key, out.dtype))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert net(torch.randn(2, 3, *net.input_size)).dtype == torch.float32
    assert len(seen) >= 2
    assert set(seen.values()) == {torch.float32}


@pytest.mark.parametrize("name", [n for n in core_backbones() if n not in DEEP])
def test_published_size(name: str) -> None:
    """The published numbers, the stored row, the names that `facex convert` recognises: on the meta device."""
    with torch.device("meta"):
        net = create_backbone(name)
    state = net.state_dict()
    parameters = sum(p.numel() for p in net.parameters())
    if name in PUBLISHED:
        assert parameters == PUBLISHED[name][0]
        assert len(state) == (PUBLISHED[name][1] or len(state))
    row = describe_backbone(name)
    assert (row.parameters, row.embedding_size, row.input_size) == (parameters, net.embedding_size, net.input_size)
    found = identify_backbone({f"net.{key}": value for key, value in state.items()})
    if name.startswith("resface"):
        assert found is None
    else:
        assert found is not None
        assert (found.embedding_size, found.prefix, found.options) == (512, "net.", {})
        with torch.device("meta"):
            again = create_backbone(found.name).state_dict()
        assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in state.items()}


@pytest.mark.parametrize("name", ["r18", "iresnet34", "ir_18", "ir_se_50", "mbf", "vit_t", "vit_s_patch8", "resface_s"])
def test_stored_sizes_are_what_is_measured(name: str) -> None:
    assert measure_backbone(name) == describe_backbone(name)


def test_the_deepest() -> None:
    """r2060's FLOPs follow from its blocks: every further block of a stage costs the same."""
    per_stage = []
    for stage in range(4):
        counts = [1, 1, 1, 1]
        base = measure_backbone("r18", blocks=tuple(counts)).flops
        counts[stage] = 2
        per_stage.append(measure_backbone("r18", blocks=tuple(counts)).flops - base)
    more = sum(cost * (count - 1) for cost, count in zip(per_stage, (3, 128, 896, 3), strict=True))
    assert describe_backbone("r2060").flops == base + more


def test_describe_counts_without_memory() -> None:
    info = describe_backbone("iresnet18", embedding_size=256)
    # per element of the embedding: a row of fc, its bias, weight and bias of the last BatchNorm
    assert (info.parameters, info.embedding_size) == (24_025_600 - 256 * (25088 + 3), 256)
    assert 5.1e9 < info.flops < 5.4e9  # 2.6 G multiplications and additions are published for this network
    assert 2.9e9 < describe_backbone("vit_t").flops < 3.1e9  # 1.5 G are published


def test_small_nets_are_small() -> None:
    assert 0.7e6 < describe_backbone("resface_s").parameters < 1.7e6


def test_unknown_name_and_option_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no backbone 'iresnet5'.*iresnet50"):
        create_backbone("iresnet5")
    with pytest.raises(ConfigError, match=r"no backbone 'vit_b_dp005_mask005'.*vit_b_dp005_mask_005"):
        create_backbone("vit_b_dp005_mask005")
    with pytest.raises(ConfigError, match=r"no option 'embeding_size'.*embedding_size"):
        create_backbone("iresnet18", embeding_size=4)
    with pytest.raises(ConfigError, match="no depth 51"):
        create_backbone("iresnet50", depth=51)
    with pytest.raises(ConfigError, match=r"no depth 100; known: .*101"):
        create_backbone("ir_50", depth=100)
    with pytest.raises(ConfigError, match="7 heads must divide embed_dim 256"):
        create_backbone("vit_t", num_heads=7)
    with pytest.raises(ConfigError, match=r"mask_ratio 1.5 .* must be in \[0, 1\)"):
        create_backbone("vit_t", mask_ratio=1.5)
    with pytest.raises(ConfigError, match="needs mask_token"):
        create_backbone("vit_t", mask_token=False)
    with pytest.raises(ConfigError, match="four stages"):
        create_backbone("mbf", blocks=(1, 2, 3))


def test_registered_twice_is_an_error() -> None:
    with pytest.raises(ConfigError, match="registered twice"):
        register_backbone("iresnet18", "another")(lambda: torch.nn.Identity())
    importlib.import_module("facex.models.iresnet")  # registering the same object again is harmless
    assert set(core_backbones()) <= set(backbone_names())
