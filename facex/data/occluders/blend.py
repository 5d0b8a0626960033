"""Hands and textured shapes blended over a face with soft edges.

After "Delving into High-Quality Synthetic Face Occlusion Segmentation Datasets" (Voo, Jiang, Loy, CVPR workshops 2022):
half the face's area to all of it, pointing to the middle, eroded and blurred along the edge. A pixel counts as occluded
where at least half of it is covered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from facex.data.occluders.art import smooth_shape
from facex.data.occluders.assets import Assets, builtin_assets, check_assets
from facex.data.occluders.base import Occluder

FACE = 0.55  # of an aligned picture's area
_HAND = 1.25  # height of a hand without its arm, in widths of its picture
_BLUR = (3, 3)
_NORMAL_LIGHT = 118.0  # mean grey of a well-lit face


def blend(image: np.ndarray, mask: np.ndarray, colors: np.ndarray, alpha: np.ndarray) -> None:
    """Mix `colors` uint8 RGB [H, W, 3] over `image` in place by `alpha` uint8 [H, W]; mask 255 from one half on."""
    if image.ndim == 2:
        colors = cv2.cvtColor(colors, cv2.COLOR_RGB2GRAY)
    share = alpha.astype(np.float32) * np.float32(1 / 255)
    np.copyto(image, cv2.blendLinear(image, colors, 1 - share, share))
    mask[alpha >= 128] = 255


def bleed(asset: np.ndarray) -> np.ndarray:
    """RGBA whose transparent pixels take the colours of the nearest opaque ones, so that resampling darkens no edge."""
    alpha = asset[..., 3:].astype(np.float32)
    near = cv2.GaussianBlur(asset[..., :3] * alpha, (0, 0), 4)
    weight = cv2.GaussianBlur(alpha[..., 0], (0, 0), 4)[..., None]
    colors = np.where(alpha > 0, asset[..., :3], near / np.maximum(weight, 1e-3))
    return np.concatenate([np.clip(colors, 0, 255).astype(np.uint8), asset[..., 3:]], -1)


class Hand(Occluder):
    """A hand whose fingers point to the middle of the picture, as bright as the face behind it.

    `assets`: RGBA pictures, fingers up, the hand in the upper part (as high as 1.25 widths; below it the arm); unset:
    the built-in hands.
    """

    name = "hand"

    def __init__(self, assets: Assets | Sequence[Assets] | None = None) -> None:
        lists = [builtin_assets("hand")] if assets is None else check_assets(assets, self.name)
        sharp = [bleed(asset) for each in lists for asset in each]
        self.assets = [[asset, cv2.pyrDown(asset), cv2.pyrDown(cv2.pyrDown(asset))] for asset in sharp]
        """Of each asset: itself, at half and at a quarter of its size."""

    def cover(self, image: np.ndarray, mask: np.ndarray, rng: np.random.RandomState) -> None:
        """See the class. Draws: asset, share of the face's area, centre x and y, turn."""
        height, width = mask.shape
        levels = self.assets[rng.randint(0, len(self.assets))]
        share = rng.uniform(0.5, 1.0)
        cx, cy = width * rng.random_sample(), height * rng.random_sample()
        turn = rng.uniform(-0.5, 0.5)
        tall, wide = levels[0].shape[:2]
        scale = math.sqrt(share * FACE * height * width / (wide * min(tall, _HAND * wide)))
        level = 0 if scale > 0.7 else 1 if scale > 0.35 else 2
        asset = levels[level]
        scale *= tall / asset.shape[0]
        angle = math.atan2(width / 2 - cx, cy - height / 2) + turn  # of "up" in the asset to the middle of the picture
        c, s = scale * math.cos(angle), scale * math.sin(angle)
        x, y = asset.shape[1] / 2, min(asset.shape[0], _HAND * asset.shape[1]) / 2  # the middle of the hand
        matrix = np.array([(c, -s, cx - c * x + s * y), (s, c, cy - s * x - c * y)])
        seen = cv2.warpAffine(asset, matrix, (width, height), flags=cv2.INTER_LINEAR)
        alpha = cv2.blur(cv2.erode(seen[..., 3], np.ones((3, 3), np.uint8)), _BLUR)
        gain = min(
            max(float(image[height // 3 : -height // 3, width // 3 : -width // 3].mean()) / _NORMAL_LIGHT, 0.4), 1.25
        )
        blend(image, mask, cv2.convertScaleAbs(seen[..., :3], alpha=gain), alpha)


class Texture(Occluder):
    """A random smooth shape of 0.1..0.4 of the picture's area, cut from a texture.

    `assets`: RGBA pictures whose colours are used; unset: the built-in textures.
    """

    name = "texture"

    def __init__(self, assets: Assets | Sequence[Assets] | None = None) -> None:
        lists = [builtin_assets("texture")] if assets is None else check_assets(assets, self.name)
        self.assets = [np.ascontiguousarray(asset[..., :3]) for each in lists for asset in each]

    def cover(self, image: np.ndarray, mask: np.ndarray, rng: np.random.RandomState) -> None:
        """See the class. Draws: texture, its scale, turn and place, area, centre x and y, outline."""
        height, width = mask.shape
        texture = self.assets[rng.randint(0, len(self.assets))]
        scale, turn = rng.uniform(0.5, 1.2) * width / texture.shape[1], rng.uniform(0, 2 * math.pi)
        dx, dy = rng.uniform(-width, width), rng.uniform(-height, height)
        radius = math.sqrt(rng.uniform(0.1, 0.4) * height * width / math.pi)
        cx, cy = width * rng.random_sample(), height * rng.random_sample()
        outline = smooth_shape(rng, cx, cy, radius)
        c, s = scale * math.cos(turn), scale * math.sin(turn)
        matrix = np.array([(c, -s, dx), (s, c, dy)])
        colors = cv2.warpAffine(texture, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        alpha = np.zeros_like(mask)
        cv2.fillPoly(alpha, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        blend(image, mask, colors, cv2.blur(alpha, (3, 3)))
