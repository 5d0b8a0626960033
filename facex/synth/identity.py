"""Who a face is: everything that stays the same from picture to picture of one person.

Lengths are pixels of the 112 px ArcFace template (the eyes are 35 px apart), x to the image's right from the middle of
the face, y downwards as in the template. Colours are linear RGB.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from facex.synth.randoms import IDENTITY, Draws, linear

HAIR_STYLES = ("bald", "buzz", "short", "side_part", "fringe", "tied", "bob", "long", "curly", "receding")
_SKIN = np.stack([linear(246, 206, 182), linear(232, 182, 150), linear(206, 150, 110), linear(164, 108, 72), linear(112, 70, 46), linear(74, 46, 34)])  # fmt: skip
_HAIR = {
    "black": linear(28, 24, 24),
    "dark": linear(52, 36, 28),
    "brown": linear(92, 62, 40),
    "auburn": linear(120, 58, 34),
    "red": linear(168, 84, 40),
    "blond": linear(196, 158, 96),
    "fair": linear(224, 200, 150),
    "grey": linear(150, 146, 142),
    "white": linear(216, 214, 210),
}
_EYES = {
    "black": linear(40, 28, 22),
    "brown": linear(92, 58, 34),
    "hazel": linear(120, 94, 48),
    "green": linear(92, 118, 82),
    "blue": linear(92, 130, 168),
    "grey": linear(124, 136, 142),
}


@dataclass
class Skin:
    """Colour and marks of the skin; `moles` and `freckles` are rows (x, y, radius, darkness) on the face."""

    tone: np.ndarray
    blush: float
    unevenness: np.ndarray  # [6, 8] field of tone variation, -1..1
    moles: np.ndarray
    freckles: np.ndarray
    folds: float
    eye_bags: float
    wrinkles: float
    stubble: float
    gloss: float


@dataclass
class Glasses:
    """Frames that this person wears."""

    width: float
    height: float
    squareness: float
    thickness: float
    color: np.ndarray


@dataclass
class Hair:
    """Style and colour of the hair; the values are explained where the hair is drawn (`hair.py`)."""

    style: str
    color: np.ndarray
    line: float  # y of the hairline in the middle of the forehead
    recess: float  # how far the temples go up
    part: float  # where the parting is, -1..1
    volume: float
    length: float  # y at which long hair ends
    cover: float  # share of the face's half width that is free of hair
    strands: float
    curl: float
    gloss: float
    beard: str
    beard_density: float


@dataclass
class Identity:
    """One person."""

    number: int
    outline: np.ndarray  # [9, 2] right half of the head's contour from the crown to the chin
    profile: np.ndarray  # [10, 2] (y, depth) of the middle line without nose and lips
    bumps: np.ndarray  # [n, 5] x, y, sx, sy, height: nose, brows, cheeks, lips, chin
    eye: dict[str, float]
    brow: dict[str, float]
    nose: dict[str, float]
    mouth: dict[str, float]
    ear: dict[str, float]
    skin: Skin
    hair: Hair
    eye_color: np.ndarray
    lip_color: np.ndarray
    glasses: Glasses | None
    sunglasses: Glasses
    neck: float
    scarf_color: np.ndarray = field(default_factory=lambda: linear(120, 40, 40))


def make_identity(seed: int, number: int) -> Identity:
    """The person with this number: a pure function of (seed, number)."""
    d = Draws(seed, IDENTITY, number)
    feminine = min(max(d.choice((0.22, 0.78)) + d.normal(0, 0.14), 0.0), 1.0)
    age = d.uniform() ** 1.5
    width, chin = d.normal(1.0, 0.06) - 0.03 * feminine, d.normal(111.0, 3.2) - 1.5 * feminine
    nose, mouth, eye = _nose(d, feminine), _mouth(d, feminine), _eye(d, feminine, age)
    melanin = d.uniform() ** 1.3 * (len(_SKIN) - 1)
    skin = _skin(d, melanin, feminine, age)
    hair = _hair(d, melanin, feminine, age)
    lip = skin.tone * np.float32(0.75) * linear(255, 196, 190) * d.uniform(0.8, 1.15)
    if d.chance(0.45 * feminine):
        lip = d.choice((linear(176, 40, 52), linear(196, 84, 92), linear(150, 50, 80), linear(190, 110, 96)))
    eyes = ("black", "brown", "hazel", "green", "blue", "grey")
    weights = (2, 3, 1.5, 1.2, 2.5, 1) if melanin < 2 else (4, 4, 0.6, 0.15, 0.1, 0.1)
    return Identity(
        number=number,
        outline=_outline(d, width, chin, feminine),
        profile=_profile(d, chin),
        bumps=_bumps(d, nose, mouth, eye, chin, feminine),
        eye=eye,
        brow=_brow(d, feminine),
        nose=nose,
        mouth=mouth,
        ear={"y": d.normal(60, 2), "half": d.normal(11.5, 1.7), "out": max(1.5, d.normal(5.5, 1.8))},
        skin=skin,
        hair=hair,
        eye_color=_EYES[d.choice(eyes, weights)] * d.uniform(0.75, 1.3),
        lip_color=lip.astype(np.float32),
        glasses=_glasses(d) if d.chance(0.22) else None,
        sunglasses=Glasses(d.normal(14, 1), d.normal(10.5, 1.2), d.uniform(2, 4), 1.2, linear(30, 30, 32)),
        neck=d.normal(25 - 5 * feminine, 2),
        scarf_color=np.asarray([d.uniform(0.02, 0.6) for _ in range(3)], np.float32),
    )


def _outline(d: Draws, width: float, chin: float, feminine: float) -> np.ndarray:
    crown = d.normal(-6, 2)
    forehead, temple = d.normal(27, 1.8) * width, d.normal(33.5, 1.3) * width
    cheek, jaw = d.normal(34.5, 1.6) * width, d.normal(29.5 - 2.5 * feminine, 2.6) * width
    corner = d.normal(16.5 - 3.5 * feminine, 3.0) * width
    jaw_y = d.normal(86, 2)
    return np.array(
        [
            (0, crown),
            (0.62 * forehead, crown + 4.5),
            (forehead, crown + 17),
            (temple, 37),
            (cheek, 60),
            (jaw, jaw_y),
            (corner, chin - 7.5),
            (0.55 * corner, chin - 1.4),
            (0, chin),
        ],
        np.float64,
    )


def _profile(d: Draws, chin: float) -> np.ndarray:
    slope, depth = d.normal(0, 2), d.normal(43, 2)
    points: list[tuple[float, float]] = [
        (-8, 8),
        (0, 27 - slope),
        (14, 37 - slope),
        (30, 41 - 0.5 * slope),
        (44, 42.5),
        (54, 40.5),
        (72, 43),
    ]
    points += [(88, 44), (98, 42.5), (chin, 36 + d.normal(0, 2))]
    profile = np.array(points, np.float64)
    profile[:, 1] *= depth / 43
    return profile


def _eye(d: Draws, feminine: float, age: float) -> dict[str, float]:
    return {
        "x": d.normal(17.6, 0.9),
        "y": d.normal(51.6, 0.5),
        "half": d.normal(6.2 + 0.4 * feminine, 0.75),
        "upper": max(1.6, d.normal(3.3 + 0.5 * feminine - 0.4 * age, 0.75)),
        "lower": max(1.0, d.normal(1.9, 0.4)),
        "tilt": d.normal(0.06, 0.11),
        "skew": d.normal(1.0, 0.18),
        "iris": d.normal(3.35, 0.2),
        "crease": max(0.0, d.normal(1.8, 1.1)),
        "lash": d.uniform(0.35, 0.7) + 0.6 * feminine * d.uniform(),
        "set": d.normal(-3.2, 1.2),
    }


def _brow(d: Draws, feminine: float) -> dict[str, float]:
    return {
        "gap": max(3.0, d.normal(8.0, 1.6)),
        "outer": d.normal(27.5, 1.5),
        "y": d.normal(41.3 - 0.6 * feminine, 1.5),
        "thickness": max(1.0, d.normal(3.6 - 1.2 * feminine, 0.95)),
        "arch": d.normal(2.2 + 0.6 * feminine, 1.2),
        "tilt": d.normal(0.0, 1.4),
        "density": d.uniform(0.5, 0.98),
        "tone": d.uniform(0.45, 1.0),
    }


def _nose(d: Draws, feminine: float) -> dict[str, float]:
    return {
        "tip": d.normal(71.7, 1.8),
        "bridge": max(1.8, d.normal(3.6 - 0.5 * feminine, 0.7)),
        "wing": d.normal(8.9 - 0.7 * feminine, 1.3),
        "base": max(4.2, d.normal(6.8, 1.0)),
        "height": d.normal(10.5, 2.2),
        "root": d.normal(4.5, 1.6),
        "hump": d.normal(0.0, 1.3),
        "bulb": max(2.6, d.normal(4.4, 0.8)),
        "nostril": d.uniform(0.5, 1.2),
    }


def _mouth(d: Draws, feminine: float) -> dict[str, float]:
    return {
        "y": d.normal(92.2, 1.2),
        "half": d.normal(13.4, 1.6),
        "upper": max(1.2, d.normal(3.1 + 0.6 * feminine, 0.95)),
        "lower": max(1.8, d.normal(4.3 + 0.6 * feminine, 1.15)),
        "bow": max(0.0, d.normal(0.9, 0.6)),
        "corner": d.normal(0.0, 0.8),
        "peak": d.normal(3.2, 0.6),
    }


def _bumps(
    d: Draws, nose: dict[str, float], mouth: dict[str, float], eye: dict[str, float], chin: float, feminine: float
) -> np.ndarray:
    tip, height = nose["tip"], nose["height"]
    rows: list[tuple[float, ...]] = [
        (0, tip - 17, nose["bridge"], 7, nose["root"]),
        (0, tip - 9, nose["bridge"] + 0.6, 5, 0.45 * height + nose["hump"]),
        (0, tip - 0.5, nose["bulb"], 4.2, 0.85 * height),
        (0, mouth["y"] - 5.5, 8, 3, 1.0),
        (0, mouth["y"], 9, 3.6, 1.6 + 0.25 * (mouth["upper"] + mouth["lower"])),
        (0, mouth["y"] + mouth["lower"] + 3, 8, 2.4, -2.0),
        (0, chin - 5, d.normal(7, 1.4), 4, d.normal(3.0, 1.4)),
    ]
    pairs = [
        (0.72 * nose["wing"], tip + 2.0, 0.32 * nose["wing"], 2.8, 3.6),
        (eye["x"], eye["y"], 8, 5, eye["set"]),
        (eye["x"], eye["y"], 5, 3.6, 1.8),
        (13, 43, 9, 3, d.normal(1.8 - 1.2 * feminine, 0.9)),
        (23, 66, 7, 6, d.normal(2.2, 1.3)),
        (23, 82, 6, 8, d.normal(-1.5, 1.5)),
        (14, 82, 3, 6, -0.9),
    ]
    rows += [(s * x, y, sx, sy, a) for x, y, sx, sy, a in pairs for s in (-1, 1)]
    return np.array(rows, np.float64)


def _skin(d: Draws, melanin: float, feminine: float, age: float) -> Skin:
    low = min(int(melanin), len(_SKIN) - 2)
    tone = _SKIN[low] + (_SKIN[low + 1] - _SKIN[low]) * np.float32(melanin - low)
    tone = tone * np.asarray([d.normal(1, 0.05), d.normal(1, 0.03), d.normal(1, 0.07)], np.float32)
    moles = np.array(
        [
            (d.uniform(-26, 26), d.uniform(24, 106), d.uniform(0.6, 1.3), d.uniform(0.2, 0.6))
            for _ in range(int(d.choice((0, 0, 1, 2, 3))))
        ],
        np.float32,
    ).reshape(-1, 4)
    count = int(d.choice((0, 0, 0, 18, 36))) if melanin < 2.5 else 0
    freckles = np.array(
        [(d.normal(0, 14), d.normal(66, 7), d.uniform(0.4, 0.75), d.uniform(0.68, 0.9)) for _ in range(count)],
        np.float32,
    ).reshape(-1, 4)
    return Skin(
        tone=np.clip(tone, 0.02, 0.95).astype(np.float32),
        blush=d.uniform(0, 0.35),
        unevenness=d.rng.uniform(-1, 1, (6, 8)).astype(np.float32),
        moles=moles,
        freckles=freckles,
        folds=0.1 + 0.5 * age * d.uniform(),
        eye_bags=0.05 + 0.45 * age * d.uniform(),
        wrinkles=max(0.0, age - 0.35) * d.uniform(0.2, 0.9),
        stubble=d.uniform(0, 0.5) if feminine < 0.5 and d.chance(0.5) else 0.0,
        gloss=d.uniform(0.02, 0.14),
    )


def _hair(d: Draws, melanin: float, feminine: float, age: float) -> Hair:
    short = (1.0, 1.6, 3.2, 2.6, 1.0, 0.4, 0.2, 0.5, 1.0, 1.2)
    long = (0.05, 0.2, 0.7, 0.7, 2.0, 2.0, 2.4, 3.2, 1.2, 0.05)
    style = d.choice(HAIR_STYLES, [a + (b - a) * feminine for a, b in zip(short, long, strict=True)])
    names = list(_HAIR)
    weights = (2, 3, 3, 1, 0.8, 2, 1.2, 0.4, 0.1) if melanin < 2 else (6, 3, 0.8, 0.2, 0.05, 0.15, 0.02, 0.3, 0.1)
    name = d.choice(names, weights)
    if age > 0.55 and d.chance(0.7):
        name = d.choice(("grey", "white"))
    color = _HAIR[name] * np.float32(d.uniform(0.75, 1.3))
    beards = ("none", "moustache", "goatee", "full")
    beard = d.choice(beards, (4, 0.8, 1.0, 1.6)) if feminine < 0.45 else "none"
    return Hair(
        style=style,
        color=color.astype(np.float32),
        line=d.normal(15, 4) - (6 if style == "receding" else 0),
        recess=d.uniform(0, 7) + (7 if style == "receding" else 0),
        part=d.normal(0, 0.5),
        volume=max(0.5, d.normal(5, 2)) + (6 if style == "curly" else 0),
        length=d.normal(98, 8) if style == "bob" else d.normal(140, 10),
        cover=d.uniform(0.8, 1.02),
        strands=d.uniform(9, 26),
        curl=2.5 if style == "curly" else d.uniform(0, 0.9),
        gloss=d.uniform(0.3, 1.4),
        beard=beard,
        beard_density=d.uniform(0.5, 0.95),
    )


def _glasses(d: Draws) -> Glasses:
    color = d.choice(
        (linear(20, 20, 22), linear(70, 44, 28), linear(150, 140, 120), linear(120, 30, 36), linear(40, 60, 110))
    )
    return Glasses(d.normal(12.5, 1.2), d.normal(8.5, 1.3), d.uniform(2.0, 5.0), d.uniform(0.7, 1.9), color)
