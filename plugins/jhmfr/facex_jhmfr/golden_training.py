"""Golden cases of training: parameter groups, the hand-over from MAE to FaceT, traces of several steps on one rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facex.methods import Batch, Field, InputSpec, Method, Source, Update
from facex.train.clipping import Clipper
from facex.train.config import ClipConfig, HeadConfig, OptimizerConfig, ScheduleConfig
from facex.train.head import TrainedHead
from facex.train.launch import Ranks
from facex.train.optim import build_optimizer, resolve_groups, set_rates
from facex.train.schedules import LRSchedule, build_schedule
from facex_jhmfr.finetune import JHMFR
from facex_jhmfr.golden_networks import facet_arguments, fill, iresnet_arguments, mae, pictures
from facex_jhmfr.groups import layer_scales
from facex_jhmfr.pretrain import JHMFRPretrain

MARGINS = {"lambda": "lambda_g", "scale": "s", "margin_am": "shift"}
NOT_OURS = {"t_init"}  # it starts at 0, which is checked


@dataclass
class OneRank:
    """What a method asks of the trainer during a step, with recorded draws by stream."""

    nets: Mapping[str, Any]
    draws: dict[str, Tensor] = field(default_factory=dict)
    rank: int = 0
    world_size: int = 1

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """The recorded draws [b, *shape]."""
        found = self.draws[stream]
        if tuple(found.shape[1:]) != shape:
            raise AssertionError(
                f"the method draws {shape} numbers a picture for {stream!r}, the case has {found.shape}"
            )
        return found

    def mean(self, values: Tensor) -> Tensor:
        """Mean over this rank's rows."""
        return values.mean()


def method_of(model: Mapping[str, Any], **options: Any) -> Method:
    """The method that trains the network of a case's `model`."""
    if model["arch"] == "mae":
        decoder, arguments = model["decoder"]["args"], facet_arguments(model["encoder"]["args"])
        options |= {"decoder_dim": model["args"]["decoder_dim"], "decoder_depth": decoder["depth"]}
        options |= {"decoder_heads": decoder["num_heads"], "decoder_mlp_ratio": decoder["mlp_ratio"]}
        return _build(JHMFRPretrain, "facet_base", arguments, {**options, "mask_ratio": model["args"]["masking_ratio"]})
    if model["arch"] == "iresnet":
        return _build(JHMFR, "r50", iresnet_arguments(model["args"]), options)
    return _build(JHMFR, "facet_base", facet_arguments(model["args"]), options)


def _build(cls: Any, backbone: str, arguments: dict[str, Any], options: dict[str, Any]) -> Method:
    size, embedding = arguments.pop("input_size"), arguments.pop("embedding_size")
    return cls(
        backbone=backbone, embedding_size=embedding, backbone_options=arguments, input=InputSpec(size, size), **options
    )


def margin_options(head: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """JHMFR's options for the arguments of an official head."""
    if args.get("t_init"):
        raise AssertionError("CurricularFace's running mean starts at 0")
    given = {MARGINS.get(k, k): v for k, v in args.items() if k not in NOT_OURS}
    return {"margin": head, "margin_options": given}


def optimizer_config(p: Mapping[str, Any], weight_decay: float, lr: float) -> OptimizerConfig:
    """The run's optimizer for an official one."""
    names = ("name", "momentum", "nesterov", "eps")
    given = {k: p[k] for k in names if k in p}
    if "betas" in p:
        given["betas"] = tuple(p["betas"])
    return OptimizerConfig(lr=lr, weight_decay=weight_decay, **given)


def schedule_of(p: Mapping[str, Any]) -> LRSchedule:
    """The run's schedule for an official one: the warm-up reaches the peak on its last step."""
    warm = p["warmup_epochs"] > 0
    config: Any = ScheduleConfig(
        kind=p["fn"],
        milestones=list(p.get("milestones", [])),
        gamma=p["factors"][0] if p.get("factors") else 0.1,
        min_lr=p["final"],
        warmup_epochs=p["warmup_epochs"],
        warmup_steps=p["warmup_steps"] if warm and p["warmup_steps"] > 0 else None,
        warmup_start_lr=p["warmup_start"],
        warmup_inclusive=True,
    )
    return build_schedule(config, p["steps_per_epoch"], p["epochs"], p["base"])


def run_schedule(case: Any) -> dict[str, Any]:
    """Every value of each schedule."""
    found = {}
    for name, p in case.params["schedules"].items():
        schedule = schedule_of(p)
        found[name] = np.array([schedule.lr(k) for k in range(p["epochs"] * p["steps_per_epoch"])])
    return found


def run_groups(case: Any) -> dict[str, Any]:
    """Groups in the optimizer's order, the head's last; parameters by name."""
    p = case.params
    decay, has_head = p["weight_decay"], p["head_parameter"] is not None and p["head_in_official_optimizer"]
    config: Any = optimizer_config(p["optimizer"], decay, p["optimizer"]["lr"])
    options: dict[str, Any] = {"filter_decay": decay > 0}
    if p["model"]["arch"] == "facet":
        options["layer_decay"] = p["layer_decay"] or 1.0
    method = method_of(p["model"], **options)
    (network, module) = next(iter(method.networks().items()))
    names = {id(q): n for n, q in module.named_parameters()}
    rows: list[tuple[list[str], float, float]] = []
    for group in method.param_groups(network):
        own = decay if group.weight_decay is None else group.weight_decay
        rows.append(([names[id(q)] for q in group.parameters], group.lr_scale, own))
    entries = build_optimizer(config, method.param_groups(network)).param_groups
    nesterov = [bool(entry.get("nesterov", False)) for entry in entries]
    if has_head:
        head = TrainedHead(method.head, HeadConfig(), config, 2, _ranks(), 0)  # type: ignore[arg-type]
        rows.append(([p["head_parameter"]], head.lr(1.0), head.decay))
        nesterov.append(head.optimizer.nesterov)
    ignored = set(p.get("ignore_names", []))
    labelled = [(n, i) for i, (group, _, _) in enumerate(rows) for n in group if n not in ignored]
    found = {
        "names": [n for n, _ in labelled],
        "group": dict(labelled),
        "lr_scale": np.array([scale for _, scale, _ in rows]),
        "weight_decay": np.array([own for _, _, own in rows]),
        "nesterov": np.array(nesterov),
    }
    if p["layer_decay"]:
        found["values"] = np.array(layer_scales(p["layer_decay"], p["model"]["args"]["depth"]))
    return found


def run_handover(case: Any) -> dict[str, Any]:
    """An official file of a masked autoencoder starts a FaceT."""
    import tempfile
    from pathlib import Path

    p = case.params
    method = method_of(p["target"]["model"])
    assert isinstance(method, JHMFR)
    fill(case, method.backbone, p["target"]["fill"])
    before = {k: v.clone() for k, v in method.backbone.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint-last.pth"
        torch.save({"model": fill(case, mae(p["source"]["model"]), p["source"]["fill"]).state_dict()}, path)
        method.init_from([Source(path, strict=p["strict"])])
    after = method.backbone.state_dict()
    method.eval()
    with torch.no_grad():
        side = {"flag": torch.tensor(p["flags"])}
        emb = method.embed(pictures(case, p["images"]), method.networks(), side).vector
    changed = [k for k in after if not torch.equal(after[k], before[k])]
    return {"overwritten": changed, "emb": emb.numpy()}


def run_train_loop(case: Any) -> dict[str, Any]:
    """Fine-tuning: the method's step, its groups, the class-sharded head, clipping and schedule of the trainer."""
    p, o = case.params, case.params["optimizer"]
    first = "first" if str(p["pfc"].get("adamw_bias_correction_step", "")).startswith("always") else "step"
    options = {**margin_options(p["head"], p["head_args"]), "sample_rate": p["pfc"]["sample_rate"]}
    options |= {"bias_correction": first, "layer_decay": o["layer_decay"] or 1.0}
    method = method_of(p["model"], **options)
    assert isinstance(method, JHMFR) and method.head is not None
    fill(case, method.backbone, p["fill"])
    config = optimizer_config(o, o["weight_decay"], p["lr_schedule"]["base"])
    head = TrainedHead(method.head, HeadConfig(), config, p["pfc"]["num_classes"], _ranks(), 0)
    rule = p["pfc"]["weight0"]
    drawn = np.random.RandomState(rule["seed"]).standard_normal(tuple(rule["shape"])).astype(np.float32)
    weight = torch.from_numpy(drawn * 0.05)
    head.module.load_weight(weight)
    loop = _Loop(method, "backbone", config, schedule_of(p["lr_schedule"]), p["clip_grad_norm"])
    found: dict[str, list[Any]] = {name: [] for name in ("loss", "gnorm", "lr", "index", "featnorm")}
    for step in range(p["steps"]):
        draw = case.inputs["draw"][step]
        head.module.sampler.uniform = partial(_recorded, draw)
        fields = {"label": torch.from_numpy(case.inputs["labels"][step]).long()}
        fields["flag"] = torch.from_numpy(case.inputs["flags"][step]).bool()
        update = loop.update(_images(case, step), fields, {"drop_path": torch.from_numpy(case.inputs["u"][step]).T})
        assert update.embeddings is not None and update.labels is not None
        out = head.module(update.embeddings, update.labels)
        gnorm, lr = loop.step(out.loss)
        head.step(lr, 1.0, 1.0)
        features = update.embeddings.detach().norm(dim=1).numpy()
        for name, value in zip(
            found, (float(out.loss.detach()), gnorm, lr, head.module.sampler.last_index, features), strict=True
        ):
            found[name].append(np.asarray(value))
    probe = _probe(case, method)
    return {
        **{name: np.stack(values) for name, values in found.items()},
        "probe_diff": probe[1:] - probe[:1],
        "weight0_fp": weight.numpy(),
        "pfc_weight_fp": head.module.weight.detach().numpy(),
        "param_fp": {n: q.detach().numpy() for n, q in method.backbone.named_parameters()},
        "buf_fp": {n: b.numpy() for n, b in method.backbone.named_buffers() if b.is_floating_point()},
    }


def run_train_mae(case: Any) -> dict[str, Any]:
    """Pre-training: the method's step, its groups, clipping and schedule of the trainer."""
    p, o = case.params, case.params["optimizer"]
    method = method_of(p["model"], skip_decay=bool(o["skip_list"]))
    assert isinstance(method, JHMFRPretrain)
    fill(case, method.mae, p["fill"])
    config = optimizer_config(o, o["weight_decay"], p["lr_schedule"]["base"])
    loop = _Loop(method, "mae", config, schedule_of(p["lr_schedule"]), p["clip_grad_norm"])
    found: dict[str, list[float]] = {"loss": [], "gnorm": [], "lr": []}
    for step in range(p["steps"]):
        update = loop.update(_images(case, step), {}, {"mask": torch.from_numpy(case.inputs["noise"][step])})
        loss = update.losses["mse"]
        gnorm, lr = loop.step(loss)
        for name, value in zip(found, (float(loss.detach()), gnorm, lr), strict=True):
            found[name].append(value)
    parameters = {n: q.detach().numpy() for n, q in method.mae.named_parameters()}
    kept = {str(n) for n in case.inputs["param_names"]}
    return {
        **{n: np.array(v) for n, v in found.items()},
        "param_fp": {n: v for n, v in parameters.items() if n in kept},
    }


class _Loop:
    """A method's network under the trainer's optimizer, schedule and clipping."""

    def __init__(self, method: Method, network: str, config: Any, schedule: LRSchedule, clip: float | None) -> None:
        self.method, self.network, self.schedule = method.train(), network, schedule
        self.module = method.networks()[network]
        groups = resolve_groups(config, method.param_groups(network))
        self.optimizer = build_optimizer(config, groups)
        self.clipper = Clipper(network, ClipConfig(clip or 0.0), groups, 0)
        self.clock = 0

    def update(self, images: Tensor, fields: dict[str, Tensor], draws: dict[str, Tensor]) -> Update:
        """The method's one Update for network-ready images."""
        count = torch.arange(len(images))
        kinds = {"image": Field("image"), "label": Field("label"), "flag": Field("flag")}
        batch = Batch({"image": images, **fields}, kinds, "rgb", count, count)
        context: Any = OneRank(self.method.networks(), draws)
        return next(self.method.training_step(batch, context))

    def step(self, loss: Tensor) -> tuple[float, float]:
        """Backward, clip and apply; the gradient's norm before clipping, and the rate."""
        self.optimizer.zero_grad()
        loss.backward()
        # torch's own float32 norm, which the recorded values come from: it is 0.1 % off for 10^7 numbers on the CPU
        norm = torch.nn.utils.get_total_norm([q.grad for q in self.module.parameters() if q.grad is not None])
        lr = self.schedule.lr(self.clock)
        set_rates(self.optimizer.param_groups, lr)
        self.clipper.clip(None)
        self.optimizer.step()
        self.clock += 1
        return float(norm), lr


def _recorded(draw: np.ndarray, count: int) -> Tensor:
    """The recorded numbers of one step for `count` classes."""
    return torch.from_numpy(draw[:count].copy())


def _images(case: Any, step: int) -> Tensor:
    spec = case.params["images"]
    return torch.from_numpy(case.images(spec["n"], spec["size"], spec["seed"] * 100 + step))


def _probe(case: Any, method: JHMFR) -> np.ndarray:
    spec = case.params["probe"]
    method.eval()
    with torch.no_grad():
        side = {"flag": torch.tensor(spec["flags"])}
        return method.embed(pictures(case, spec["images"]), method.networks(), side).vector.numpy()


def _ranks() -> Ranks:
    return Ranks(0, 1, 0, torch.device("cpu"))


KINDS = {
    "jhmfr/schedule": run_schedule,
    "jhmfr/param_groups": run_groups,
    "jhmfr/checkpoint_handover": run_handover,
    "jhmfr/train_loop": run_train_loop,
    "jhmfr/train_mae": run_train_mae,
}
