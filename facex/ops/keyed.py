"""Random numbers as a pure function of a key and a place: the same on every device and any number of ranks.

int64 tensor operations alone, which are exact everywhere. The mixers are splitmix64's (Steele, Lea, Flood: Fast splittable
pseudorandom number generators, 2014) and murmur3's 32-bit finaliser.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MASK32 = 0xFFFFFFFF
GOLDEN = 0x9E3779B97F4A7C15


def signed64(value: int) -> int:
    """The int64 with the same bits as the unsigned `value`."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def mix64(z: Tensor) -> Tensor:
    """splitmix64's finaliser of every element of an int64 tensor, read as unsigned."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = _shift_xor(z, shift) * signed64(factor)
    return _shift_xor(z, 31)


def mix64_int(value: int) -> int:
    """`mix64` of one integer, as an int64."""
    return int(mix64(torch.tensor(signed64(value))))


def mix32(z: Tensor) -> Tensor:
    """murmur3's 32-bit finaliser of every element of an int64 tensor that holds 32-bit numbers."""
    z = ((z ^ (z >> 16)) * 0x85EBCA6B) & MASK32
    z = ((z ^ (z >> 13)) * 0xC2B2AE35) & MASK32
    return z ^ (z >> 16)


def normal(key: int, step: Tensor, index: Tensor) -> Tensor:
    """Standard normal numbers float64, one for each of `index` int64 [n] (Box-Muller); `step` int64 [1] counts draws."""
    base = mix64(step * signed64(GOLDEN) + signed64(key))
    first = mix64(base + 2 * index)
    second = mix64(base + 2 * index + 1)
    radius = (-2 * (1 - _unit(first)).log()).sqrt()
    return radius * (2 * math.pi * _unit(second)).cos()


def _unit(z: Tensor) -> Tensor:
    """The upper 53 bits as a float64 in [0, 1)."""
    return ((z >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def _shift_xor(z: Tensor, bits: int) -> Tensor:
    # torch's >> keeps the sign; the mask makes it the unsigned shift
    return z ^ ((z >> bits) & ((1 << (64 - bits)) - 1))
