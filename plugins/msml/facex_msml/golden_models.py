"""Runners of MSML's golden cases that drive the whole network: embeddings, and steps of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facex.heads import MarginHead
from facex.heads.reference import ReferenceClassifier
from facex.methods import Group
from facex.methods.loading import load_network
from facex.train.clipping import Clipper
from facex.train.config import ClipConfig, OptimizerConfig
from facex.train.optim import build_optimizer, set_rates
from facex_msml.consensus_loss import ConsensusLoss
from facex_msml.fm import FMConfig
from facex_msml.formats import BIAS, HEAD, NETWORK, PEER, join_official, split_official
from facex_msml.golden_inputs import (
    filled_state,
    gradient_rows,
    margin_of,
    named,
    names,
    peer_config,
    pictures,
    unpack,
)
from facex_msml.network import MSMLNet, build_teacher
from facex_msml.recipes import PER

NORM_ROUNDING = 2e-3  # what float32 sums of torch.nn.utils.clip_grad_norm_ may be off


class Model:
    """The network, its teacher and its classifier, filled as one official state dict.

    The published teacher is a submodule and follows train() like the others; here it is put into training mode by hand.
    """

    def __init__(self, case: Any) -> None:
        p = case.params["model"]
        head, size = p["header_type"], p["embedding"]
        options = {"frb": p["frb_type"], "embedding_size": size, "input_size": p["input_size"]}
        peer = peer_config(p.get("peer_params"))
        fm = FMConfig(**p["fm_params"])
        self.net = MSMLNet(
            fm_layers=p["fm_layers"], fm=fm, use_osb=p["use_osb"], peer=peer, dropout=p["dropout"], **options
        )
        self.teacher = None if peer is None else build_teacher(**options)
        margin, plain = margin_of(head, p["header_params"]), head == "Softmax"
        self.head = MarginHead(margin, size, p["num_classes"], group="alone", bias=plain, normalize=not plain)
        self._fill(split_official(filled_state(case)))

    def _fill(self, content: Mapping[str, Any]) -> None:
        load_network(self.net, content["networks"][NETWORK], "golden", NETWORK)
        if self.teacher is not None:
            load_network(self.teacher, content["meta"]["peer"], "golden", "peer")
        self.head.load_weight(content["head"])
        if self.head.bias is not None:
            self.head.bias.data.copy_(content["meta"]["bias"])

    def state(self) -> dict[str, Tensor]:
        """The official state dict."""
        meta: dict[str, Any] = {} if self.teacher is None else {"peer": self.teacher.state_dict()}
        meta["bias"] = self.head.bias
        return join_official({"networks": {NETWORK: self.net.state_dict()}, "head": self.head.weight, "meta": meta})

    def parameters(self) -> dict[str, nn.Parameter]:
        """Parameters by official name, but for the classifier's."""
        found = dict(self.net.named_parameters())
        if self.teacher is not None:
            found |= {PEER + name: p for name, p in self.teacher.named_parameters()}
        return found

    def gradients(self) -> dict[str, np.ndarray | None]:
        """Gradients by official name."""
        window = self.head.grads()
        rows = gradient_rows(self.net)
        if self.teacher is not None:
            rows |= {PEER + name: value for name, value in gradient_rows(self.teacher).items()}
        rows[HEAD] = window.full().numpy()
        if self.head.bias is not None:
            rows[BIAS] = window.bias.numpy()  # type: ignore[union-attr]
        return rows

    def stages(self, original: Tensor | None) -> tuple[Tensor, ...] | None:
        """The teacher's stages on the clean pictures."""
        if self.teacher is None or original is None:
            return None
        with torch.no_grad():
            stages: tuple[Tensor, ...] = self.teacher.train()(original).stages
        return stages


def run_backbone_eval(case: Any) -> dict[str, Any]:
    """Embedding, segmentation, and what goes into and comes out of every operator."""
    net = Model(case).net.eval()
    seen: dict[str, Tensor] = {}

    def keep(stage: int) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            seen[f"stage{stage}_in"], seen[f"stage{stage}_out"] = arguments[0], output[0]
            if arguments[1] is not None:
                seen[f"stage{stage}_seg"] = arguments[1]

        return hook

    for stage, operator in enumerate(net.frb.fm_ops):
        operator.register_forward_hook(keep(stage))
    with torch.no_grad():
        out = net(pictures(case, case.params["input"]))
    result = named(feature=out["embedding"], **seen)
    return result | (named(final_seg=out["segmentation"]) if "segmentation" in out else {})


def run_backbone_train(case: Any) -> dict[str, Any]:
    """Some steps of training with the product's head, clipping and optimizers."""
    p = case.params
    model = Model(case)
    rates = {name: rate_of(name, p) for name in names(case, "param_names")}
    trained = {name: q for name, q in model.parameters().items() if q.requires_grad and not name.startswith(PEER)}
    base = rate_of("", p)
    groups = [Group([q], name, rates[name] / base) for name, q in trained.items()]
    o, clip = p["optimizer"], p["clip_grad_norm"]
    settings = OptimizerConfig(o["name"], base, o["momentum"], o["nesterov"], o["weight_decay"])
    optimizer = build_optimizer(settings, groups)  # type: ignore[arg-type]
    clipper = Clipper(NETWORK, ClipConfig(float(clip["max_norm"]), "joint"), groups, 0)
    model.head.build_optimizer(o["name"], rates[HEAD], o["momentum"], o["weight_decay"], nesterov=o["nesterov"])
    rates |= {group["name"]: group["lr"] for group in optimizer.param_groups}
    result = named(param_lr=np.array([rates[name] for name in names(case, "param_names")]))
    for number, step in enumerate(p["per_step"]):
        set_rates(optimizer.param_groups, base * step["lr_factor"])
        head_rate = base * step["lr_factor"] * (rates[HEAD] / base)
        used = [group["lr"] for group in optimizer.param_groups]
        found = forward_backward(case, model, step)
        if number == 0:
            result["step0_grad_rows"] = model.gradients()
        norm = published_norm(model)
        coefficient = clipper.clip(model.head.grad_sq_norm)
        if not np.isclose(float(clipper.last_norm), float(norm), rtol=NORM_ROUNDING):  # type: ignore[arg-type]
            raise AssertionError(f"step {number}: the clipper's norm is {clipper.last_norm}, torch's {norm}")
        optimizer.step()
        model.head.step(head_rate, clip_coef=coefficient)
        optimizer.zero_grad()
        state = {name: value.detach().numpy().copy() for name, value in model.state().items()}
        found |= {"grad_norm": norm, "lrs": np.unique([*used, head_rate])}
        result |= named(**{f"step{number}_{name}": value for name, value in found.items()})
        result[f"step{number}_state_rows"] = state
    with torch.no_grad():
        feature = model.net.eval()(pictures(case, p["eval_after"]["input"]))["embedding"]
    return result | named(eval_after_feature=feature)


def published_norm(model: Model) -> Tensor:
    """The norm of all gradients as torch.nn.utils.clip_grad_norm_ gives it. Its float32 sums over millions of numbers are
    off by up to a thousandth; the product's clipper, which sums in pairs, is not, and cannot give this number."""
    gradients = [p.grad for p in model.parameters().values() if p.grad is not None]
    window = model.head.grads()
    gradients.append(window.full())
    if window.bias is not None:
        gradients.append(window.bias)
    return torch.nn.utils.get_total_norm(gradients)


def rate_of(name: str, p: Mapping[str, Any]) -> float:
    """The initial rate of a parameter: of the first substring that occurs in its name."""
    rules = p["optimizer"]["lr_by_first_substring_match"]
    per = next(float(rule["lr_per_512"]) for rule in rules if rule["substring"] in name)
    return per / PER * int(p["batch_size"]) * int(p["world_size"])


def forward_backward(case: Any, model: Model, step: Mapping[str, Any]) -> dict[str, Any]:
    """One forward and backward pass; what it showed before the step."""
    net, head, spec = model.net.train(), model.head, case.params["seg_loss"]
    original = None if step["ori"] is None else pictures(case, step["ori"])
    labels = torch.from_numpy(case.inputs[step["labels"]]).long()
    out = net(pictures(case, step["input"]), model.stages(original))
    logits = ReferenceClassifier(head.margin, head.weight, head.bias, head.normalize)(out["embedding"], labels).logits
    classification = head(out["embedding"], labels).loss
    kd, segmentation = torch.zeros(()), torch.zeros(())
    loss = classification
    if "segmentation" in out:
        clean = unpack(case, step["mask"])
        segmentation = ConsensusLoss(spec["alpha"], spec["beta"])(out["segmentation"], clean)
        loss = loss + segmentation
    if "kd" in out:
        assert net.peer is not None
        kd = out["kd"].mean()
        loss = loss + net.peer.kd_weight * kd
    loss.backward()
    found = {"logits": logits + kd, "cls_loss": classification, "seg_loss": segmentation, "kd": kd}
    return found | ({"final_seg": out["segmentation"]} if "segmentation" in out else {})
