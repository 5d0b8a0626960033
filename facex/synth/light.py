"""Light and camera of one picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from facex.synth.randoms import CAMERA, LIGHT, Draws

TONE_STEPS = 512
_ROLL_OFF = 1.0 - np.exp(-1.6 * np.linspace(0.0, 2.0, TONE_STEPS))  # highlights fade out instead of clipping


@dataclass
class Lighting:
    """`values`: the 15 numbers of `Light` in csrc/synth/surface.h; `direction` points from the face to the key light."""

    values: np.ndarray
    direction: np.ndarray
    hardness: float


def make_light(seed: int, identity: int, index: int, gloss: float) -> Lighting:
    """Key light from anywhere in front, ambient light of sky and ground, all of some colour temperature."""
    d = Draws(seed, LIGHT, identity, index)
    azimuth = d.choice((d.normal(0, 0.45), d.uniform(-1.45, 1.45)), (1, 1.4))
    elevation = d.normal(0.4, 0.4)
    direction = np.array([np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    ambient = d.uniform(0.14, 0.75)
    key = d.uniform(0.6, 1.25) * (1.2 - 0.75 * ambient)
    warm, cool = d.normal(0, 0.12), d.normal(0, 0.1)
    tint = d.normal(0, 0.05)
    key_rgb = key * np.array([1 + warm, 1 + tint, 1 - warm])
    sky_rgb = ambient * np.array([1 + cool, 1, 1 - cool])
    ground_rgb = sky_rgb * d.uniform(0.35, 0.9) * np.array([1.05, 1, 0.95])
    hardness = d.uniform()
    shape = (0.45 - 0.4 * hardness, gloss * d.uniform(0.3, 1.6), d.uniform(8, 28))
    values = np.concatenate([direction, key_rgb, sky_rgb, ground_rgb, shape]).astype(np.float32)
    return Lighting(values, direction, hardness)


@dataclass
class Shot:
    """Exposure, tone, blur, noise and compression of one picture."""

    values: np.ndarray  # the 7 numbers of `Camera` in csrc/synth/picture.h
    tone: np.ndarray  # grey level of linear values 0..2
    quality: int  # of the JPEG
    reduce: float  # the picture is taken this much smaller and enlarged again


def make_shot(seed: int, identity: int, index: int, brightness: float) -> Shot:
    """How the camera renders a face whose lit skin has linear luminance `brightness`: exposure is half automatic."""
    d = Draws(seed, CAMERA, identity, index)
    exposure = (0.34 / max(brightness, 0.02)) ** 0.62 * math.exp(d.normal(0.0, 0.24))
    cast = np.array([d.normal(1, 0.05), d.normal(1, 0.02), d.normal(1, 0.07)])
    saturation = d.choice((d.uniform(0.75, 1.3), 0.0), (30, 1))
    soft = d.choice((d.uniform(0.2, 0.6), d.uniform(0.5, 1.0)), (4, 1))
    blur = (soft, soft)
    if d.chance(0.08):
        blur = (soft + d.uniform(0.6, 1.4), soft) if d.chance(0.6) else (soft, soft + d.uniform(0.6, 1.4))
    noise = d.choice((d.uniform(0.5, 2.5), d.uniform(2.5, 6.5)), (4, 1))
    values = np.array([*(exposure * cast), saturation, *blur, noise], np.float32)
    gamma, black, contrast = d.normal(2.2, 0.2), d.uniform(-0.03, 0.06), d.normal(1.0, 0.16)
    y = _ROLL_OFF ** (1.0 / gamma)
    y = 0.5 + contrast * (y - 0.5) + black
    reduce = d.choice((1.0, d.uniform(1.4, 2.6)), (9, 1))
    return Shot(values, np.clip(255.0 * y, 0.0, 255.0).astype(np.float32), int(d.choice((d.uniform(72, 96), d.uniform(28, 72)), (2, 1))), reduce)  # fmt: skip
