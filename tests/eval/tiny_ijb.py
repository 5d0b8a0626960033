"""A folder in the layout of IJB-C (or B), small: people drawn at random, turned and shrunk in their crops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from facex.inference.align import INSIGHTFACE_TEMPLATE

PEOPLE = 8
CROP = (150, 140)  # height, width


@dataclass
class TinyIjb:
    """What was written: `aligned` uint8 [faces, 112, 112, 3] RGB are the crops turned back by the matrices that turned
    them; the lists as arrays."""

    folder: Path
    aligned: np.ndarray
    templates: np.ndarray
    media: np.ndarray
    scores: np.ndarray
    first: np.ndarray
    second: np.ndarray
    issame: np.ndarray
    galleries: list[np.ndarray]  # templates
    probes: np.ndarray

    @staticmethod
    def person(template: np.ndarray) -> np.ndarray:
        """Whom a template shows."""
        return template // 10


def make_ijb(folder: Path, target: str = "IJBC", seed: int = 0, search: bool = True) -> TinyIjb:
    """Templates 10 p, 10 p + 1, 10 p + 2 of person p; the first is in a gallery, the others are probes. Every template
    is compared with every other."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 226, (PEOPLE, 7, 7, 3))
    (folder / "meta").mkdir(parents=True)
    (folder / "loose_crop").mkdir()
    ids = np.array([10 * p + t for p in range(1, PEOPLE + 1) for t in range(3)])
    rows, aligned = [], []
    for template in ids.tolist():
        for medium in range(int(rng.integers(1, 3))):
            for _ in range(int(rng.integers(1, 3))):
                face = np.clip(coarse[template // 10 - 1] + rng.integers(-150, 151, (7, 7, 3)), 0, 255)
                large = cv2.resize(face.astype(np.uint8), (112, 112), interpolation=cv2.INTER_CUBIC)
                matrix = turned(rng)
                crop = cv2.warpAffine(large, matrix, CROP[::-1])
                points = (INSIGHTFACE_TEMPLATE @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
                rows.append((f"{len(rows) + 1}.png", template, 100 * template + medium, points, rng.uniform(0.4, 1)))
                cv2.imwrite(str(folder / "loose_crop" / rows[-1][0]), crop[..., ::-1])
                back = cv2.invertAffineTransform(matrix)
                aligned.append(cv2.warpAffine(crop, back, (112, 112)))
    i, j = np.triu_indices(len(ids), 1)
    made = TinyIjb(
        folder, np.array(aligned), *(np.array([row[k] for row in rows]) for k in (1, 2, 4)),
        ids[i], ids[j], ids[i] // 10 == ids[j] // 10,
        [ids[(ids % 10 == 0) & (ids // 10 % 2 == half)] for half in (0, 1)], ids[ids % 10 > 0],
    )  # fmt: skip
    _write(made, target.lower(), rows, search)
    return made


def turned(rng: np.random.Generator) -> np.ndarray:
    """A similarity from an aligned face into a crop, float64 [2, 3]."""
    angle, scale = rng.uniform(-0.4, 0.4), rng.uniform(0.8, 1.1)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([linear, np.array([70, 75]) - linear @ np.array([56, 56])])


def _write(made: TinyIjb, prefix: str, rows: list[tuple], search: bool) -> None:
    meta = made.folder / "meta"
    (meta / f"{prefix}_face_tid_mid.txt").write_text("".join(f"{n} {t} {m}\n" for n, t, m, _, _ in rows))
    points = [f"{n} {' '.join(f'{v:.9g}' for v in p.ravel())} {s:.17g}\n" for n, _, _, p, s in rows]
    (meta / f"{prefix}_name_5pts_score.txt").write_text("".join(points))
    pairs = zip(made.first, made.second, made.issame, strict=True)
    (meta / f"{prefix}_template_pair_label.txt").write_text("".join(f"{a} {b} {int(same)}\n" for a, b, same in pairs))
    if not search:
        return
    names = ("gallery_G1", "gallery_G2") if prefix == "ijbc" else ("gallery_S1", "gallery_S2")
    for name, listed in zip((*names, "probe_mixed"), (*made.galleries, made.probes), strict=True):
        text = "TEMPLATE_ID,SUBJECT_ID,FILENAME\n" + "".join(f"{t},{t // 10},x.png\n" for t in listed)
        (meta / f"{prefix}_1N_{name}.csv").write_text(text)
