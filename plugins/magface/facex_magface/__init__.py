"""MagFace for facex: method, converter of official checkpoints, magnitude-range proposal."""

from facex_magface.method import MagFace

__all__ = ["MagFace"]
