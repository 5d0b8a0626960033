"""facex's own operators: the Python face of `csrc` with fake kernels, autograd and a plain PyTorch reference beside
each.

`import facex.ops` works without the compiled extension; the first call that needs it raises `ExtensionError` with what
to do, or takes the generic path where `impl="auto"` allows it. `facex.ops.extension()` is the compiled module.
"""

from facex.ops.cosine_logsumexp import cosine_logsumexp, cosine_logsumexp_backward, cosine_logsumexp_forward
from facex.ops.extension import extension, extension_available
from facex.ops.rules import Rule
from facex.ops.target_cosine import target_cosine

__all__ = [
    "Rule",
    "cosine_logsumexp",
    "cosine_logsumexp_backward",
    "cosine_logsumexp_forward",
    "extension",
    "extension_available",
    "target_cosine",
]
