"""Changes of light and colour in PIL's 8-bit arithmetic (ImageEnhance, ImageOps, HSV), a factor a picture.

Pictures are uint8 [B, H, W, 3] RGB, factors float [B]. Source: Pillow ImageEnhance, ImageOps, libImaging Blend.c and
Convert.c.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GREY = (19595, 38470, 7471)  # 0.299, 0.587, 0.114 in units of 1/65536


def grey(images: Tensor) -> Tensor:
    """PIL's mode L, int32 [B, H, W, 1]."""
    red, green, blue = images.int().unbind(-1)
    return ((red * _GREY[0] + green * _GREY[1] + blue * _GREY[2] + 0x8000) >> 16).unsqueeze(-1)


def blend(degenerate: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """PIL's Image.blend: degenerate + factor * (images - degenerate) in float32, cut to 0..255 and towards zero."""
    base = degenerate.float()
    mixed = base + factor.float().view(-1, 1, 1, 1) * (images.float() - base)
    return mixed.clamp(0, 255).to(torch.uint8)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blended with black."""
    return blend(torch.zeros_like(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blended with the picture's mean grey."""
    mean = (grey(images).double().mean((1, 2, 3), keepdim=True) + 0.5).int()
    return blend(mean, images, factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blended with the picture's own grey."""
    return blend(grey(images), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blended with the smoothed picture (3 x 3, weight 5 in the middle, borders as they are)."""
    x = images.permute(0, 3, 1, 2).float()
    kernel = torch.ones(1, 1, 3, 3, device=x.device)
    kernel[0, 0, 1, 1] = 5
    smooth = torch.nn.functional.conv2d(x.flatten(0, 1)[:, None], kernel / 13).view(
        *x.shape[:2], *(s - 2 for s in x.shape[2:])
    )
    x[:, :, 1:-1, 1:-1] = (smooth + 0.5).floor().clamp(0, 255)
    return blend(x.permute(0, 2, 3, 1), images, factor)


def hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turned by `factor` (a share of the circle, -0.5..0.5) in PIL's 8-bit HSV."""
    h, s, v = rgb_to_hsv(images).unbind(-1)
    turn = (factor.double() * 255).trunc().long() & 255
    return hsv_to_rgb(torch.stack([(h.long() + turn.view(-1, 1, 1)) & 255, s.long(), v.long()], -1))


def rgb_to_hsv(images: Tensor) -> Tensor:
    """PIL's mode HSV, uint8 [B, H, W, 3]."""
    red, green, blue = images.permute(3, 0, 1, 2).float().unbind(0)
    high, low = torch.maximum(red, green).maximum(blue), torch.minimum(red, green).minimum(blue)
    span = high - low
    is_red, is_green = high == red, high == green
    plus = torch.where(is_red, blue, torch.where(is_green, red, green))
    minus = torch.where(is_red, green, torch.where(is_green, blue, red))
    sector = torch.where(is_red, 0, torch.where(is_green, 2, 4)).double()
    safe = span.clamp(min=1)  # where it is 0, s is 0, and h is what is not looked at
    h = ((sector + (high - plus) / safe) - (high - minus) / safe).float()
    h = torch.fmod(h.double() / 6 + 1, 1).float()
    s = span / high.clamp(min=1)
    h, s = ((x.double() * 255).to(torch.uint8) for x in (h, s))
    return torch.stack([h.masked_fill(span == 0, 0), s, high.to(torch.uint8)], -1)


def hsv_to_rgb(hsv: Tensor) -> Tensor:
    """From PIL's mode HSV (integers 0..255) to uint8 RGB.

    Each channel is v (1 - s w), where w goes through 0, a sixth of the circle from 0 to 1, 1, and back.
    """
    h, s, v = hsv.permute(3, 0, 1, 2).float().unbind(0)
    sector, share, v64 = (h * 6 / 255).double(), (s / 255).double(), v.double()
    red = torch.minimum(sector - 1, 5 - sector)
    green = torch.maximum(1 - sector, sector - 3)
    blue = torch.maximum(3 - sector, sector - 5)
    channels = [v64 * (1 - share * w.clamp(0, 1)) + 0.5 for w in (red, green, blue)]  # C's round, by the cut below
    return torch.stack([channel.to(torch.uint8) for channel in channels], -1)


def solarize(images: Tensor, threshold: int = 128) -> Tensor:
    """Bytes from `threshold` on inverted."""
    return torch.where(images < threshold, images, 255 - images)


def invert(images: Tensor) -> Tensor:
    """255 - x"""
    return 255 - images


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """The highest `bits` (int [B]) of every byte."""
    mask = 256 - (1 << (8 - bits.long()))
    return (images.long() & mask.view(-1, 1, 1, 1)).to(torch.uint8)


def grayscale(images: Tensor) -> Tensor:
    """Grey in all three channels."""
    return grey(images).to(torch.uint8).expand(-1, -1, -1, 3).contiguous()


def autocontrast(images: Tensor) -> Tensor:
    """Each channel stretched to 0..255; a channel of one value stays."""
    flat = images.flatten(1, 2).double()
    low, high = flat.amin(1)[:, None, None], flat.amax(1)[:, None, None]
    span = high - low
    scale = 255.0 / torch.where(span == 0, torch.ones_like(span), span)
    stretched = (images.double() * scale - low * scale).trunc().clamp(0, 255).to(torch.uint8)
    return torch.where(span == 0, images, stretched)


def equalize(images: Tensor) -> Tensor:
    """Each channel's histogram made even, as PIL's table does it."""
    batch, height, width, _ = images.shape
    bytes_ = images.permute(0, 3, 1, 2).reshape(batch * 3, height * width).long()
    counts = torch.zeros(batch * 3, 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(1, bytes_, torch.ones_like(bytes_))
    highest = bytes_.amax(1, keepdim=True)
    step = (height * width - counts.gather(1, highest)) // 255
    table = (step // 2 + counts.cumsum(1) - counts) // step.clamp(min=1)
    same = torch.arange(256, device=images.device).expand_as(table)
    table = torch.where(step == 0, same, table.clamp(max=255))
    return table.gather(1, bytes_).view(batch, 3, height, width).permute(0, 2, 3, 1).to(torch.uint8).contiguous()
