"""The parts of MSML's network: their parameters by group, and their weights from files of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from facex.errors import CheckpointError, ConfigError
from facex.methods import Group, LoadReport, Method, Source
from facex.methods.formats import shorten
from facex.methods.loading import load_network, load_sources, read_state
from facex_msml.network import MSMLNet

PREFIXES = {"fm_ops": "frb.fm_ops.", "frb": "frb.", "osb": "osb."}
# What a plain backbone's file does not have, or may not have.
_OWN = ("fm_ops.", "decoder.")
_OPTIONAL = "num_batches_tracked"


def part_of(name: str) -> str:
    """The part that a parameter of MSMLNet belongs to: fm_ops, frb or osb."""
    return next(part for part, prefix in PREFIXES.items() if name.startswith(prefix))


def part_groups(net: MSMLNet, lr_scales: Mapping[str, float]) -> list[Group]:
    """A group a part that has trainable parameters, with its factor on the learning rate."""
    members: dict[str, list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            members.setdefault(part_of(name), []).append(parameter)
    return [Group(parameters, part, lr_scales.get(part, 1.0)) for part, parameters in members.items()]


def load_parts(method: Method, sources: Sequence[Source], parts: Mapping[str, nn.Module | None]) -> list[LoadReport]:
    """Initialise from files, in order: a source that names one of `parts` gives that module alone, wherever its tensors
    stand in the file (`frb.`, `module.`, ...); any other is read as every method's.

    Raises CheckpointError: an unreadable file, tensors that are missing or of another shape; ConfigError: a part that this
    method does not have.
    """
    reports = []
    for source in sources:
        if source.network is None or source.network not in parts:
            reports += load_sources(method, [source])
            continue
        module = parts[source.network]
        if module is None:
            raise ConfigError(f"init_from {source.path}: this method has no {source.network}")
        reports.append(_load_part(module, source, tensors_of(source.path)))
    return reports


def tensors_of(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name of a torch or safetensors file, or of the last checkpoint of a facex run."""
    if not Path(path).is_dir():
        return read_state(path)
    from facex.train.checkpoint_folder import open_checkpoint

    return dict(open_checkpoint(path).method_state())


def _load_part(module: nn.Module, source: Source, state: Mapping[str, Tensor]) -> LoadReport:
    where, own = str(source.path), module.state_dict()
    needed = [key for key in own if not key.startswith(_OWN) and not key.endswith(_OPTIONAL)]
    prefix = _prefix(needed, state, str(source.network))
    if prefix is None:
        raise CheckpointError(
            f"{where}: holds no {source.network} ({type(module).__name__}); its names: {shorten(list(state))}"
        )
    found = {key: state[prefix + key] for key in own if prefix + key in state}
    absent = {key: own[key] for key in own if key not in found and key not in needed}
    report = load_network(module, {**absent, **found}, where, str(source.network), source.strict)
    return replace(report, loaded=sorted(found), missing=sorted({*report.missing, *absent}))


def _prefix(needed: Sequence[str], state: Mapping[str, Tensor], network: str) -> str | None:
    """What stands before the names in the file: the prefix under which most of them are; of equals the network's own
    (a peer has the names of the recognition branch), then the shortest."""
    ends = (needed[0], needed[-1])
    candidates = {name.removesuffix(key) for name in state for key in ends if name.endswith(key)}
    counts = {prefix: sum(prefix + key in state for key in needed) for prefix in candidates}
    best = max(candidates, key=lambda p: (counts[p], f".{p}".endswith(f".{network}."), -len(p), p), default=None)
    return best if best is not None and 2 * counts[best] >= len(needed) else None
