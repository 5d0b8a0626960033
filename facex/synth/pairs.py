"""Verification pairs of rendered people: balanced, and no identity in two folds."""

from __future__ import annotations

from dataclasses import dataclass

from facex.errors import ConfigError
from facex.synth.randoms import PAIRS, Draws

FOLDS = 10
FIRST_HELD_OUT = 1_000_000  # identities from here on are for verification: training numbers its people from 0


@dataclass(frozen=True)
class Pair:
    """Two pictures, each (identity, index), and whether they show one person."""

    first: tuple[int, int]
    second: tuple[int, int]
    same: bool


def make_pairs(seed: int, pairs: int = 600, identities: int = 160) -> list[Pair]:
    """`pairs` pairs of `identities` held-out people in ten folds that follow one another, as `.bin` sets have them.

    The people of a fold appear in no other fold; half of the pairs of a fold are genuine; no picture comes twice.
    """
    if pairs < 2 * FOLDS or pairs % (2 * FOLDS):
        raise ConfigError(f"pairs must be a multiple of {2 * FOLDS} (ten folds, half of each genuine), not {pairs}")
    if identities < 2 * FOLDS:
        raise ConfigError(f"ten folds of disjoint people need at least {2 * FOLDS} identities, not {identities}")
    chosen = []
    for fold in range(FOLDS):
        people = [FIRST_HELD_OUT + i for i in range(fold, identities, FOLDS)]
        chosen += _fold(seed, fold, people, pairs // FOLDS)
    return chosen


def _fold(seed: int, fold: int, people: list[int], count: int) -> list[Pair]:
    d = Draws(seed, PAIRS, fold)
    order = [people[int(i)] for i in d.rng.permutation(len(people))]
    used = dict.fromkeys(people, 0)

    def picture(person: int) -> tuple[int, int]:
        used[person] += 1
        return person, used[person] - 1

    out = []
    for k in range(count // 2):
        person = order[k % len(order)]
        out.append(Pair(picture(person), picture(person), True))
        step = 1 + (k // len(order) + int(d.uniform(0, len(order) - 1))) % (len(order) - 1)
        other = order[(k + step) % len(order)]
        out.append(Pair(picture(person), picture(other), False))
    return out
