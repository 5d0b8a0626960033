"""Networks that are stepped on the last of several batches alone: which batches count, and that the others leave no trace."""

from __future__ import annotations

import pytest
import torch

from facex.methods import Schedule
from facex.train.context import Clock, Shared, StepContext
from facex.train.engines import Cadence
from facex.train.launch import Ranks
from facex.train.parsing import parse

CPU = torch.device("cpu")


def test_which_batches_count() -> None:
    assert [Cadence(3, accumulate=False).due(k) for k in range(7)] == [False, False, True] * 2 + [False]
    assert all(Cadence(3).due(k) for k in range(7))
    assert (Cadence(3).window, Cadence(3, accumulate=False).window, Cadence().window) == (3, 1, 1)


def test_the_context_says_which_batches_count() -> None:
    clock, schedules = Clock(total_steps=10, batches=98), dict[str, Schedule]()
    cadences = {"slow": Cadence(100, accumulate=False), "mean": Cadence(100)}
    context = StepContext(Shared({}, None, clock, Ranks(0, 1, 0, CPU), 3, schedules, cadences), None)
    assert (context.due("slow"), context.due("mean"), context.due("other")) == (False, True, True)
    clock.batches = 99
    assert context.due("slow")


@pytest.mark.parametrize("accumulate", [True, False])
def test_it_is_an_option_of_a_network(accumulate: bool) -> None:
    words = [
        "--method",
        "Recogniser",
        "--method.margin",
        "CosFace",
        "--method.backbone",
        "resface_xs",
        "--data.path",
        "x",
    ]
    words += ["--networks", f"{{backbone: {{every: 4, accumulate: {str(accumulate).lower()}}}}}"]
    network = parse(words).config.networks["backbone"]
    assert (network.every, network.accumulate) == (4, accumulate)
