"""facex's own operators: the Python face of `csrc` with fake kernels, autograd and a plain PyTorch reference beside
each.

`import facex.ops` works without the compiled extension; the first call that needs it raises `ExtensionError` with what
to do, or takes the generic path where `impl="auto"` allows it. `facex.ops.extension()` is the compiled module.
"""

from facex.ops.cosine_logsumexp import (
    cosine_logsumexp,
    cosine_logsumexp_backward,
    cosine_logsumexp_forward,
    cosine_logsumexp_step,
)
from facex.ops.dino_loss import dino_loss
from facex.ops.extension import extension, extension_available
from facex.ops.mask_aggregate import mask_aggregate, mask_aggregate_folded
from facex.ops.patch_sampling import sample_patches
from facex.ops.region_conv import region_conv
from facex.ops.region_mask import region_mask
from facex.ops.region_pool import region_pool
from facex.ops.rules import Rule
from facex.ops.step import RowStep
from facex.ops.target_cosine import target_cosine

__all__ = [
    "RowStep",
    "Rule",
    "cosine_logsumexp",
    "cosine_logsumexp_backward",
    "cosine_logsumexp_forward",
    "cosine_logsumexp_step",
    "dino_loss",
    "extension",
    "extension_available",
    "mask_aggregate",
    "mask_aggregate_folded",
    "region_conv",
    "region_mask",
    "region_pool",
    "sample_patches",
    "target_cosine",
]
