"""LAFS pre-training without labels (Sun et al., CVPR 2024): DINO whose views are sets of patches around landmarks.

With `recipe: dino` it is DINO-face, the same over plain crops. A frozen landmark network says where the patches are;
the teacher is an average of the student, in training mode as officially, and part of every checkpoint.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from facex.errors import ConfigError
from facex.methods import (
    Batch,
    Context,
    Embedding,
    Format,
    Frozen,
    Group,
    InputSpec,
    LoadReport,
    Method,
    Schedule,
    Source,
    Update,
    Visuals,
)
from facex.methods.method import Nets
from facex.models import create_backbone
from facex.ops import dino_loss
from facex_lafs import checkpoints
from facex_lafs.dino import DinoHead, MultiCrop, Teacher, check_temperatures, split_decay, teacher_temperature
from facex_lafs.landmark_views import LandmarkNetwork
from facex_lafs.probe import CollapseWatch, KnnProbe
from facex_lafs.view_maker import LandmarkOptions, ViewMaker, ViewOptions


@dataclass(frozen=True)
class HeadOptions:
    """The projection head of student and teacher."""

    out_dim: int = 100_000
    """Prototypes."""
    hidden_dim: int = 2048
    """Width of the MLP."""
    bottleneck_dim: int = 256
    """Length of the unit vector before the prototypes."""
    use_bn: bool = False
    """BatchNorm in the MLP (with trainer.sync_bn over all ranks)."""
    norm_last_layer: bool = True
    """Prototypes keep unit length."""


@dataclass(frozen=True)
class TeacherOptions:
    """How the teacher follows, and how sharp its targets are."""

    momentum: float = 0.996
    """Its share in the average at the start."""
    momentum_end: float = 1.0
    """Its share at the end; along a cosine."""
    mode: Literal["train", "eval"] = "train"
    """train: its dropout and stochastic depth are active, as officially."""
    student_temp: float = 0.1
    """Temperature of the student."""
    warmup_temp: float = 0.07
    """Temperature of the teacher in the first epoch. LAFS lets it fall, DINO rise."""
    temp: float = 0.04
    """Its temperature after `warmup_temp_epochs`."""
    warmup_temp_epochs: int = 30
    """Epochs between the two."""
    center_momentum: float = 0.9
    """Share of the old centre at each step."""


@dataclass(frozen=True)
class ProbeOptions:
    """What is watched while nothing is labelled."""

    knn_data: str | None = None
    """Labelled face set whose nearest-neighbour accuracy is measured (leave one out, cosine)."""
    knn_every: int = 1000
    """Steps between measurements."""
    knn_samples: int = 1000
    """Pictures of it that are used."""
    collapse_patience: int = 1000
    """Steps for which the teacher may say the same of all pictures before the run ends; 0: no watch."""


DEFAULT_VIEWS, DEFAULT_LANDMARKS = ViewOptions(), LandmarkOptions()


class LAFSPretrain(Method):
    """Self-supervised pre-training of an fViT.

    `init_from: [{path: STAGE_1, network: landmarks}]` gives the landmark network of a supervised Part fViT (recipe
    lafs). The network trained is `student`; `teacher` and `landmarks` are frozen. `evaluation.bins` verifies with the
    teacher.

    Args:
        recipe: lafs: patches around landmarks; dino: plain crops (DINO-face).
        backbone: a registered fViT.
        backbone_options: its further arguments (dim, depth, heads, ...).
        views: crops and their number.
        landmarks: how patches are read around landmarks (recipe lafs).
        head: the projection head.
        teacher: average, temperatures, centring.
        weight_decay: at the start, on everything of two dimensions or more.
        weight_decay_end: at the end; along a cosine.
        freeze_last_layer: epochs in which the prototypes stay as they are.
        probe: nearest-neighbour accuracy and the watch for collapse.
        input: what the network reads.
    """

    needs = frozenset({"image"})

    def __init__(
        self,
        recipe: Literal["lafs", "dino"] = "lafs",
        backbone: str = "fvit_b",
        backbone_options: dict[str, Any] | None = None,
        views: ViewOptions = DEFAULT_VIEWS,
        landmarks: LandmarkOptions = DEFAULT_LANDMARKS,
        head: HeadOptions = HeadOptions(),
        teacher: TeacherOptions = TeacherOptions(),
        weight_decay: float = 0.04,
        weight_decay_end: float = 0.4,
        freeze_last_layer: float = 1.0,
        probe: ProbeOptions = ProbeOptions(),
        input: InputSpec | None = None,
    ) -> None:
        super().__init__()
        self.input = input or InputSpec()
        self.options, self.recipe, self.freeze_last_layer = teacher, recipe, freeze_last_layer
        self.weight_decay, self.weight_decay_end = weight_decay, weight_decay_end
        for warning in check_temperatures(teacher.student_temp, teacher.warmup_temp, teacher.temp):
            warnings.warn(warning, stacklevel=2)
        net = create_backbone(
            backbone, **{"input_size": (self.input.height, self.input.width), **(backbone_options or {})}
        )
        self.student = MultiCrop(net, DinoHead(net.embedding_size, **vars(head)))  # type: ignore[arg-type]
        self.teacher = Teacher(copy.deepcopy(net), copy.deepcopy(self.student.head), head.out_dim)
        self.landmark_network: LandmarkNetwork | None = None
        if recipe == "lafs":
            self.landmark_network = LandmarkNetwork(
                landmarks.count, width=landmarks.width, coordinate_max=landmarks.coordinate_max
            )
        self.view_maker = ViewMaker(views, landmarks, net.patch_size, self.input, recipe)  # type: ignore[arg-type]
        self.view_maker.check(net.num_patches)  # type: ignore[arg-type]
        self.register_buffer("landmarks_loaded", torch.zeros((), dtype=torch.bool))
        self.landmarks_loaded: Tensor
        self._ready = landmarks.random_coordinates
        self.watch = CollapseWatch(probe.collapse_patience)
        self.knn = KnnProbe(probe.knn_data, probe.knn_every, probe.knn_samples)
        # of the teacher's logits in the open window: [K + 1], the last number counts rows
        self._sums: list[Tensor] = []
        self._rows: Tensor | None = None  # a few of the teacher's logits, for the watch

    # -- what there is -------------------------------------------------------------------------------------------------
    def networks(self) -> dict[str, nn.Module]:
        """One trained network: `student`."""
        return {"student": self.student}

    def frozen(self) -> dict[str, Frozen]:
        """`teacher` in the run's precision, `landmarks` in float32."""
        parts = {"teacher": Frozen(self.teacher, self.options.mode, saved=True)}
        if self.landmark_network is not None:
            parts["landmarks"] = Frozen(self.landmark_network, "eval", "fp32", saved=True)
        return parts

    def param_groups(self, network: str) -> list[Group]:
        """Parameters of two dimensions or more with a scheduled weight decay, the others without; the last layer of
        each waits for its epochs."""
        parameters = dict(self.student.named_parameters())
        groups = []
        for names, label in zip(split_decay(parameters.items()), ("decayed", "not decayed"), strict=True):
            for last in (False, True):
                chosen = [parameters[n] for n in names if ("last_layer" in n) is last]
                if chosen:
                    group = Group(chosen, f"{label}{', last layer' if last else ''}", weight_decay=0.0)
                    group.weight_decay_schedule = "weight_decay" if label == "decayed" else None
                    group.frozen_epochs = self.freeze_last_layer if last else 0.0
                    groups.append(group)
        return groups

    def schedules(self) -> dict[str, Schedule]:
        """Weight decay of the coming step; the teacher's momentum after the last one."""
        momentum = Schedule.cosine(self.options.momentum, self.options.momentum_end)
        return {
            "weight_decay": Schedule.cosine(self.weight_decay, self.weight_decay_end),
            # it is asked for when the step has been counted already
            "teacher_momentum": Schedule(lambda step, total: momentum.value(max(step - 1, 0), total)),
        }

    # -- a step --------------------------------------------------------------------------------------------------------
    def prepare(self, batch: Batch, ctx: Context) -> Batch:
        """Views of the pictures as tokens: `extras["views"]`, and their positions where they are not the first."""
        self._check_landmarks()
        self.knn.read(self.input.color)  # at the first step: what is wrong with the set shows now
        images = batch["image"] if batch.color == "rgb" else batch["image"].flip(3)
        views, positions = self.view_maker.make(images, ctx, ctx.nets.get("landmarks"))
        batch.extras.update(views=views, positions=positions)
        return batch

    def mark_landmarks(self) -> None:
        """Note that the landmark network has trained weights."""
        self.landmarks_loaded.fill_(True)

    def _check_landmarks(self) -> None:
        if self._ready or self.recipe != "lafs":
            return
        self._ready = bool(self.landmarks_loaded)  # asked once: it lies on the device
        if not self._ready:
            raise ConfigError(
                "the landmark network has no trained weights: give the stage-1 file (a supervised Part fViT) as "
                "init_from: [{path: FILE, network: landmarks}]"
            )

    def training_step(self, batch: Batch, ctx: Context) -> Iterator[Update]:
        """Cross entropy between the teacher's global views and all others of the student."""
        views: Sequence[Tensor] = batch.extras["views"]  # type: ignore[assignment]
        positions: Sequence[Tensor | None] = batch.extras["positions"]  # type: ignore[assignment]
        with torch.no_grad():
            targets = ctx.nets["teacher"](views[:2], positions[:2])
        logits = ctx.nets["student"](views, positions)
        temperature = self.teacher_temperature(ctx.epoch)
        rows = dino_loss(logits, targets, self.teacher.center, len(views), self.options.student_temp, temperature)
        self._note(targets)
        yield Update("student", {"dino": ctx.mean(rows)}, logs=self._logs(temperature, ctx))

    def teacher_temperature(self, epoch: int) -> float:
        """The teacher's temperature in an epoch, from 0."""
        o = self.options
        return teacher_temperature(epoch, o.warmup_temp, o.temp, o.warmup_temp_epochs)

    def _note(self, targets: Tensor) -> None:
        """Add the rows to what the next centre is made of. (A window that overflows in fp16 counts into the next
        one.)"""
        total = targets.float().sum(0)
        self._sums.append(torch.cat([total, total.new_tensor([len(targets)])]))
        self._rows = targets[:: max(len(targets) // 16, 1)].float()

    def _logs(self, temperature: float, ctx: Context) -> dict[str, Tensor]:
        device = self.teacher.center.device
        logs = {
            "teacher_temp": torch.tensor(temperature, device=device),
            "teacher_momentum": torch.tensor(ctx.value("teacher_momentum"), device=device),
            "weight_decay": torch.tensor(ctx.value("weight_decay"), device=device),
        }
        return logs | self.watch.logs() | self.knn.logs()

    def after_update(self, network: str, ctx: Context) -> None:
        """Move the centre, let the teacher follow, look whether it has collapsed."""
        sums = ctx.all_reduce(torch.stack(self._sums).sum(0))
        self._sums.clear()
        self.teacher.recentre(sums[:-1] / sums[-1], self.options.center_momentum)
        self.teacher.follow(self.student, ctx.value("teacher_momentum"))
        if self._rows is not None:
            self.watch.look(self._rows, self.teacher.center, self.teacher_temperature(ctx.epoch), ctx)
        self.knn.run(self, ctx)

    # -- using it ------------------------------------------------------------------------------------------------------
    def embed(
        self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
    ) -> Embedding:
        """The teacher's features of the whole picture, without noise; with `flip` the sum of both views."""
        vector = self._features(images, nets)
        return Embedding(vector + self._features(images.flip(3), nets) if flip else vector)

    def _features(self, images: Tensor, nets: Nets) -> Tensor:
        self._check_landmarks()
        tokens = self.view_maker.plain_tokens(images, nets.get("landmarks"))
        return nets["teacher"]([tokens], features=True).float()

    def visuals(self, batch: Batch, ctx: Context) -> Visuals:
        """Histogram of the centre."""
        return Visuals(histograms={"center": self.teacher.center.flatten()})

    def init_from(self, sources: Sequence[Source]) -> list[LoadReport]:
        """Landmark network, or student and teacher, from official files and runs (facex_lafs.checkpoints)."""
        return checkpoints.init_pretraining(self, sources)

    def inference_module(self, **mode: Any) -> nn.Module:
        """The teacher's backbone over tokens."""
        if mode:
            raise ConfigError(f"LAFSPretrain has no inference options {sorted(mode)}")
        return self.teacher.backbone

    def formats(self) -> list[Format]:
        """The official file of pre-training."""
        return [checkpoints.ssl_format(self)]

    @classmethod
    def recognise(cls, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """A file with `teacher` and `student`."""
        return checkpoints.recognise_ssl(state)
