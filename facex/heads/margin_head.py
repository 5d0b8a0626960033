"""MarginHead: a classifier whose class centres are spread over the ranks, with its own optimizer."""

from __future__ import annotations

import math
import os
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.heads.base import Margin, require_choice
from facex.heads.collectives import GroupLike, Ranks
from facex.heads.fused import FusedStep
from facex.heads.gradients import GradientWindow
from facex.heads.labels import check_range, normalise_labels
from facex.heads.loss import rows_loss
from facex.heads.micro_step import begin_step, prepare_margin
from facex.heads.output import HeadOutput, reduce_rows
from facex.heads.sampler import ClassSampler
from facex.heads.scoring import best_other
from facex.heads.shard_optimizer import OptimizerOptions, ShardOptimizer
from facex.heads.sharded_softmax import Impl, Negatives, Precision, TargetCosine
from facex.heads.shards import Init, Shard, initialise
from facex.heads.smoothing import check_rule, smooth

LOSS_CAP = -math.log(1e-30)  # what an unlabelled row costs in the published partial FC: 69.0776


class MarginHead(nn.Module):
    """Class-sharded margin softmax with Partial FC, one code path for one rank and many.

    Args:
        margin: what happens to the target's logit.
        embedding_size, num_classes: D and C.
        group: the ranks that share the classes (see `Ranks`).
        sample_rate: share of a shard's classes that takes part at each micro-step; 1: all.
        init: ``normal`` N(0, 0.01^2), ``unit`` (uniform, unit length), ``xavier``; the same rows on any number of
            ranks.
        bias, normalize: normalize=False is a plain softmax s * <x, w> + b (b only with `bias`); use margin Softmax.
        ignore_unlabelled: rows without a label neither cost nor count; False: each costs 69.0776 and is pushed away
            from every class (published partial FC).
        loss_cap: cut the value of a row's loss here (not its gradient); the published partial FC has 69.0776.
        label_smoothing: share of the label that is spread evenly over all classes that take part; for margins that leave
            the other logits alone.
        skip_zero_norm: rows whose embedding is exactly zero count as unlabelled.
        precision: operands of the big matrix products; everything else is fp32.
        sparse_update: only classes that took part in a window are decayed and stepped (see OptimizerOptions).
        seed: of the initial weights and of the sampler; `sampler_seeds`: see ClassSampler.
        impl: ``fused`` runs the op, ``reference`` its plain PyTorch reference.
        official_norm_grad: MagFace's split FC loses the margin's gradient into the norm of a row whose class is on
            another rank; True reproduces that.
        official_grad_scale: MagFace's split FC gives the backbone 1/W of the gradient; True reproduces that.
        official_regulariser: JHMFR's gradient counts the regulariser once per rank (W times); True reproduces that.
        foreign_label: ``ignore``: only the rank that owns a row's class applies the margin. ``official``: JHMFR's MagFace
            and CurricularFace apply it on every other rank to the last class that takes part (see `foreign`).
        bias_correction: AdamW's, see OptimizerOptions; ``first`` is JHMFR's.
        fused_step: the backward pass takes the optimizer's step chunk by chunk, and the [C, D] gradient is never stored (see
            `fused`): build the optimizer first, and call `prepare_step(lr)` before a backward pass whose rate is new.
        dtype: of the master weights; float64 is for tests.
    """

    def __init__(
        self,
        margin: Margin,
        embedding_size: int,
        num_classes: int,
        *,
        group: GroupLike | Ranks = None,
        sample_rate: float = 1.0,
        init: Init = "normal",
        bias: bool = False,
        normalize: bool = True,
        ignore_unlabelled: bool = True,
        loss_cap: float | None = None,
        skip_zero_norm: bool = False,
        precision: Precision = "fp32",
        sparse_update: bool = False,
        seed: int = 0,
        sampler_seeds: Literal["shared", "per_rank"] = "shared",
        impl: Impl = "fused",
        official_norm_grad: bool = False,
        official_grad_scale: bool = False,
        official_regulariser: bool = False,
        foreign_label: Literal["ignore", "official"] = "ignore",
        bias_correction: Literal["step", "first"] = "step",
        label_smoothing: float = 0.0,
        fused_step: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if num_classes < 1 or embedding_size < 1:
            raise ConfigError(
                f"a head needs at least one class and one dimension, not {num_classes} x {embedding_size}"
            )
        if not 0 <= sample_rate <= 1:
            raise ConfigError(f"sample_rate must be in [0, 1], not {sample_rate}")
        if bias and normalize:
            raise ConfigError("a bias needs normalize=False: cosines have none")
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing must be in [0, 1), not {label_smoothing}")
        if fused_step and (sample_rate < 1 or label_smoothing):
            what = f"sample_rate {sample_rate:g}" if sample_rate < 1 else f"label_smoothing {label_smoothing:g}"
            raise ConfigError(
                f"fused_step works with all classes and hard labels, not with {what}: use fused_step=False"
            )
        require_choice("MarginHead", "foreign_label", foreign_label, ("ignore", "official"))
        require_choice("MarginHead", "bias_correction", bias_correction, ("step", "first"))
        self.margin, self.embedding_size, self.num_classes = margin, embedding_size, num_classes
        self.ranks = group if isinstance(group, Ranks) else Ranks(group)
        self.shard = Shard.of(num_classes, self.ranks.size, self.ranks.rank)
        self.sample_rate, self.normalize, self.sparse_update = sample_rate, normalize, sparse_update
        self.ignore_unlabelled, self.loss_cap, self.skip_zero_norm = ignore_unlabelled, loss_cap, skip_zero_norm
        self.precision: Precision = precision
        self.impl: Impl = impl
        self.official_norm_grad, self.official_grad_scale = official_norm_grad, official_grad_scale
        self.official_regulariser, self.foreign_label = official_regulariser, foreign_label
        self.bias_correction, self.label_smoothing = bias_correction, float(label_smoothing)
        self.weight = nn.Parameter(torch.empty(self.shard.size, embedding_size, device=device, dtype=dtype), False)
        self.bias = nn.Parameter(torch.zeros(self.shard.size, device=device, dtype=dtype), False) if bias else None
        if self.weight.device.type != "meta":
            initialise(self.weight.data, self.shard, init, seed)
        self.margin.to(self.weight.device, dtype)
        self.seed = seed
        self.sampler = ClassSampler(self.shard.size, sample_rate, seed, self.ranks.rank, sampler_seeds)
        self.window = GradientWindow(self.weight, self.bias, sampled=sample_rate < 1)
        self.optimizer: ShardOptimizer | None = None
        self.default_lr = 0.0
        self.fused = FusedStep() if fused_step else None

    # -- the loss -----------------------------------------------------------------------------------------------------
    def forward(self, embeddings: Tensor, labels: Tensor, label_weights: Tensor | None = None) -> HeadOutput:
        """Loss of this rank's rows against all classes.

        `embeddings` [b, D] raw, b equal on all ranks; `labels` [b], or [b, K] with `label_weights` [b, K]; -1 = none.
        Collective. The backward pass adds to the head's gradient window.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            return self._loss(embeddings, labels, label_weights)

    def _loss(self, embeddings: Tensor, labels: Tensor, label_weights: Tensor | None) -> HeadOutput:
        ranks, x = self.ranks, self._checked(embeddings)
        if self.official_grad_scale:
            x = x / ranks.size + (x - x / ranks.size).detach()
        norm = torch.linalg.vector_norm(x, dim=1)
        labels, weights = normalise_labels(labels, label_weights, self.num_classes)
        if self.skip_zero_norm:
            labels = labels.masked_fill((norm == 0)[:, None], -1)
        valid, all_labels = labels >= 0, ranks.gather(labels)
        step = begin_step(self, all_labels, norm)
        anchor = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=torch.is_grad_enabled())
        unit = F.normalize(x, eps=1e-12) if self.normalize else x
        cos, bias, total, token = TargetCosine.apply(unit, norm, anchor, step)
        prepare_margin(self, step, cos, norm, valid, all_labels)
        neg, weights, rest = Negatives.apply(token, step), weights.to(cos.dtype), None
        if self.label_smoothing:
            check_rule(type(self.margin).__name__, step.rule)
            neg, weights, rest = smooth(step, self.label_smoothing, neg, valid, weights, total, cos, bias)
        target = self._target(cos, norm, labels, weights) + bias
        unlabelled = None if self.ignore_unlabelled else LOSS_CAP
        per_row = rows_loss(target, neg, valid, weights, unlabelled, rest, row_loss=self.margin.row_loss)
        if self.training:
            seen = {"target": target.detach(), "neg": neg.detach(), "valid": valid}
            with torch.no_grad():
                self.margin.observe_loss(seen, self.ranks.sum)
        if self.loss_cap is not None:
            per_row = per_row + (per_row.clamp(max=self.loss_cap) - per_row).detach()
        return reduce_rows(self, per_row, cos, norm, valid, all_labels)

    def _checked(self, embeddings: Tensor) -> Tensor:
        if embeddings.dim() != 2 or embeddings.shape[1] != self.embedding_size:
            raise ConfigError(f"the head reads [b, {self.embedding_size}] embeddings, not {tuple(embeddings.shape)}")
        return embeddings.to(self.weight.dtype)

    def _target(self, cos: Tensor, norm: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        norm = norm[:, None].expand_as(cos)
        if self.official_norm_grad:
            here = (labels >= self.shard.start) & (labels < self.shard.stop)
            norm = torch.where(here, norm, norm.detach())
        return self.margin.target(torch.where(labels >= 0, cos, torch.zeros_like(cos)), norm, weights.to(cos.dtype))

    def global_mean(self, value: Tensor) -> Tensor:
        """Mean over ranks of a scalar: of `HeadOutput.loss`, the global mean loss. Collective, detached."""
        return self.ranks.sum(value) / self.ranks.size

    def score(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Without gradient, over all shards: target cosine [b] (0 where there is none), the best other cosine [b] and
        its class int64 [b] (-1 if there is none). Collective; memory O(B * chunk)."""
        with torch.no_grad(), torch.autocast(embeddings.device.type, enabled=False):
            x = self._checked(embeddings.detach())
            labels = labels.long().reshape(labels.shape[0], -1)
            check_range(labels, self.num_classes)
            return best_other(
                F.normalize(x) if self.normalize else x,
                labels,
                self.weight.data,
                self.normalize,
                self.shard,
                self.ranks,
            )

    # -- gradients and steps ------------------------------------------------------------------------------------------
    def grads(self) -> GradientWindow:
        """Gradients of this shard since the last step: of the global mean loss, times the loss scale."""
        if self.fused is not None:
            self.fused.refuse("reading it")
        return self.window

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of this window."""
        if self.fused is not None and self.fused.taken is not None:
            self.fused.refuse("dropping it")
        self.window.clear()

    def skip(self) -> None:
        """Drop the window because the network's step was skipped."""
        self.zero_grad()

    def grads_finite(self) -> Tensor:
        """Whether every gradient of this rank's shard is finite: a bool scalar; not collective."""
        return torch.isfinite(self.grads().sq_norm())

    def grad_sq_norm(self, loss_scale: float = 1.0) -> Tensor:
        """Squared norm of the whole head's gradient in true units: a float64 scalar, equal on all ranks. Collective."""
        return self.ranks.sum(self.grads().sq_norm()) / loss_scale**2

    def build_optimizer(
        self,
        name: Literal["sgd", "adamw"] = "sgd",
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        **options: Any,
    ) -> ShardOptimizer:
        """Give the shard its optimizer; `options`: further fields of OptimizerOptions (nesterov, betas, eps, ...)."""
        try:
            chosen = OptimizerOptions(
                *(name, lr, momentum, weight_decay),
                **{
                    "sparse_update": self.sparse_update,
                    "bias_correction": self.bias_correction,
                    "rounding_seed": self.seed,
                    **options,
                },
            )
        except TypeError as error:
            raise ConfigError(f"head optimizer: {error}") from error
        self.default_lr = lr
        self.optimizer = ShardOptimizer(self.weight, self.bias, chosen, self.shard.start)
        if self.fused is not None:
            self.fused.optimizer, self.fused.lr = self.optimizer, lr
        return self.optimizer

    def prepare_step(self, lr: float) -> None:
        """With `fused_step`: the learning rate of the step that the next backward pass takes. Nothing otherwise."""
        if self.fused is not None:
            self.fused.lr = lr

    def step(self, lr: float | None = None, loss_scale: float = 1.0, clip_coef: float | Tensor = 1.0) -> None:
        """Apply the window's gradients, divided by `loss_scale` and times `clip_coef`, and begin a new window. A window
        without a backward pass changes nothing."""
        if self.optimizer is None:
            raise ConfigError("the head has no optimizer: call build_optimizer first")
        lr = self.default_lr if lr is None else lr
        if self.fused is not None:
            self.fused.finish(self.window, lr, float(clip_coef) / loss_scale)
        elif self.window.micro_steps:
            self.optimizer.step(self.window, lr, float(clip_coef) / loss_scale)
        self.window.clear()

    # -- weights and checkpoints --------------------------------------------------------------------------------------
    def load_weight(self, weight: Tensor) -> None:
        """Take this rank's rows of the whole [C, D] matrix of class centres."""
        if tuple(weight.shape) != (self.num_classes, self.embedding_size):
            raise ConfigError(
                f"class centres have shape {tuple(weight.shape)}, "
                f"the head needs {(self.num_classes, self.embedding_size)}"
            )
        self.weight.data.copy_(weight[self.shard.start : self.shard.stop])

    def logical_state(self) -> dict[str, Any]:
        """This rank's rows of the logical tensors with `class_start` and `num_classes` (see facex.heads.state)."""
        from facex.heads.state import logical_state

        return logical_state(self)

    def full_weight(self) -> Tensor:
        """The whole [C, D] matrix on the CPU of every rank. Collective; for export and small heads."""
        parts = self.ranks.gather_objects(self.weight.detach().cpu())
        return torch.cat([part for part in parts if isinstance(part, Tensor)])

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write this rank's shard into `directory`; every rank calls it."""
        from facex.heads.state import save_shard

        save_shard(self, directory)

    def load(self, directory: str | os.PathLike[str], optimizer: bool = True) -> None:
        """Read this rank's classes from a directory written on any number of ranks. `optimizer`: moments too."""
        from facex.heads.state import load_shard

        load_shard(self, directory, optimizer)

    def extra_repr(self) -> str:
        return (
            f"classes {self.shard.start}..{self.shard.stop - 1} of {self.num_classes}, D={self.embedding_size}, "
            f"sample_rate={self.sample_rate:g}, precision={self.precision}"
        )
