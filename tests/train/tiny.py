"""Small methods and data for the trainer's tests: a plain recogniser, two networks with a cadence, no head at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facex.errors import DataError
from facex.heads.margins import ArcFace, MagFace
from facex.methods import Batch, Embedding, Field, Group, HeadSpec, InputSpec, Method, Schedule, Update

SIZE = 16


class TinyFaces:
    """In-memory faces: a pattern for each class plus noise, a pure function of the sample number."""

    name, color, size = "tiny", "rgb", (SIZE, SIZE)
    kinds: ClassVar[dict[str, Field]] = {"image": Field("image"), "label": Field("label")}

    def __init__(self, samples: int = 96, classes: int = 7) -> None:
        self.num_classes = classes
        generator = np.random.default_rng(0)
        patterns = generator.integers(0, 256, (classes, SIZE, SIZE, 3))
        noise = generator.integers(-40, 40, (samples, SIZE, SIZE, 3))
        self._labels = np.arange(samples, dtype=np.int64) % classes
        self._images = np.clip(patterns[self._labels] + noise, 0, 255).astype(np.uint8)

    def __len__(self) -> int:
        return len(self._labels)

    def labels(self) -> np.ndarray:
        return self._labels

    def allocate(self, b: int, pin: bool) -> dict[str, Tensor]:
        return {"image": torch.empty(b, SIZE, SIZE, 3, dtype=torch.uint8), "label": torch.empty(b, dtype=torch.int64)}

    def read(self, indices: np.ndarray, out: dict[str, Tensor]) -> None:
        out["image"].copy_(torch.from_numpy(self._images[indices]))
        out["label"].copy_(torch.from_numpy(self._labels[indices]))


class TinyNet(nn.Module):
    """conv, BatchNorm, PReLU, Linear, BatchNorm: all that a face network has, in miniature."""

    def __init__(self, out: int = 8, dropout: float = 0.0, bn: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(8) if bn else nn.Identity()
        self.act = nn.PReLU(8)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(8 * (SIZE // 2) ** 2, out)
        self.tail = nn.BatchNorm1d(out) if bn else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(self.drop(self.act(self.bn(self.conv(x)))).flatten(1))
        with torch.autocast(x.device.type, enabled=False):
            return self.tail(x.float())


class TinyRecogniser(Method):
    """A plain recogniser under ArcFace or MagFace."""

    input = InputSpec(SIZE, SIZE)

    def __init__(
        self,
        margin: str = "arcface",
        dropout: float = 0.0,
        poison: int = -1,
        groups: bool | str = False,
        slow: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = self.make_backbone(dropout)
        self.poison, self._groups, self._slow = poison, groups, slow
        chosen = ArcFace(s=16.0, m=0.3) if margin == "arcface" else MagFace(s=16.0)
        self.head = HeadSpec(chosen, 8, "backbone")

    def make_backbone(self, dropout: float) -> nn.Module:
        return TinyNet(dropout=dropout)

    def networks(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone}

    def param_groups(self, network: str) -> list[Group]:
        if not self._groups:
            return super().param_groups(network)
        if self._groups == "frozen":
            return [Group(list(self.backbone.conv.parameters()), "stem", frozen_until=3), Group(self.later(), "later")]
        flat = [p for p in self.backbone.parameters() if p.ndim <= 1]
        rest = [p for p in self.backbone.parameters() if p.ndim > 1]
        return [Group(rest, "rest", weight_decay_schedule="decay"), Group(flat, "flat", lr_scale=0.5, weight_decay=0.0)]

    def later(self) -> list[nn.Parameter]:
        return [p for n, p in self.backbone.named_parameters() if not n.startswith("conv.")]

    def schedules(self) -> dict[str, Schedule]:
        return {"decay": Schedule.cosine(0.01, 0.1)}

    def training_step(self, batch: Batch, ctx: Any) -> Iterator[Update]:
        time.sleep(self._slow)
        embeddings = ctx.nets["backbone"](batch["image"])
        if ctx.step == self.poison and ctx.rank == ctx.world_size - 1:
            embeddings = embeddings * float("nan")
        yield Update("backbone", embeddings=embeddings, labels=batch["label"], logs={"std": embeddings.detach().std()})

    def embed(self, images: Tensor, nets: Any, side: Any = None, flip: bool = False) -> Embedding:
        return Embedding(nets["backbone"](images))


class SmallIResNet(TinyRecogniser):
    """The real iResNet-18, narrow by default, on images of 32 pixels; class centres of unit length, as MagFace has them."""

    def __init__(self, margin: str = "arcface", width: float = 0.25, pixels: int = 32, **options: Any) -> None:
        self._width, self._pixels = width, pixels
        super().__init__(margin, **options)
        self.input = InputSpec(pixels, pixels)
        assert self.head is not None
        self.head.embedding_size, self.head.init = 64, "unit"

    def make_backbone(self, dropout: float) -> nn.Module:
        from facex.models.iresnet import IResNet

        return IResNet(18, embedding_size=64, input_size=self._pixels, width=self._width, dropout=dropout)


class Wrong(TinyRecogniser):
    """A recogniser whose training step, or embedding, is wrong in the way that `fault` says."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def training_step(self, batch: Batch, ctx: Any) -> Iterator[Update]:
        embeddings = ctx.nets["backbone"](batch["image"])
        good = Update("backbone", embeddings=embeddings, labels=batch["label"])
        if self.fault == "name":
            good.network = "bakbone"
        elif self.fault == "labels":
            good.labels = None
        elif self.fault == "empty":
            good = Update("backbone")
        elif self.fault == "uneven" and int(batch.position[0]):
            return
        yield good
        if self.fault == "twice":
            yield Update("backbone", {"more": ctx.nets["backbone"](batch["image"]).square().mean()})

    def embed(self, images: Tensor, nets: Any, side: Any = None, flip: bool = False) -> Embedding:
        if self.fault == "embed":
            raise DataError("this picture cannot be embedded")
        return super().embed(images, nets, side, flip)


class TinyPolicy(Method):
    """SARFace in outline: a policy that masks, rewarded by the recogniser's head, and a recogniser at its own cadence."""

    input = InputSpec(SIZE, SIZE)

    def __init__(self) -> None:
        super().__init__()
        self.policy, self.recogniser = TinyNet(out=4, bn=False), TinyNet()
        self.head = HeadSpec(ArcFace(s=16.0, m=0.3), 8, "recogniser")
        self.register_buffer("mean_reward", torch.zeros(1))

    def networks(self) -> dict[str, nn.Module]:
        return {"policy": self.policy, "recogniser": self.recogniser}

    def training_step(self, batch: Batch, ctx: Any) -> Iterator[Update]:
        x, labels = batch["image"], batch["label"]
        logits = ctx.nets["policy"](x)
        actions = (ctx.uniform("actions", 4) < logits.detach().sigmoid()).float()
        stripes = actions.repeat_interleave(SIZE // 4, 1)[:, None, :, None]
        with torch.no_grad():
            target, other, _ = ctx.head.score(ctx.nets["recogniser"](x * stripes), labels)
        reward = target - other
        log_likelihood = -F.binary_cross_entropy_with_logits(logits, actions, reduction="none").sum(1)
        yield Update("policy", {"gradient": ctx.mean(-reward * log_likelihood)}, logs={"reward": reward.mean()})
        self.mean_reward = ctx.all_reduce(reward.mean().view(1), "mean")
        yield Update("recogniser", embeddings=ctx.nets["recogniser"](x * stripes), labels=labels)

    def embed(self, images: Tensor, nets: Any, side: Any = None, flip: bool = False) -> Embedding:
        return Embedding(nets["recogniser"](images))


class TinyMae(Method):
    """No head: reconstruct hidden pixels; an EMA teacher that is saved; a mean over masked rows only."""

    needs = frozenset({"image"})
    input = InputSpec(SIZE, SIZE)

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.teacher = TinyNet(out=12), TinyNet(out=12)

    def networks(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder}

    def frozen(self) -> dict[str, Any]:
        from facex.methods import Frozen

        return {"teacher": Frozen(self.teacher, mode="train", saved=True)}

    def schedules(self) -> dict[str, Schedule]:
        return {"momentum": Schedule.cosine(0.9, 1.0)}

    def training_step(self, batch: Batch, ctx: Any) -> Iterator[Update]:
        x = batch["image"]
        hidden = ctx.uniform("mask", 1, SIZE, SIZE) < 0.5
        error = (ctx.nets["encoder"](x * ~hidden) - ctx.nets["teacher"](x)).square().mean(1)
        valid = batch.position % 2 == 0  # as many in every micro-batch
        yield Update("encoder", {"mae": ctx.mean(error, valid)})

    @torch.no_grad()
    def after_update(self, network: str, ctx: Any) -> None:
        for t, e in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            t.lerp_(e, 1 - ctx.value("momentum"))

    def embed(self, images: Tensor, nets: Any, side: Any = None, flip: bool = False) -> Embedding:
        return Embedding(nets["encoder"](images))
