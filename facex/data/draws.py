"""Random numbers as a pure function of where a sample stands, so that ranks, micro-batches and resumes never change
them.

A value is keyed by (seed, batches consumed, position of the sample in the global batch, stream name, element number)
and computed with the splitmix64 mixer (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014) in
int64 tensor operations. int64 arithmetic is exact everywhere, so a CPU and a GPU draw the same uniform numbers.
"""

from __future__ import annotations

import functools
import hashlib
import math

import torch
from torch import Tensor

_MASK64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The int64 with the same bits as the unsigned `value`."""
    value &= _MASK64
    return value - (1 << 64) if value >> 63 else value


def mix64(value: int) -> int:
    """splitmix64's finaliser of one Python integer: a bijection of 0..2**64-1."""
    value &= _MASK64
    value = ((value ^ (value >> 30)) * _MIX1) & _MASK64
    value = ((value ^ (value >> 27)) * _MIX2) & _MASK64
    return value ^ (value >> 31)


def _shift_xor(z: Tensor, bits: int) -> Tensor:
    # torch's >> keeps the sign; the mask makes it the unsigned shift that the mixer needs
    return z ^ ((z >> bits) & ((1 << (64 - bits)) - 1))


def mix64_tensor(z: Tensor) -> Tensor:
    """`mix64` of every element of an int64 tensor (read as unsigned)."""
    z = _shift_xor(z, 30) * _signed(_MIX1)
    z = _shift_xor(z, 27) * _signed(_MIX2)
    return _shift_xor(z, 31)


@functools.lru_cache(maxsize=4096)
def stream_hash(name: str) -> int:
    """64 bits that stand for a stream name: the same on every machine and in every Python."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


class Draws:
    """The random numbers of one micro-batch.

    `position` int64 [b] is each sample's place in the global batch; `batch_number` counts the global batches consumed
    before this one since the run began. Numbers lie on the device of `position`.
    """

    def __init__(self, seed: int, batch_number: int, position: Tensor, prefix: str = "") -> None:
        self.seed = seed
        self.batch_number = batch_number
        self.position = position
        self.prefix = prefix

    def scoped(self, name: str) -> Draws:
        """The same numbers' source under a prefix, so that two users of one stream name stay independent."""
        return Draws(self.seed, self.batch_number, self.position, f"{self.prefix}{name}/")

    def bits(self, stream: str, *shape: int) -> Tensor:
        """64 random bits an element, int64 [b, *shape]."""
        key = mix64(mix64(mix64(self.seed) + self.batch_number * _GOLDEN) ^ stream_hash(self.prefix + stream))
        rows = mix64_tensor(self.position.long() * _signed(_GOLDEN) + _signed(key))
        count = math.prod(shape)
        steps = (torch.arange(1, count + 1, device=rows.device) * _signed(_GOLDEN)).view(1, count)
        return mix64_tensor(rows.view(-1, 1) + steps).view(len(rows), *shape)

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """float32 [b, *shape] in [0, 1): the top 24 bits, every value exact in float32."""
        return self._top24(self.bits(stream, *shape)).float() * 2.0**-24

    def normal(self, stream: str, *shape: int) -> Tensor:
        """Standard normal float32 [b, *shape] (Box-Muller, computed in float64)."""
        first, second = self.bits(stream, *shape, 2).unbind(-1)
        radius = (-2.0 * ((self._top24(first).double() + 0.5) * 2.0**-24).log()).sqrt()
        return (radius * (2.0 * math.pi * 2.0**-24 * self._top24(second).double()).cos()).float()

    def integers(self, stream: str, low: int, high: int, *shape: int) -> Tensor:
        """int64 [b, *shape] in low..high-1, uniform (up to 1 part in 2**24 / (high - low))."""
        scaled = self._top24(self.bits(stream, *shape)) * (high - low)
        return low + (scaled >> 24)

    @staticmethod
    def _top24(bits: Tensor) -> Tensor:
        return (bits >> 40) & 0xFFFFFF
