"""The compiled part of the renderer (`csrc/synth`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from facex.ops.extension import extension


def render_layers(**scene: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a scene that `facex.synth.renderer` planned: image uint8 RGB, parsing uint8, occlusion uint8. Raises
    `ExtensionError` when facex is not built."""
    image, parsing, occlusion = extension().render_layers(**scene)
    return image, parsing, occlusion
