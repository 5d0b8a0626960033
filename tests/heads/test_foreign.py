"""JHMFR's foreign rows (`foreign_label="official"`): a brute-force sum over shards, and the official values."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facex.errors import ConfigError
from facex.heads import MagFace, MarginHead
from facex.heads.margin_head import LOSS_CAP
from facex.heads.shards import Shard
from tests.golden.distributed import run_ranks
from tests.heads import brute, cases


@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize("name", ["magface", "curricular"])
def test_two_ranks_equal_a_sum_over_shards(name: str, rate: float) -> None:
    ranks = run_ranks(2, "tests.heads.cases:foreign", name, rate)
    x, labels, weight = cases.batch(unlabelled=False)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    shards = [Shard.of(cases.CLASSES, 2, r) for r in range(2)]
    logits, hots = [], []
    for rank, shard in zip(ranks, shards, strict=True):
        classes = torch.arange(shard.start, shard.stop) if rank["classes"] is None else rank["classes"]
        hot = labels[:, None] == classes
        hots.append(hot)
        seen = hot.clone()
        seen[:, -1] |= ~hot.any(1)  # label -1 indexes the last class
        cos = F.normalize(x) @ F.normalize(weight[classes]).T
        logits.append(brute.LOGITS[name](cos, x.norm(dim=1), seen))
        if name == "curricular":
            assert float(rank["t"]) == pytest.approx(0.01 * float(cos[seen].detach().mean()), rel=1e-9)
    target = torch.cat(hots, 1)
    loss = F.cross_entropy(torch.cat(logits, 1), target.int().argmax(1))
    loss = loss + brute.regulariser(name, x.norm(dim=1)).mean()
    loss.backward()
    assert all(rank["loss"] == pytest.approx(float(loss.detach()), rel=1e-9) for rank in ranks)
    torch.testing.assert_close(torch.cat([rank["grad_x"] for rank in ranks]), x.grad)
    torch.testing.assert_close(torch.cat([rank["grad_w"] for rank in ranks]), weight.grad)


def official(
    rank: int, world_size: int, params: dict[str, Any], arrays: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """One rank of the official two-rank case: MagFace, AdamW with the step count stuck at 1."""
    a, o = params["head_args"], params["optimizer"]
    margin = MagFace(
        *(a["l_a"], a["u_a"], a["l_margin"], a["u_margin"], a["lambda"]),
        s=a["scale"],
        easy_margin=False,
        hard_fallback="shift",
        shift=a["margin_am"],
    )
    quirks: dict[str, Any] = {"foreign_label": "official", "official_regulariser": True, "bias_correction": "first"}
    head = MarginHead(
        margin,
        params["embedding_dim"],
        params["num_classes"],
        sample_rate=params["sample_rate"],
        sparse_update=True,
        ignore_unlabelled=False,
        loss_cap=LOSS_CAP,
        **quirks,
    )
    head.weight.data.copy_(torch.from_numpy(arrays[f"weight0_rank{rank}"]))
    head.build_optimizer("adamw", o["lr"], weight_decay=o["weight_decay"], betas=tuple(o["betas"]), eps=o["eps"])
    got: dict[str, list[np.ndarray]] = {"loss": [], "gemb": [], "weight": [], "m": []}
    for step in range(params["steps"]):
        draw = torch.from_numpy(arrays[f"draw_rank{rank}"][step].copy())
        head.sampler.uniform = lambda n, draw=draw: draw.clone()
        x = torch.from_numpy(arrays["embeddings"][rank, step].copy()).requires_grad_()
        out = head(x, torch.from_numpy(arrays["labels"][rank, step]).reshape(-1))
        out.loss.backward()
        assert x.grad is not None
        got["gemb"].append(x.grad.numpy())
        got["loss"].append(head.global_mean(out.loss).numpy())
        head.step()
        assert head.optimizer is not None
        got["weight"].append(head.weight.detach().numpy().copy())
        got["m"].append(head.optimizer.moments["exp_avg"].numpy().copy())
    return {name: np.stack(values) for name, values in got.items()}


def test_official_values(facex_data: Path) -> None:
    folder = facex_data / "goldens" / "jhmfr"
    listed = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    params = listed.get("cases", listed)["pfc_adamw_magface_ws2"]["params"]
    with np.load(folder / "pfc_adamw_magface_ws2.npz") as file:
        arrays = {name: file[name] for name in file.files if file[name].dtype != object}
    ranks = run_ranks(2, "tests.heads.test_foreign:official", params, arrays)
    for rank, got in enumerate(ranks):
        for name, tolerance in (("loss", 1e-5), ("gemb", 1e-5), ("weight", 1e-4), ("m", 1e-5)):
            wanted = arrays[f"{name}_rank{rank}"]
            scale = max(float(np.abs(wanted).max()), 1e-12)
            assert float(np.abs(got[name] - wanted).max()) <= tolerance * max(scale, 1.0), (rank, name)


def test_the_default_gives_no_margin_to_foreign_classes() -> None:
    """W ranks equal one rank with `ignore`; tests/heads/test_grid.py says so for every margin."""
    one, two = (run_ranks(w, "tests.heads.cases:grid", 1.0, "fused") for w in (1, 2))
    assert two[0]["magface"]["loss"] == pytest.approx(one[0]["magface"]["loss"], rel=1e-9)
    official = run_ranks(2, "tests.heads.cases:foreign", "magface", 1.0)
    assert not math.isclose(official[0]["loss"], one[0]["magface"]["loss"], rel_tol=1e-6)


def test_refusals() -> None:
    head = cases.make_head("magface", foreign_label="official")
    x, labels, shares = cases.mixup_batch()
    with pytest.raises(ConfigError, match="one hard label a row"):
        head(x, labels, shares)
    with pytest.raises(ConfigError, match="ignore, official"):
        cases.make_head("magface", foreign_label="jhmfr")
