"""A procedural face renderer: the embedded data set, with labels for every method."""

from facex.synth.layers import CLASS_NAMES, PARSING_SWAPS
from facex.synth.occluders import KINDS as OCCLUDERS
from facex.synth.renderer import TEMPLATE, Renderer, SynthFace

__all__ = ["CLASS_NAMES", "OCCLUDERS", "PARSING_SWAPS", "TEMPLATE", "Renderer", "SynthFace"]
