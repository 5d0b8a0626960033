"""The occlusion protocol against a loop that draws, embeds and counts by itself; its settings; ranks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facex.data.verification import VerificationSet, load_bin, write_bin
from facex.errors import ConfigError, DataError, VerificationSetError
from facex.eval.occlusion import OcclusionCurve, OcclusionProtocol
from facex.eval.occlusion_input import KeyedGenerators
from facex.eval.occlusion_run import evaluate_occlusion
from facex.eval.run import evaluate_set
from facex.methods import Embedding, InputSpec, Method
from facex.methods.method import Nets
from tests.eval.tiny import faces, make_bin

SIZE = 32


class Seeing(Method):
    """A linear embedding whose map calls black pixels occluded: right but for what is black itself."""

    input = InputSpec(SIZE, SIZE, "bgr")

    def __init__(self, chance: bool = False) -> None:
        super().__init__()
        self.chance = chance
        self.net = nn.Linear(3 * SIZE * SIZE, 12, bias=False)
        with torch.no_grad():
            self.net.weight.normal_(generator=torch.Generator().manual_seed(3))

    def networks(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def embed(
        self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
    ) -> Embedding:
        vector = nets["net"](images.flatten(1))
        if flip:
            vector = vector + nets["net"](images.flip(3).flatten(1))
        black = (images == -1).all(1)
        return Embedding(vector, maps={"occlusion": black.float() if self.chance else black.to(torch.uint8) * 255})


class Small(VerificationSet):
    """A set whose pictures keep their size of 32 pixels."""

    def decode(self, color: str = "rgb", size: int | None = None, *args: Any, **options: Any) -> np.ndarray:  # type: ignore[override]
        return super().decode(color, None, *args, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def small() -> VerificationSet:
    """Twelve pairs of faces without black pixels."""
    pictures = np.concatenate([faces(12, size=SIZE), faces(12, seed=1, size=SIZE)], 1).clip(5, 255)
    issame = np.arange(12) % 2 == 0
    entries = [pictures[i, k] for i in range(12) for k in ((0, 1) if issame[i] else (0, 3))]
    return Small([cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in entries], issame, "small")


def run(one: VerificationSet, protocol: OcclusionProtocol, **options: Any) -> OcclusionCurve:
    method = Seeing()
    settings: dict[str, Any] = {"batch_size": 5, "folds": 4, "fars": (0.2,), **options}
    return evaluate_occlusion(method, method.networks(), one, protocol, **settings)


def by_hand(one: VerificationSet, ratio: int, repeat: int, shared: bool, both: bool) -> float:
    """Accuracy of a pass: squares drawn here, embeddings by NumPy, every threshold tried on every fold."""
    weight = Seeing().net.weight.detach().numpy().astype(np.float64)
    side, name = int((ratio * 0.01 * SIZE * SIZE) ** 0.5), f"block {ratio} %"

    def embed(image: np.ndarray) -> np.ndarray:
        return weight @ ((image[..., ::-1].transpose(2, 0, 1).astype(np.float64) - 127.5) / 127.5).ravel()

    def occlude(image: np.ndarray, entry: int, mirrored: bool) -> np.ndarray:
        image = image[:, ::-1].copy() if mirrored else image.copy()
        if both or entry % 2 == 0:
            rng = KeyedGenerators(0, name, repeat, mirrored)(entry)
            x, y = rng.randint(0, SIZE - side + 1), rng.randint(0, SIZE - side + 1)
            image[y : y + side, x : x + side] = 255
        return image

    vectors = []
    for entry, image in enumerate(one.decode("rgb")):
        first = occlude(image, entry, False)
        second = first[:, ::-1] if shared else occlude(image, entry, True)
        vector = embed(first) + embed(second)
        vectors.append(vector / np.linalg.norm(vector))
    left, right = np.array(vectors[0::2]), np.array(vectors[1::2])
    distance = ((left - right) ** 2).sum(1)
    accuracies = []
    for fold in np.split(np.arange(12), 4):
        rest = np.setdiff1d(np.arange(12), fold)
        grid = np.arange(0, 4, 0.01)
        best = grid[np.argmax([np.mean((distance[rest] < t) == one.issame[rest]) for t in grid])]
        accuracies.append(np.mean((distance[fold] < best) == one.issame[fold]))
    return float(np.mean(accuracies))


@pytest.mark.parametrize(("flips", "both"), [("independent", True), ("shared", True), ("independent", False)])
def test_equals_a_loop(small: VerificationSet, flips: str, both: bool) -> None:
    protocol = OcclusionProtocol((0, 30, 70), fill="white", repeats=3, both=both, flip_occlusion=flips)  # type: ignore[arg-type]
    curve = run(small, protocol)
    for point in curve.points[1:]:
        ratio = point.condition.ratio or 0
        expected = [by_hand(small, ratio, k, flips == "shared", both) for k in range(3)]
        assert point.accuracies == pytest.approx(expected)
        assert point.area == int((ratio / 100 * SIZE**2) ** 0.5) ** 2 / SIZE**2
    summary = curve.summary()
    assert [p["ratio"] for p in summary["points"]] == [0, 30, 70]
    assert summary["points"][0]["accuracy_interval"] is None
    assert summary["points"][1]["accuracy_interval"] >= 0


def test_the_clean_condition_is_the_plain_evaluation(small: VerificationSet) -> None:
    method = Seeing()
    plain = evaluate_set(method, method.networks(), small, folds=4, fars=(0.2,))
    point = run(small, OcclusionProtocol((0,))).points[0]
    assert point.accuracies.tolist() == [plain.pairs.accuracy]
    assert point.tars[0.2].tolist() == [plain.pairs.tar_at_far[0.2]]
    assert point.area == 0


def test_batch_size_and_other_conditions_change_nothing(small: VerificationSet) -> None:
    one = run(small, OcclusionProtocol((50,), repeats=2), batch_size=1).points[-1]
    two = run(small, OcclusionProtocol((0, 20, 50), ("block", "ellipse"), repeats=2)).points[2]
    assert np.array_equal(one.accuracies, two.accuracies)
    assert one.tars[0.2].tolist() == two.tars[0.2].tolist()
    other = run(small, OcclusionProtocol((50,), repeats=2, seed=1)).points[-1]
    assert not np.array_equal(one.tars[0.2], other.tars[0.2]) or not np.array_equal(one.accuracies, other.accuracies)


@pytest.mark.parametrize("chance", [False, True])
def test_iou_of_a_map_that_is_right(small: VerificationSet, chance: bool) -> None:
    """Black blocks are what the map calls occluded; with white ones it sees nothing."""
    method = Seeing(chance)
    for fill, occluded in (("black", 1.0), ("white", 0.0)):
        protocol = OcclusionProtocol((0, 40), fill=fill, repeats=2)
        curve = evaluate_occlusion(method, method.networks(), small, protocol, folds=4)
        clean, block = (point.iou for point in curve.points)
        assert clean is not None
        assert block is not None
        assert np.isnan(clean.occluded)
        assert clean.clean == clean.mean == 1.0
        assert block.occluded == occluded
        assert block.pixels == 2 * 24 * SIZE * SIZE
    assert curve.summary()["points"][0]["iou"] == {"occluded": None, "clean": 1.0, "mean": 1.0}


def test_two_networks_are_compared_draw_by_draw(small: VerificationSet) -> None:
    one = run(small, OcclusionProtocol((0, 50), repeats=3))
    two = run(small, OcclusionProtocol((0, 50), repeats=3))
    two.points[1].accuracies = one.points[1].accuracies - np.array([0.1, 0.2, 0.3])
    clean, block = one.difference(two)
    assert clean.value == 0
    assert block.value == pytest.approx(0.2)
    assert block.half_width == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-6)
    with pytest.raises(ConfigError, match="one protocol"):
        one.difference(run(small, OcclusionProtocol((0,))))


def test_settings_are_checked() -> None:
    names = [c.name for c in OcclusionProtocol((10, 0), ("block", "polygon")).conditions()]
    assert names == ["block 10 %", "block 0 %", "polygon"]
    assert [c.name for c in OcclusionProtocol((), ("scarf",)).conditions()] == ["clean", "scarf"]
    assert [c.repeats for c in OcclusionProtocol((0, 5)).conditions()] == [1, 10]
    wrong = {
        "ratio 110": {"ratios": (110,)},
        "ratio -1": {"ratios": (-1,)},
        "ratio 2.5": {"ratios": (2.5,)},
        "given twice": {"ratios": (10, 10)},
        "0 repeats": {"repeats": 0},
        "flip_occlusion 'both'": {"flip_occlusion": "both"},
        "fill='red'": {"fill": "red"},
        "no occluder 'moustache'": {"occluders": ("moustache",)},
        "nothing to evaluate": {"occluders": ("none",)},
    }
    for message, options in wrong.items():
        with pytest.raises(ConfigError, match=message):
            OcclusionProtocol(**options)  # type: ignore[arg-type]


def test_padding_and_grey(small: VerificationSet) -> None:
    """A black border where the network's input is larger, nothing cut where it is smaller; grey is three equal channels."""
    protocol = OcclusionProtocol((25,), pad=True, grey=True, repeats=1)
    condition = protocol.conditions()[-1]
    images = small.decode("rgb", stop=2)
    for side, wanted in ((40, 40), (16, SIZE)):
        view = protocol.view(condition, images.shape[1:3], InputSpec(side, side))
        shown, masks = view(images, KeyedGenerators(0, condition.name, 0, False))
        assert shown.shape == masks.shape == (2, wanted, wanted)
        assert (masks > 0).sum() == 2 * (wanted // 2) ** 2
        border = (wanted - SIZE) // 2
        assert (shown[:, :border] == 0).all()
    seen: list[Tensor] = []

    class Recording(Seeing):
        def embed(
            self, images: Tensor, nets: Nets, side: Mapping[str, Tensor] | None = None, flip: bool = False
        ) -> Embedding:
            seen.append(images)
            return super().embed(images, nets, side, flip)

    method = Recording()
    evaluate_occlusion(method, method.networks(), small, protocol, folds=4)
    assert all(torch.equal(x[:, 0], x[:, 2]) for x in seen)


def test_bad_sets_and_networks_are_named(small: VerificationSet) -> None:
    with pytest.raises(VerificationSetError, match="small: 12 pairs do not divide into 5"):
        run(small, OcclusionProtocol((0,)), folds=5)
    method = Seeing()
    with torch.no_grad():
        method.net.weight[0, 0] = float("nan")
    with pytest.raises(DataError, match=r"small, block 10 %: .* NaN"):
        evaluate_occlusion(method, method.networks(), small, OcclusionProtocol((10, 0)), folds=4)


RANKS = """
import sys
import torch.distributed as dist
from facex.data.verification import load_bin
from facex.eval.occlusion import OcclusionProtocol
from facex.eval.occlusion_run import evaluate_occlusion
from facex.errors import FacexError
from tests.eval.test_occlusion import Seeing

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
method, protocol = Seeing(), OcclusionProtocol((0, 40), repeats=2)
common = dict(folds=5, batch_size=4, flip=True)
curve = evaluate_occlusion(method, method.networks(), load_bin(folder + "/good.bin"), protocol, **common)
open(f"{folder}/found{rank}", "w").write(repr(curve.summary()))
try:
    evaluate_occlusion(method, method.networks(), load_bin(folder + "/bad.bin"), protocol, **common)
except FacexError as error:
    open(f"{folder}/error{rank}", "w").write(str(error))
dist.destroy_process_group()
"""


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """Pairs that do not divide by the ranks; and a picture that one rank cannot decode stops both."""
    good = load_bin(make_bin(tmp_path / "good.bin", pairs=15))
    write_bin(tmp_path / "bad.bin", [*good.entries[:-1], b"no picture"], good.issame.tolist())
    processes = [
        subprocess.Popen([sys.executable, "-c", RANKS, str(rank), str(tmp_path)], cwd=Path(__file__).parents[2])
        for rank in range(2)
    ]
    method = Seeing()
    protocol = OcclusionProtocol((0, 40), repeats=2)
    alone = evaluate_occlusion(method, method.networks(), good, protocol, folds=5, batch_size=4)
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    for rank in range(2):
        assert (tmp_path / f"found{rank}").read_text() == repr(alone.summary())
        assert "cannot decode entry 29" in (tmp_path / f"error{rank}").read_text()
    assert (tmp_path / "error0").read_text().startswith("rank 1: ")
