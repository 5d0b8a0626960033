"""The masked autoencoder and its method: masks from given noise, options of the MAE paper, pictures, groups."""

from __future__ import annotations

import pytest
import torch
from facex_jhmfr.mae import MaskedAutoencoder, masked_pictures
from facex_jhmfr.patches import patchify

from facex.errors import ConfigError
from plugins.jhmfr.tests.tiny_jhmfr import batch, context, facet, pretrained


def test_the_smallest_noise_is_hidden() -> None:
    net = pretrained().mae
    noise = torch.rand(4, 16)
    loss, predictions, masked = net(batch()["image"], noise)
    assert masked.shape == (4, 12)
    assert torch.equal(masked.sort(1).values, noise.argsort(1)[:, :12].sort(1).values)
    patches = patchify(batch()["image"], 8)
    target = torch.stack([p[m] for p, m in zip(patches, masked, strict=True)])
    torch.testing.assert_close(loss, (predictions - target).square().mean((1, 2)))


def test_what_is_hidden_is_not_seen() -> None:
    net, noise = pretrained().mae.eval(), torch.rand(4, 16)
    x = batch()["image"]
    _, predictions, masked = net(x, noise)
    patches = patchify(x, 8)
    patches.scatter_(1, masked[..., None].expand(-1, -1, 192), 7.0)
    from facex_jhmfr.patches import unpatchify

    torch.testing.assert_close(net(unpatchify(patches, 8, (4, 4)), noise)[1], predictions)


def test_options_of_the_mae_paper_change_what_they_say() -> None:
    x, noise = batch()["image"], torch.rand(4, 16)
    plain = pretrained().mae.eval()
    places = pretrained(pos_visible=True).mae.eval()
    pixels = pretrained(norm_pix=True).mae.eval()
    for other in (places, pixels):
        other.load_state_dict(plain.state_dict())
    assert not torch.allclose(plain(x, noise)[1], places(x, noise)[1])
    torch.testing.assert_close(plain(x, noise)[1], pixels(x, noise)[1])
    _, predictions, masked = pixels(x, noise)
    target = torch.stack([p[m] for p, m in zip(patchify(x, 8), masked, strict=True)]).double()
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(
        pixels(x, noise)[0].double(), (predictions - target).square().mean((1, 2)), rtol=1e-5, atol=1e-6
    )


def test_carried_tensors_are_neither_trained_nor_decayed() -> None:
    method = pretrained()
    update = next(method.training_step(batch(), context(method)))
    assert (update.network, update.embeddings, list(update.losses)) == ("mae", None, ["mse"])
    update.losses["mse"].backward()
    untouched = {n for n, p in method.mae.named_parameters() if p.grad is None}
    assert (
        untouched
        == set(method.mae.carried())
        == {
            *(f"encoder.class_head.0.{n}" for n in ("weight", "bias")),
            *(f"decoder.patch_embed.to_token.{n}" for n in ("weight", "bias")),
        }
    )
    names = {id(p): n for n, p in method.mae.named_parameters()}
    decayed = {names[id(p)] for g in method.param_groups("mae") if g.weight_decay is None for p in g.parameters}
    assert {"mask_token", "encoder.pos_embed", "to_pixels.weight"} <= decayed
    groups = pretrained(skip_decay=True).param_groups("mae")
    assert [sum(p.numel() for p in g.parameters) for g in groups] != [
        sum(p.numel() for p in g.parameters) for g in method.param_groups("mae")
    ]


def test_pictures_of_a_reconstruction() -> None:
    method = pretrained().eval()
    x = method.input.to_tensor(torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8), "rgb")
    shown = method.visuals(batch().with_fields(image=x), context(method)).images
    assert set(shown) == {"masked", "reconstructed", "original"}
    assert all(v.shape == (4, 32, 32, 3) and v.dtype == torch.uint8 for v in shown.values())
    grey = (shown["masked"] == 128).all(-1)
    assert grey.float().mean() >= 0.75
    seen = ~grey[..., None].expand(-1, -1, -1, 3)
    assert torch.equal(shown["reconstructed"][seen], shown["original"][seen])
    assert pretrained(norm_pix=True).visuals(batch(), context(pretrained(norm_pix=True))).images == {}


def test_masked_pictures_put_values_where_they_belong() -> None:
    x = torch.zeros(1, 3, 16, 16)
    hidden, filled = masked_pictures(x + 1, torch.full((1, 1, 192), 5.0), torch.tensor([[2]]), 8)
    assert torch.equal(hidden[0, :, 8:, :8], torch.zeros(3, 8, 8)) and hidden.sum() == 3 * 3 * 64
    assert torch.equal(filled[0, :, 8:, :8], torch.full((3, 8, 8), 5.0))


def test_encoder_tokens_are_the_embedding() -> None:
    method = pretrained().eval()
    x = batch()["image"]
    found = method.embed(x, method.networks())
    tokens = method.mae.encoder.patch_embed(x) + method.mae.encoder.pos_embed
    torch.testing.assert_close(found.vector, method.mae.encoder.run_blocks(tokens).mean(1))
    assert not torch.allclose(method.embed(x, method.networks(), flip=True).vector, found.vector)


def test_shapes_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="without prompts"):
        MaskedAutoencoder(facet())
    for ratio in (0.0, 0.01, 1.0):
        with pytest.raises(ConfigError, match="at least one must be hidden and one seen"):
            pretrained(mask_ratio=ratio)
    with pytest.raises(ConfigError, match="trains a FaceT"):
        pretrained(backbone="r18", backbone_options={"width": 0.125, "prompt_layers": 0})


def test_an_encoder_of_the_decoders_width_needs_no_layer_between() -> None:
    net = pretrained(decoder_dim=32).mae
    assert not any(name.startswith("enc_to_dec") for name in net.state_dict())
    assert net(batch()["image"])[0].shape == (4,)
