"""Features aggregated with a mask in one pass over memory, and the same behind a folded batch norm and PReLU.

    m = act(a),    z = arith(y, m) (+ extra) (+ y)

is the tail of a feature-masking operator (MSML: Yuan et al., AAAI 2022): `y` the features, `a` the mask before its
activation, both of one shape. Plain PyTorch writes and reads every step; here each input is read and z written once, and
the backward pass computes m again and writes both gradients in one more pass. Numbers are stored in float16, bfloat16 or
float32 and computed in float32; float64 stays double.

With div, z has no bound as m goes to 0 (sigmoid: a far below 0; tanh: a at 0, where the sign changes too). `div_eps`
replaces m by sign(m) max(|m|, div_eps), with no gradient through m where that counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from facex.errors import ExtensionError
from facex.ops.extension import extension, has_kernel
from facex.ops.mask_aggregate_reference import ACTIVATIONS, ARITHS, reference, reference_folded

IMPLS = ("auto", "fused", "reference")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def mask_aggregate(
    y: Tensor,
    a: Tensor,
    *,
    activation: str,
    arith: str,
    skip: bool = True,
    extra: Tensor | None = None,
    div_eps: float = 0.0,
    impl: str = "auto",
) -> Tensor:
    """z, of y's shape, type and memory order; differentiable in `y`, `a` and `extra`.

    `activation` is one of `ACTIVATIONS`, `arith` one of `ARITHS`: y + m, y - m, y * m or y / m. `skip` adds y, `extra` a tensor
    of y's shape. `impl`: "fused" is the compiled operator (CPU and CUDA), "reference" plain PyTorch, "auto" the first that is
    there. Any dense memory order will do; where `a` and `extra` do not share y's, they are copied into it. Under autocast, types
    may be mixed, and the widest counts.

    Raises ValueError for options and shapes that do not fit, TypeError for types, ExtensionError where "fused" has no kernel.
    """
    check_options(activation, arith, div_eps)
    y, a, extra = _alike(("y", y), ("a", a), ("extra", extra))
    if _choose("mask_aggregate", impl, y) == "reference":
        return reference(y, a, extra, activation, arith, skip, div_eps)
    return torch.ops.facex.mask_aggregate(y, a, extra, activation, arith, skip, div_eps)


def mask_aggregate_folded(
    y: Tensor,
    h: Tensor,
    t: Tensor,
    scale: Tensor,
    shift: Tensor,
    slope: Tensor,
    *,
    activation: str,
    arith: str,
    skip: bool = True,
    extra: Tensor | None = None,
    div_eps: float = 0.0,
    impl: str = "auto",
) -> Tensor:
    """`mask_aggregate(y, a)` with a = PReLU(scale_c * h + shift_c + t), for inference: z of y's shape and type, no gradient.

    `y`, `h` (what a batch norm reads) and `t` (the residual) are [B, C, ...] of one type; `scale` and `shift` [C] are the batch
    norm's affine map, `slope` [C] or [1] the PReLU's. `a` is never stored. NCHW or channels last is kept; another memory order
    becomes contiguous.

    Raises ValueError for options and shapes that do not fit, TypeError for types, RuntimeError where a gradient would be
    needed, ExtensionError where "fused" has no kernel.
    """
    check_options(activation, arith, div_eps)
    y, h, t, extra = _alike(("y", y), ("h", h), ("t", t), ("extra", extra))
    _check_coefficients(y, scale, shift, slope)
    given = [tensor for tensor in (y, h, t, scale, shift, slope, extra) if tensor is not None]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        raise RuntimeError(
            "mask_aggregate_folded has no gradient, and one of its inputs requires one: call it under torch.no_grad(), or "
            "use batch norm, PReLU and mask_aggregate"
        )
    options = (activation, arith, skip, div_eps)
    if _choose("mask_aggregate_folded", impl, y) == "reference":
        return reference_folded(y, h, t, scale, shift, slope, extra, *options)
    return torch.ops.facex.mask_aggregate_folded(y, h, t, scale, shift, slope, extra, *options)


def check_options(activation: str, arith: str, div_eps: float = 0.0) -> None:
    """Raise ValueError for an activation, an arithmetic or a bound that there is not."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; it must be one of {', '.join(ACTIVATIONS)}")
    if arith not in ARITHS:
        raise ValueError(f"arith is {arith!r}; it must be one of {', '.join(ARITHS)}")
    if not 0.0 <= div_eps < 1.0:
        raise ValueError(f"div_eps is {div_eps}; it must be in [0, 1)")


def _alike(first: tuple[str, Tensor], *others: tuple[str, Tensor | None]) -> tuple[Tensor, ...]:
    """The named tensors, one type under autocast; anything else that differs is an error. None stays None."""
    name, y = first
    given = [(n, other) for n, other in others if other is not None]
    for n, other in given:
        if other.shape != y.shape:
            raise ValueError(f"{n} is {tuple(other.shape)}, {name} {tuple(y.shape)}; they must have one shape")
        if other.device != y.device:
            raise ValueError(f"{n} is on {other.device}, {name} on {y.device}")
    for n, tensor in (first, *given):
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{n} is {tensor.dtype}; it must be one of {', '.join(map(str, DTYPES))}")
    dtype = y.dtype
    for n, other in given:
        if other.dtype != y.dtype and not torch.is_autocast_enabled(y.device.type):
            raise TypeError(f"{n} is {other.dtype}, {name} {y.dtype}; they must have one type (outside autocast)")
        dtype = torch.promote_types(dtype, other.dtype)
    return tuple(None if tensor is None else tensor.to(dtype) for _, tensor in (first, *others))  # type: ignore[misc]


def _check_coefficients(y: Tensor, scale: Tensor, shift: Tensor, slope: Tensor) -> None:
    if y.dim() < 2:
        raise ValueError(f"y is {tuple(y.shape)}; expected [B, C, ...]")
    channels = y.shape[1]
    for name, tensor in (("scale", scale), ("shift", shift), ("slope", slope)):
        if tensor.numel() != channels and not (name == "slope" and tensor.numel() == 1):
            raise ValueError(f"{name} has {tensor.numel()} values; y has {channels} channels")
        if tensor.device != y.device:
            raise ValueError(f"{name} is on {tensor.device}, y on {y.device}")


def _choose(op: str, impl: str, y: Tensor) -> str:
    """The implementation that is meant: fused | reference."""
    if impl not in IMPLS:
        raise ValueError(f"impl is {impl!r}; it must be one of {', '.join(IMPLS)}")
    if impl == "reference":
        return impl
    if has_kernel(op, y.device.type):
        return "fused"
    if impl == "auto":
        return "reference"
    extension()  # says what is wrong with it, if that is the reason
    raise ExtensionError(f"facex._C was built without kernels for {y.device.type}: build it again, or use impl='auto'")
