"""Goldens of pre-training: head, loss, schedules, and whole steps of the method."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facex.methods import Batch
from facex.methods.spec import Schedule
from facex.ops import dino_loss as pair_loss
from facex.train.clipping import Clipper
from facex.train.config import ClipConfig, OptimizerConfig, ScheduleConfig
from facex.train.engines import in_steps
from facex.train.optim import build_optimizer, resolve_groups, set_rates
from facex.train.schedules import build_schedule
from facex_lafs.dino import DinoHead, Teacher, teacher_temperature
from facex_lafs.goldens.common import HEAD_KEY, arrays, official_state, quieten
from facex_lafs.goldens.models import gradients_of
from facex_lafs.goldens.ranks import rank_means
from facex_lafs.pretrain import HeadOptions, LAFSPretrain, TeacherOptions
from facex_lafs.view_maker import LandmarkOptions, ViewOptions


def dino_head(case: Any) -> dict[str, Any]:
    """Output and gradients of the projection head in training mode."""
    p = case.params
    head = DinoHead(
        *(p["in_dim"], p["out_dim"], p["hidden_dim"], p["bottleneck_dim"], p["nlayers"]),
        use_bn=p["use_bn"],
        norm_last_layer=p["norm_last_layer"],
    )
    head.load_state_dict(official_state(case, p["refill"]["salt"]), strict=True)
    head.train()
    x = torch.from_numpy(case.inputs["x"]).requires_grad_()
    out = head(x)
    (out * torch.from_numpy(case.inputs["cotangent"])).sum().backward()
    trainable = [name for name, parameter in head.named_parameters() if parameter.requires_grad]
    found = {"out": out, "grad_x": x.grad, "grad_fp": gradients_of(head)}
    return arrays(found) | {"trainable": np.array(trainable)}


def dino_loss(case: Any) -> dict[str, Any]:
    """Calls in sequence with the centre carried on; every rank's loss is its own, the centre everybody's."""
    p, world = case.params, case.params["world_size"]
    suffixes = [f"_rank{r}" for r in range(world)] if world > 1 else [""]
    teachers = [Teacher(torch.nn.Identity(), None, p["out_dim"]) for _ in suffixes]
    for teacher in teachers:
        teacher.center.fill_(p["center_start"])
    found: dict[str, list[Any]] = {}
    for call, epoch in enumerate(case.inputs["epochs"].tolist()):
        schedule = p["schedule"]
        names = ("warmup_teacher_temp", "teacher_temp", "warmup_teacher_temp_epochs")
        temperature = teacher_temperature(epoch, *(schedule[n] for n in names))
        found.setdefault("temps", []).append(np.float64(temperature))
        targets = [torch.from_numpy(case.inputs[f"teacher{s}"][call]) for s in suffixes]
        means = rank_means([t.sum(0) for t in targets], [len(t) for t in targets])
        for suffix, teacher, target, mean in zip(suffixes, teachers, targets, means, strict=True):
            student = torch.from_numpy(case.inputs[f"student{suffix}"][call]).requires_grad_()
            loss = pair_loss(
                student, target, teacher.center, p["ncrops"], p["student_temp"], temperature, impl="fused"
            ).mean()
            loss.backward()
            teacher.recentre(mean, p["center_momentum"])
            for name, value in (
                ("loss", loss),
                ("grad_student", student.grad),
                ("center_after", teacher.center.clone()),
            ):
                found.setdefault(f"{name}{suffix}", []).append(value)
    stacked = {k: torch.stack(v) if isinstance(v[0], Tensor) else np.array(v) for k, v in found.items()}
    if world > 1:
        stacked["center_after"] = stacked["center_after_rank0"]
        stacked |= {f"temps{s}": stacked["temps"] for s in suffixes}
    return arrays(stacked)


def cosine_config(min_lr: float, warmup_epochs: float, start: float = 0.0) -> Any:
    """The schedule section of a recipe of pre-training."""
    return ScheduleConfig(
        kind="cosine", min_lr=min_lr, warmup_epochs=warmup_epochs, warmup_start_lr=start, warmup_inclusive=True
    )


def ssl_schedules(case: Any) -> dict[str, Any]:
    """Rate, weight decay and momentum by step, temperature by epoch."""
    p = case.params
    epochs, per_epoch = p["epochs"], p["niter_per_epoch"]
    config = cosine_config(p["min_lr"], p["warmup_epochs"], p["warmup_start_lr"])
    rates = build_schedule(config, per_epoch, epochs, p["lr"])
    teacher = TeacherOptions(
        momentum=p["momentum_teacher"],
        momentum_end=p["momentum_end"],
        warmup_temp=p["warmup_teacher_temp"],
        temp=p["teacher_temp"],
        warmup_temp_epochs=p["warmup_teacher_temp_epochs"],
    )
    method = _small_method(teacher=teacher, weight_decay=p["weight_decay"], weight_decay_end=p["weight_decay_end"])
    steps, schedules = epochs * per_epoch, method.schedules()
    return {
        "lr_f64": np.array([rates.lr(k) for k in range(steps)]),
        "wd_f64": np.array([schedules["weight_decay"].value(k, steps) for k in range(steps)]),
        "momentum_f64": np.array([schedules["teacher_momentum"].value(k + 1, steps) for k in range(steps)]),
        "teacher_temp_f64": np.array([method.teacher_temperature(e) for e in range(epochs)]),
    }


def _small_method(**options: Any) -> LAFSPretrain:
    return LAFSPretrain(
        backbone_options={"dim": 8, "depth": 1, "heads": 1, "mlp_dim": 8},
        head=HeadOptions(out_dim=4, hidden_dim=8),
        **options,
    )


class Run:
    """A few steps of LAFSPretrain on given pictures, with the parts that training uses."""

    def __init__(self, case: Any) -> None:
        self.case, self.p = case, case.params
        self.method = self._method()
        self.total = self.p["nepochs"] * self.p["steps_per_epoch"]
        o, lr = self.p["optimizer"], self.p["lr_schedule"]
        config: Any = OptimizerConfig("adamw", lr["scaled"], betas=tuple(o["betas"]), eps=o["eps"])
        groups = resolve_groups(config, self.method.param_groups("student"))
        self.groups = [in_steps(group, self.p["steps_per_epoch"]) for group in groups]
        self.optimizer = build_optimizer(config, self.groups)
        self.clipper = Clipper("student", ClipConfig(self.p["clip_grad"], "per_tensor"), self.groups, 0)
        rates = cosine_config(lr["min"], lr["warmup_epochs"])
        self.rates = build_schedule(rates, self.p["steps_per_epoch"], self.p["nepochs"], lr["scaled"])
        self.schedules: dict[str, Schedule] = self.method.schedules()
        self.drawn = {"noise": 0, "index": 0}

    def _method(self) -> LAFSPretrain:
        p, arch, head = self.p, self.p["arch"], self.p["dino_head"]
        keys = ("dim", "depth", "heads", "head_dim", "mlp_dim", "num_patches", "patch_size", "pool", "attention_scale")
        loss, momentum = p["dino_loss"], p["momentum_schedule"]
        method = LAFSPretrain(
            backbone_options={k: arch[k] for k in keys} | {"input_size": arch["image_size"]},
            views=ViewOptions(local_views=p["local_views"]),
            landmarks=LandmarkOptions(sampled=p["num_sampled"], noise_sigma=p["noise_sigma"]),
            head=HeadOptions(
                **{k: head[k] for k in ("out_dim", "hidden_dim", "bottleneck_dim", "use_bn", "norm_last_layer")}
            ),
            teacher=TeacherOptions(
                momentum["start"],
                momentum["end"],
                student_temp=loss["student_temp"],
                warmup_temp=loss["warmup_teacher_temp"],
                temp=loss["teacher_temp"],
                warmup_temp_epochs=loss["warmup_teacher_temp_epochs"],
                center_momentum=loss["center_momentum"],
            ),
            weight_decay=p["wd_schedule"]["start"],
            weight_decay_end=p["wd_schedule"]["end"],
            freeze_last_layer=p["freeze_last_layer"],
        )
        state = official_state(self.case, p["refill"]["salt"])
        state.pop(f"backbone.{HEAD_KEY}", None)
        method.student.load_state_dict(state, strict=True)
        method.teacher.load_state_dict({**state, "center": method.teacher.center}, strict=True)
        land = official_state(self.case, p["landmark_refill"]["salt"], "land_")
        assert method.landmark_network is not None
        own = {k: v for k, v in land.items() if k.startswith(("stn.", "output_layer."))}
        method.landmark_network.load_state_dict(own, strict=True)
        method.mark_landmarks()
        method.train()
        method.landmark_network.eval()
        quieten(method)
        return method

    def context(self, epoch: int, step: int) -> Any:
        """What the trainer would give."""
        nets = {
            "student": self.method.student,
            "teacher": self.method.teacher,
            "landmarks": self.method.landmark_network,
        }
        value = lambda name: self.schedules[name].value(step, self.total)  # noqa: E731
        return SimpleNamespace(
            nets=nets,
            epoch=epoch,
            step=step,
            value=value,
            mean=torch.mean,
            all_reduce=lambda t, op="sum": t.clone(),
            device="cpu",
        )

    def _take(self, name: str, shape: list[int]) -> Tensor:
        start = self.drawn[name]
        self.drawn[name] += int(np.prod(shape))
        return torch.from_numpy(self.case.inputs[name][start : self.drawn[name]]).reshape(shape)

    @torch.no_grad()
    def views(self, epoch: int, step: int) -> tuple[list[Tensor], list[Tensor | None]]:
        """Tokens of the case's pictures under its draws."""
        p, local, batch = self.p, self.p["local_views"], self.p["batch"]
        seeds = [p["image_seed_base"] + 100 * epoch + 20 * step + v for v in range(2 * (2 + local))]
        pictures = [torch.from_numpy(self.case.images(batch, p["image_size"], seed)) for seed in seeds]
        count = p["arch"]["num_patches"]
        noise = [self._take("noise", [batch, count, 2]) for _ in range(2)]
        noise += self._take("noise", [local * batch, count, 2]).split(batch) if local else ()
        drawn = self._take("index", [local * batch, p["num_sampled"], 1]).split(batch) if local else ()
        index: list[Tensor | None] = [None, None, *(i.squeeze(-1).long() for i in drawn)]
        network = self.method.landmark_network
        assert network is not None
        landmarks = network(torch.cat(pictures[::2])).chunk(2 + local)
        return self.method.view_maker.tokens(pictures[1::2], landmarks, noise, index)

    def step(self, epoch: int, step: int) -> dict[str, Any]:
        """One step; its loss, rates, and gradient norms before clipping."""
        done = epoch * self.p["steps_per_epoch"] + step
        views, positions = self.views(epoch, step)
        kinds: Any = {}
        batch = Batch({}, kinds, "rgb", torch.arange(self.p["batch"]), torch.arange(self.p["batch"]))
        batch.extras.update(views=views, positions=positions)
        before = self.context(epoch, done)
        (update,) = self.method.training_step(batch, before)
        update.losses["dino"].backward()
        norms = {n: -1.0 if q.grad is None else float(q.grad.norm()) for n, q in self.method.student.named_parameters()}
        rate = self.rates.lr(done)
        set_rates(self.optimizer.param_groups, rate, before.value)
        for group in self.groups:
            if group.frozen_until > done:
                for parameter in group.parameters:
                    parameter.grad = None
        self.clipper.clip(None)
        self.optimizer.step()
        self.optimizer.zero_grad()
        after = self.context(epoch, done + 1)
        self.method.after_update("student", after)
        decay = next(g["weight_decay"] for g in self.optimizer.param_groups if g["weight_decay_schedule"])
        return {
            "losses_f64": float(update.losses["dino"].detach()),
            "grad_norms": norms,
            "lr_f64": rate,
            "wd_f64": decay,
            "mom_f64": after.value("teacher_momentum"),
        }

    def state(self, epoch: int) -> dict[str, Any]:
        """Student, teacher and centre after an epoch."""
        found: dict[str, Any] = {f"center_e{epoch}": self.method.teacher.center.clone()}
        for name, net in (("student", self.method.student), ("teacher", self.method.teacher)):
            parameters = {k: v.detach().clone() for k, v in net.named_parameters()}
            found[f"{name}_fp_e{epoch}"] = parameters
            found[f"{name}_cls_e{epoch}"] = parameters["backbone.cls_token"]
            found[f"{name}_last_e{epoch}"] = parameters["head.last_layer.weight_v"][:2]
        return found

    def group_names(self) -> dict[str, Any]:
        """Names of the parameters with and without weight decay, in the network's order."""
        decayed = {id(p) for g in self.groups if g.weight_decay_schedule for p in g.parameters}
        plain = {id(p) for g in self.groups if not g.weight_decay_schedule for p in g.parameters}
        named = list(self.method.student.named_parameters())
        return {
            "regularized": [n for n, p in named if id(p) in decayed],
            "not_regularized": [n for n, p in named if id(p) in plain],
        }


def ssl_step(case: Any) -> dict[str, Any]:
    """Steps of the epochs that the case runs."""
    run = Run(case)
    found: dict[str, Any] = run.group_names()
    steps = []
    for epoch in case.params["epochs_run"]:
        steps += [run.step(epoch, s) for s in range(case.params["steps_per_epoch"])]
        found |= run.state(epoch)
    for name in steps[0]:
        values = [s[name] for s in steps]
        found[name] = values if name == "grad_norms" else np.array(values)
    return arrays(found)


KINDS = {
    "lafs/dino_head": dino_head,
    "lafs/dino_loss": dino_loss,
    "lafs/ssl_schedules": ssl_schedules,
    "lafs/ssl_step": ssl_step,
}
