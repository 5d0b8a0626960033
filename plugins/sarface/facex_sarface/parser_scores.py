"""How well label maps agree: intersection over union of each class, and its mean."""

from __future__ import annotations

from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from facex_sarface.parser_training import IGNORE
from facex_sarface.regions import LABELS


class Confusion:
    """Counts of pixels by true and found class, int64 [classes, classes]; pixels whose truth is 255 do not count."""

    def __init__(self, classes: int = len(LABELS)) -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.int64)
        self.pictures = 0
        self.confidence: dict[str, float] = {}  # of a parser, by its input: see LoadedParser.confidence

    def add(self, truth: Tensor, found: Tensor) -> None:
        """Count label maps uint8 [B, H, W], 0..classes - 1 (truth: or 255)."""
        if truth.shape != found.shape:
            raise ValueError(f"label maps of {tuple(truth.shape)} and {tuple(found.shape)}")
        classes, known = len(self.counts), truth != IGNORE
        pairs = truth[known].long() * classes + found[known].long()
        self.counts += torch.bincount(pairs.cpu(), minlength=classes * classes).view(classes, classes)
        self.pictures += len(truth)

    def iou(self) -> Tensor:
        """Intersection over union of each class, float64 [classes]; NaN for one that is neither there nor found."""
        both = self.counts.diagonal().double()
        return both / (self.counts.sum(0) + self.counts.sum(1) - both)

    def scores(self) -> dict[str, Any]:
        """Plain numbers: pictures, pixel_accuracy, mean_iou (over the classes that the truth shows), and of each class its
        pixels, iou and recall (None where the truth does not show it); `confidence` where a parser was asked."""
        truth, iou = self.counts.sum(1), self.iou()
        shown = truth > 0
        recall = self.counts.diagonal().double() / truth
        total = int(truth.sum())
        per_class = [
            {
                "class": k,
                "name": LABELS[k],
                "pixels": int(truth[k]),
                "iou": float(iou[k]) if shown[k] else None,
                "recall": float(recall[k]) if shown[k] else None,
            }
            for k in range(len(truth))
        ]
        return {
            "pictures": self.pictures,
            "pixels": total,
            "pixel_accuracy": float(self.counts.diagonal().sum()) / total if total else None,
            "mean_iou": float(iou[shown].mean()) if total else None,
            "classes": per_class,
            **({"confidence": self.confidence} if self.confidence else {}),
        }


def scores_table(scores: dict[str, Any], title: str) -> Table:
    """The scores as a table for the console; classes that the truth does not show are left out."""
    table = Table("class", "name", "pixels", "IoU", "recall", title=title)
    total = max(scores["pixels"], 1)
    for row in scores["classes"]:
        if row["iou"] is not None:
            share = f"{row['pixels'] / total:.2%}"
            table.add_row(str(row["class"]), row["name"], share, f"{row['iou']:.4f}", f"{row['recall']:.4f}")
    table.add_section()
    if scores["pixels"]:
        table.add_row(
            "", "mean IoU, pixel accuracy", "", f"{scores['mean_iou']:.4f}", f"{scores['pixel_accuracy']:.4f}"
        )
    else:
        table.add_row("", "no pixel is labelled")
    return table
