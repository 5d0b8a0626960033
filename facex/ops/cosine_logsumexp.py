"""The part of a margin softmax that sees B x C: a logsumexp over the classes that are not a sample's own.

    neg_i = logsumexp over j not in excluded_i of scale * g(<x_i, w_j / |w_j|>) + bias_j

No form except `impl="reference"` stores anything of size B x C: classes are walked in chunks, and the backward pass
computes each chunk again. `impl`: "fused" is the compiled operator (CPU and CUDA), "generic" the same walk in Python
(any rule, any device), "reference" plain PyTorch, "auto" the first that can do what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from facex.errors import ExtensionError
from facex.ops import generic, reference
from facex.ops.extension import extension, has_kernel
from facex.ops.options import Options, accumulation_dtype, make_options
from facex.ops.rules import Rule
from facex.ops.step import RowStep, update_rows

IMPLS = ("auto", "fused", "generic", "reference")


def _choose(impl: str, rule: Rule, x: Tensor) -> str:
    """The implementation that is meant: fused | generic | reference."""
    if impl not in IMPLS:
        raise ValueError(f"impl is {impl!r}; it must be one of {', '.join(IMPLS)}")
    if impl not in ("auto", "fused"):
        return impl
    kernel = not callable(rule) and has_kernel("cosine_logsumexp", x.device.type)
    if impl == "auto":
        return "fused" if kernel else "generic"
    if callable(rule):
        raise ValueError("impl='fused' has no kernel for a rule that is a function: use impl='auto' or 'generic'")
    if not kernel:
        extension()  # says what is wrong with it, if that is the reason
        raise ExtensionError(
            f"facex._C was built without kernels for {x.device.type}: build it again, or use impl='auto'"
        )
    return impl


def _fused_arguments(options: Options) -> tuple[float, str, bool, str]:
    assert isinstance(options.rule, str)
    return options.scale, options.rule, options.normalize, options.compute_dtype


def cosine_logsumexp(
    x: Tensor,
    weight: Tensor,
    *,
    scale: float,
    excluded: Tensor | None = None,
    rule: Rule = "plain",
    threshold: Tensor | float | None = None,
    hard_t: Tensor | float | None = None,
    normalize: bool = True,
    bias: Tensor | None = None,
    subset: Tensor | None = None,
    compute_dtype: str = "fp32",
    impl: str = "auto",
) -> Tensor:
    """neg [B] in fp32 (fp64 for fp64 inputs), differentiable in x, weight and bias; -inf where nothing is left.

    `x` [B, D] is expected normalised already; `weight` [C, D] is divided by its rows' lengths unless normalize=False.
    `excluded` [B, K] int64 names the columns that a row leaves out (-1: none). With `subset` [S] int64 only these rows
    of weight (and bias [C]) are columns, and `excluded` counts positions in it. `rule` is one of `rules.RULES` or a
    function; `threshold` a number, [1] or [B] (for "clamp" the bound on |cos|, 1 unless given), `hard_t` a number or a
    tensor with one. `compute_dtype` "bf16" or "fp16"
    rounds the operands of the matrix products; sums stay in fp32.
    """
    options = make_options(
        x,
        weight,
        scale=scale,
        excluded=excluded,
        rule=rule,
        threshold=threshold,
        hard_t=hard_t,
        normalize=normalize,
        bias=bias,
        subset=subset,
        compute_dtype=compute_dtype,
    )
    chosen = _choose(impl, rule, x)
    if chosen == "reference":
        return reference.cosine_logsumexp(x, weight, options)
    if chosen == "generic":
        return generic.GenericCosineLogsumexp.apply(x, weight, bias, options)
    return torch.ops.facex.cosine_logsumexp(x, weight, *options.tensors(), *_fused_arguments(options))


@torch.no_grad()
def cosine_logsumexp_forward(
    x: Tensor,
    weight: Tensor,
    *,
    scale: float,
    excluded: Tensor | None = None,
    rule: Rule = "plain",
    threshold: Tensor | float | None = None,
    hard_t: Tensor | float | None = None,
    normalize: bool = True,
    bias: Tensor | None = None,
    subset: Tensor | None = None,
    compute_dtype: str = "fp32",
    impl: str = "auto",
) -> Tensor:
    """`cosine_logsumexp` without gradient: the first half of the sharded head."""
    return cosine_logsumexp(
        x,
        weight,
        scale=scale,
        excluded=excluded,
        rule=rule,
        threshold=threshold,
        hard_t=hard_t,
        normalize=normalize,
        bias=bias,
        subset=subset,
        compute_dtype=compute_dtype,
        impl=impl,
    )


@torch.no_grad()
def cosine_logsumexp_backward(
    x: Tensor,
    weight: Tensor,
    lse: Tensor,
    grad_neg: Tensor,
    excluded: Tensor | None = None,
    excluded_grad: Tensor | None = None,
    *,
    scale: float,
    rule: Rule = "plain",
    threshold: Tensor | float | None = None,
    hard_t: Tensor | float | None = None,
    normalize: bool = True,
    bias: Tensor | None = None,
    subset: Tensor | None = None,
    compute_dtype: str = "fp32",
    impl: str = "auto",
    accumulate_into: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(dx [B, D], dweight [C or S, D], dbias [C or S] or None) for upstream gradients grad_neg [B]: the sharded head's
    other half.

    p_ij = exp(logit_ij - lse_i), where `lse` [B] may be the neg over all shards: dx is then this shard's share, dweight
    complete for this shard's rows. `excluded_grad` [B, K] is the loss's gradient with respect to the raw cosine (dot
    product with normalize=False) at column excluded[i, k], folded into the same pass; entries with excluded -1 are
    ignored, equal columns add up. `accumulate_into` [C or S, D] takes the weight's gradient added to what it holds, and
    is returned as dweight.
    """
    options = make_options(
        x,
        weight,
        scale=scale,
        excluded=excluded,
        rule=rule,
        threshold=threshold,
        hard_t=hard_t,
        normalize=normalize,
        bias=bias,
        subset=subset,
        compute_dtype=compute_dtype,
    )
    if excluded_grad is not None and excluded is None:
        raise ValueError("excluded_grad is given without excluded")
    chosen = _choose(impl, rule, x)
    if chosen == "reference":
        return _reference_backward(x, weight, lse, grad_neg, excluded_grad, options, accumulate_into)
    if chosen == "generic":
        dx, rows, offsets = generic.backward(x, weight, lse, grad_neg, excluded_grad, options, accumulate_into)
        assert rows is not None
        return dx, rows, offsets
    tensors = (options.excluded, excluded_grad, options.threshold, options.hard_t, options.bias, options.subset)
    common = (x, weight, lse, grad_neg, *tensors, *_fused_arguments(options))
    if accumulate_into is None:
        dx, dweight, dbias = torch.ops.facex.cosine_logsumexp_backward(*common)
    else:
        dx, dbias = torch.ops.facex.cosine_logsumexp_backward_into(*common, accumulate_into)
        dweight = accumulate_into
    return dx, dweight, None if bias is None else dbias


@torch.no_grad()
def cosine_logsumexp_step(
    x: Tensor,
    weight: Tensor,
    lse: Tensor,
    grad_neg: Tensor,
    excluded: Tensor | None = None,
    excluded_grad: Tensor | None = None,
    *,
    moments: Sequence[Tensor],
    step: RowStep,
    scale: float,
    rule: Rule = "plain",
    threshold: Tensor | float | None = None,
    hard_t: Tensor | float | None = None,
    normalize: bool = True,
    bias: Tensor | None = None,
    compute_dtype: str = "fp32",
    impl: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """`cosine_logsumexp_backward` with an optimizer step in place of the weight's gradient: (dx, dbias).

    `weight` [C, D] (fp32, or fp64 as x) and `moments` (see `RowStep`; [C, D] each) are changed in place, chunk by chunk:
    a chunk's share of dx is taken from its old rows, its gradient is never seen by another chunk, and nothing of size
    C x D is made. The numbers are those of the gradient followed by `update_rows`, to rounding.
    """
    options = make_options(
        x,
        weight,
        scale=scale,
        excluded=excluded,
        rule=rule,
        threshold=threshold,
        hard_t=hard_t,
        normalize=normalize,
        bias=bias,
        subset=None,
        compute_dtype=compute_dtype,
    )
    if excluded_grad is not None and excluded is None:
        raise ValueError("excluded_grad is given without excluded")
    if weight.dtype != accumulation_dtype(x, weight):
        raise ValueError(f"the optimizer step needs weights in full precision, not {weight.dtype}")
    chosen = _choose(impl, rule, x) if x.shape[0] else "generic"

    def take(begin: int, end: int, gradient: Tensor) -> None:
        classes = torch.arange(begin, end, device=weight.device) + step.first_class
        update_rows(weight[begin:end], gradient, [m[begin:end] for m in moments], step, classes)

    if chosen == "reference":
        dx, dweight, dbias = _reference_backward(x, weight, lse, grad_neg, excluded_grad, options, None)
        take(0, weight.shape[0], dweight)
        return dx, dbias
    if chosen == "generic":
        dx, _, dbias = generic.backward(x, weight, lse, grad_neg, excluded_grad, options, take=take)
        return dx, dbias
    tensors = (options.excluded, excluded_grad, options.threshold, options.hard_t, options.bias)
    common = (x, weight, lse, grad_neg, *tensors, *_fused_arguments(options))
    dx, dbias = torch.ops.facex.cosine_logsumexp_step(*common, list(moments), *step.arguments())
    return dx, None if bias is None else dbias


def _reference_backward(
    x: Tensor,
    weight: Tensor,
    lse: Tensor,
    grad_neg: Tensor,
    excluded_grad: Tensor | None,
    options: Options,
    accumulate_into: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same by autograd over the stored logits: neg' = logsumexp over this shard, d loss = exp(neg' - lse) * grad *
    d neg'."""
    rows = weight if options.subset is None else weight[options.subset]
    bias = options.bias if options.bias is None or options.subset is None else options.bias[options.subset]
    dtype = accumulation_dtype(x, weight)
    leaves = [t.detach().to(dtype).requires_grad_() for t in (x, rows, *(() if bias is None else (bias,)))]
    local = Options(**{**vars(options), "subset": None, "bias": None if bias is None else leaves[2]})
    with torch.enable_grad():
        neg = reference.cosine_logsumexp(leaves[0], leaves[1], local)
        share = (neg.detach() - torch.where(lse == float("-inf"), float("inf"), lse)).exp() * grad_neg
        total = (torch.where(neg == float("-inf"), torch.zeros_like(neg), neg) * share).sum()
        if excluded_grad is not None:
            assert options.excluded is not None
            inside = (options.excluded >= 0) & (options.excluded < rows.shape[0])
            cosine = reference.cosines(leaves[0], leaves[1], local)
            chosen = cosine.gather(1, torch.where(inside, options.excluded, 0))
            total = total + (chosen * excluded_grad * inside).sum()
    gradients = torch.autograd.grad(total, leaves)
    dweight = gradients[1] if accumulate_into is None else accumulate_into.add_(gradients[1])
    return gradients[0], dweight, gradients[2] if bias is not None else None
