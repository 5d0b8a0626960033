"""A method's tensors by name, as they lie in `method.safetensors`, and their strict comparison with a method at hand.

networks.<network>.<key>   every trained network, under the keys of its own state_dict
frozen.<network>.<key>     frozen networks that say `saved`
method.<key>               further parameters and persistent buffers of the method (running centres, temperatures)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from facex.errors import CheckpointError
from facex.methods.method import Method

Gather = Callable[[list[nn.Parameter]], AbstractContextManager[object]]


def live_tensors(method: Method) -> dict[str, Tensor]:
    """The method's own tensors (not copies) by their names in a checkpoint."""
    tensors: dict[str, Tensor] = {}
    known: set[int] = set()
    for network, module in method.networks().items():
        tensors |= {f"networks.{network}.{k}": v for k, v in module.state_dict(keep_vars=True).items()}
        known |= {id(t) for t in (*module.parameters(), *module.buffers())}
    for network, frozen in method.frozen().items():
        if frozen.saved:
            tensors |= {f"frozen.{network}.{k}": v for k, v in frozen.module.state_dict(keep_vars=True).items()}
        known |= {id(t) for t in (*frozen.module.parameters(), *frozen.module.buffers())}
    own = method.state_dict(keep_vars=True)
    return tensors | {f"method.{k}": v for k, v in own.items() if id(v) not in known}


def method_state(method: Method, gather: Gather | None = None, keep: bool = True) -> dict[str, Tensor]:
    """Copies on the CPU of everything that a checkpoint holds of the method.

    Under ZeRO-3 give `gather=deepspeed.zero.GatheredParameters` and call it on every rank; ranks with `keep=False` take
    part and get nothing.
    """
    with gather(list(method.parameters())) if gather else nullcontext():
        if not keep:
            return {}
        return {name: value.detach().cpu().clone() for name, value in live_tensors(method).items()}


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(getattr(tensor, "ds_shape", tensor.shape))  # ZeRO-3 leaves an empty tensor and its shape


def describe_networks(method: Method) -> dict[str, str]:
    """What each network is, for messages: `{"backbone": "IResNet, 24,025,600 parameters"}`."""
    sizes = {n: sum(getattr(p, "ds_numel", p.numel()) for p in m.parameters()) for n, m in method.networks().items()}
    return {n: f"{type(m).__name__}, {sizes[n]:,} parameters" for n, m in method.networks().items()}


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names)} in all)" if len(names) > 4 else "")


def compare(method: Method, state: Mapping[str, Tensor], where: str, theirs: str = "") -> None:
    """CheckpointError unless `state` has exactly the names and shapes of the method; it lists the first differences
    and names both architectures. `theirs` describes the checkpoint's."""
    mine = {name: _shape(t) for name, t in live_tensors(method).items()}
    missing = [n for n in mine if n not in state]
    unexpected = [n for n in state if n not in mine]
    shapes = [
        f"{n} {tuple(state[n].shape)} instead of {s}"
        for n, s in mine.items()
        if n in state and tuple(state[n].shape) != s
    ]
    if not (missing or unexpected or shapes):
        return
    networks = "; ".join(f"{name}: {text}" for name, text in describe_networks(method).items())
    lines = [
        f"{where} is of another architecture.",
        f"  checkpoint: {theirs or 'not described'}",
        f"  here:       {type(method).__name__} ({networks})",
    ]
    lines += [f"  missing in the checkpoint: {_some(missing)}"] if missing else []
    lines += [f"  unknown here: {_some(unexpected)}"] if unexpected else []
    lines += [f"  other shapes: {_some(shapes)}"] if shapes else []
    lines.append("Give the method and network options of the run that wrote it (RUN/config.yaml).")
    raise CheckpointError("\n".join(lines))


def load_method_state(
    method: Method, state: Mapping[str, Tensor], where: str, theirs: str = "", only: tuple[str, ...] = ()
) -> None:
    """Copy `state` into the method, strictly (see `compare`). `only`: just the names with these prefixes, where
    engines load their networks themselves: `("frozen.", "method.")`."""
    compare(method, state, where, theirs)
    with torch.no_grad():
        for name, tensor in live_tensors(method).items():
            if not only or name.startswith(only):
                tensor.copy_(state[name])
