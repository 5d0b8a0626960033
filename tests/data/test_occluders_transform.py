"""`Occlude` as a transform: policies, determinism over ranks, the fields it sets, the loader's reading thread."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from facex.data.draws import Draws
from facex.data.loader import BatchLoader
from facex.data.masking import landmarks_of
from facex.data.occluders import OCCLUDERS, POLICIES, Occlude
from facex.data.occluders.policy import check_policy
from facex.data.transforms import HorizontalFlip, Transform
from facex.errors import ConfigError, DataError
from facex.methods.batch import Batch, Field
from tests.data.fakes import FakeSet


def make_batch(n: int = 48, size: tuple[int, int] = (112, 112)) -> Batch:
    data = FakeSet(n, size)
    fields = data.allocate(n, False)
    data.read(np.arange(n), fields)
    return Batch(fields, data.kinds, "rgb", torch.arange(n), torch.arange(n))


def draws(batch: Batch, number: int = 0, seed: int = 5) -> Draws:
    return Draws(seed, number, batch.position)


def part(batch: Batch, rows: slice) -> Batch:
    return replace(
        batch,
        fields={k: v[rows] for k, v in batch.fields.items()},
        index=batch.index[rows],
        position=batch.position[rows],
    )


def same(a: Batch, b: Batch) -> bool:
    return a.fields.keys() == b.fields.keys() and all(torch.equal(a[k], b[k]) for k in a.fields)


def test_fields_and_what_stays() -> None:
    batch, occlude = make_batch(), Occlude("uniform")
    before = {k: v.clone() for k, v in batch.fields.items()}
    out = occlude(batch, draws(batch))
    assert all(torch.equal(batch[k], v) for k, v in before.items())
    for name in ("label", "points", "parsing", "mask", "flag"):
        assert torch.equal(out[name], before[name])
    assert out.kinds["occlusion"] == Field("mask") and out.kinds["occluder"] == Field("label")
    assert out["occlusion"].dtype == torch.uint8 and set(out["occlusion"].unique().tolist()) == {0, 255}
    codes = out["occluder"]
    assert codes.dtype == torch.int64 and set(codes.tolist()) > {0, 1, 2, 3}
    none = codes == 0
    assert torch.equal(out["image"][none], batch["image"][none]) and not out["occlusion"][none].any()
    covers = codes == OCCLUDERS.index("scarf")
    assert covers.any() and (out["occlusion"][covers].flatten(1) > 0).any(1).all()


def test_ranks_and_micro_batches_do_not_matter() -> None:
    batch, occlude = make_batch(), Occlude("ms1m")
    whole = occlude(batch, draws(batch, 3))
    for rows in (slice(0, 16), slice(16, 48), slice(5, 6)):
        piece = part(batch, rows)
        assert same(occlude(piece, draws(piece, 3)), part(whole, rows))
    assert same(Occlude("ms1m")(batch, draws(batch, 3)), whole)
    assert not same(occlude(batch, draws(batch, 4)), whole)
    assert not same(occlude(batch, draws(batch, 3, seed=6)), whole)


def test_probabilities_are_met() -> None:
    shares = check_policy("ms1m")
    batch = make_batch(1, (112, 112))
    n = 3000
    many = replace(batch, fields={}, index=torch.arange(n), position=torch.arange(n))
    occlude = Occlude("ms1m")
    chosen = np.searchsorted(occlude._bounds, Draws(5, 0, many.position).uniform("occluder").numpy(), side="right")
    for number, share in enumerate(shares.values()):
        assert abs((chosen == number).mean() - share) < 4 * (share * (1 - share) / n) ** 0.5
    assert abs(shares["none"] - 0.8 / 7) < 1e-9 and abs(check_policy("casia")["none"] - 0.4) < 1e-9
    for policy in POLICIES:
        assert abs(sum(check_policy(policy).values()) - 1) < 1e-9


def test_a_mask_that_is_there_is_added_to() -> None:
    batch = make_batch(12)
    occlusion = torch.zeros(12, 112, 112, dtype=torch.uint8)
    occlusion[:, :4] = 255
    with_mask = replace(
        batch, fields={**batch.fields, "occlusion": occlusion}, kinds={**batch.kinds, "occlusion": Field("mask")}
    )
    alone, both = (Occlude("uniform")(b, draws(b)) for b in (batch, with_mask))
    assert torch.equal(both["occlusion"], torch.maximum(alone["occlusion"], occlusion))
    assert torch.equal(both["image"], alone["image"])
    for bad in (occlusion[:, :50], occlusion.float()):
        wrong = replace(with_mask, fields={**with_mask.fields, "occlusion": bad})
        with pytest.raises(DataError, match="one size"):
            Occlude("uniform")(wrong, draws(wrong))


def test_masks_follow_landmarks_of_the_data() -> None:
    batch, points = make_batch(6), torch.from_numpy(landmarks_of(None, 112, 112)).float().expand(6, 68, 2)
    known = replace(
        batch, fields={**batch.fields, "landmarks": points}, kinds={**batch.kinds, "landmarks": Field("points")}
    )
    moved = known.with_fields(landmarks=points - torch.tensor([0.0, 20.0]))
    plain, same_place, higher = (Occlude({"mask": 1.0})(b, draws(b))["occlusion"] for b in (batch, known, moved))
    assert (plain != same_place).float().mean() < 0.001

    def middle(mask: torch.Tensor) -> float:
        return float(mask.nonzero()[:, 1].float().mean())

    assert middle(plain) - middle(higher) > 10
    with pytest.raises(DataError, match="sample 0 of the data"):
        Occlude({"mask": 1.0})(known.with_fields(landmarks=points * 0), draws(known))


def test_colour_order_is_honoured() -> None:
    batch = make_batch()
    turned = replace(batch.with_fields(image=batch["image"].flip(3)), color="bgr")
    rgb, bgr = (Occlude("uniform")(b, draws(b)) for b in (batch, turned))
    assert torch.equal(rgb["image"], bgr["image"].flip(3)) and torch.equal(rgb["occlusion"], bgr["occlusion"])


def test_a_flip_takes_the_mask_along() -> None:
    batch = make_batch(8)
    out = Occlude({"scarf": 1.0})(batch, draws(batch))
    flipped = HorizontalFlip(1.0)(out, draws(out))
    assert torch.equal(flipped["occlusion"], out["occlusion"].flip(2))


class Where(Transform):
    """Notes the thread that it runs in."""

    on_host = False

    def __init__(self, seen: list[str], on_host: bool) -> None:
        self.seen, self.on_host = seen, on_host

    def __call__(self, batch: Batch, draws: Draws) -> Batch:
        self.seen.append(threading.current_thread().name)
        return batch


@pytest.mark.parametrize("prefetch", [0, 2])
def test_leading_host_transforms_run_while_reading(prefetch: int) -> None:
    def epoch(transforms: list[Transform], micro: int) -> list[Batch]:
        loader = BatchLoader(FakeSet(24, (32, 32)), 8, micro, transforms=transforms, prefetch=prefetch, seed=1)
        return [micro_batch for batches in loader.epoch(1) for micro_batch in batches]

    first: list[str] = []
    later: list[str] = []
    chain = [Occlude("ms1m"), Where(first, True), HorizontalFlip(), Where(later, True)]
    got = epoch(chain, 8)
    reader = "facex-loader" if prefetch else threading.current_thread().name
    assert set(first) == {reader} and set(later) == {threading.current_thread().name}
    # The same pictures as from the transforms alone, and from other micro-batches.
    plain = BatchLoader(FakeSet(24, (32, 32)), 8, 8, prefetch=0, seed=1)
    alone = BatchLoader(FakeSet(24, (32, 32)), 8, 8, transforms=chain, prefetch=0, seed=1)
    for number, (batches, done) in enumerate(zip(plain.epoch(1), got, strict=True)):
        assert same(alone.transform(batches[0], plain.batches_per_epoch + number), done)
    halves = epoch(chain, 4)
    for k, whole in enumerate(got):
        assert torch.equal(torch.cat([halves[2 * k]["image"], halves[2 * k + 1]["image"]]), whole["image"])


def test_configured_by_yaml() -> None:
    parser = ArgumentParser()
    parser.add_argument("--transforms", type=list[Transform])
    text = "[{class_path: facex.data.occluders.Occlude, init_args: {policy: {glasses: 0.2, hand: 0.1}}}]"
    (made,) = parser.instantiate(parser.parse_args(["--transforms", text])).transforms
    assert isinstance(made, Occlude) and made.shares == {"none": pytest.approx(0.7), "glasses": 0.2, "hand": 0.1}
    assert repr(made) == "Occlude({none: 0.7, glasses: 0.2, hand: 0.1})"


def test_policies_that_are_refused(tmp_path) -> None:
    for policy, message in [
        ("ms2m", "did you mean 'ms1m'"),
        ({"sunglasses": 0.1}, "did you mean 'glasses'"),
        ({"glasses": 1.5}, "no probability"),
        ({"glasses": -0.1}, "no probability"),
        ({"glasses": float("nan")}, "no probability"),
        ({"glasses": 0.7, "scarf": 0.4}, "sum to 1.1"),
        ({"none": 0.5, "scarf": 0.4}, "sum to 0.9"),
    ]:
        with pytest.raises(ConfigError, match=message):
            Occlude(policy)
    with pytest.raises(ConfigError, match="never takes"):
        Occlude({"scarf": 0.5}, assets={"hand": str(tmp_path)})
    with pytest.raises(DataError, match=r"holds no \.png"):
        Occlude({"hand": 0.5}, assets={"hand": str(tmp_path)})
    batch = make_batch(2)
    with pytest.raises(ConfigError, match="no image field 'picture'"):
        Occlude(field="picture")(batch, draws(batch))
    small = make_batch(2, (8, 8))
    with pytest.raises(DataError, match="16 a side"):
        Occlude()(small, draws(small))
