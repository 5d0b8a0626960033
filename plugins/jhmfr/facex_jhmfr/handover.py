"""Starting a FaceT from a file or a run: a fine-tuned network, or the encoder of a masked autoencoder.

The published trainer loads whatever names fit and says nothing when none do. Here at least 90 % of the names must.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from facex.errors import CheckpointError
from facex.methods import LoadReport, Method, Source
from facex.methods.formats import compare, shorten
from facex.methods.loading import choose_format, load_network, read_state
from facex_jhmfr.formats import encoder_of, is_autoencoder

SHARE = 0.9
PROMPTS = ("prompts", "prompts_pool.")  # what a pre-trained encoder does not have


def start_from(method: Method, network: str, source: Source) -> LoadReport:
    """Load `source` into a network of `method`.

    The encoder of a masked autoencoder leaves the prompts as they are drawn; everything else about it, and every other
    file, must fit as `source.strict` says, and by at least 90 % of the names in any case.

    Raises:
        CheckpointError: an unreadable file, or one that does not fit; the names are listed.
    """
    where, module = str(source.path), method.networks()[network]
    state, autoencoder = _read(method, network, source)
    check_share(module, state, where, autoencoder)
    report = load_network(module, state, where, network, strict=source.strict and not autoencoder)
    if autoencoder and source.strict:
        left = [n for n in report.missing if not n.startswith(PROMPTS)] + report.unexpected
        if left:
            raise CheckpointError(
                f"{where}: the autoencoder's encoder does not fit {type(module).__name__}: {shorten(left)}. Give the "
                "backbone options of the pre-training (width, depth, patches, embedding size), or strict: false"
            )
    title = f"{where}: encoder of a masked autoencoder -> {network}" if autoencoder else f"{where} -> {network}"
    prefix = f"{network}."
    return LoadReport(
        title,
        [prefix + n for n in report.loaded],
        [prefix + n for n in report.missing],
        [prefix + n for n in report.unexpected],
    )


def check_share(module: nn.Module, state: Mapping[str, Tensor], where: str, autoencoder: bool) -> None:
    """CheckpointError with the list when fewer than 90 % of the network's names, or of the file's, find their match."""
    own = module.state_dict()
    if autoencoder:
        own = {name: value for name, value in own.items() if not name.startswith(PROMPTS)}
    missing, unexpected, shapes = compare(own, state)
    matched = len(own) - len(missing) - len(shapes)
    share = matched / max(len(own), len(state), 1)
    if share >= SHARE:
        return
    lines = [
        f"{where}: {matched} of {max(len(own), len(state))} names fit {type(module).__name__} ({share:.0%}): the wrong "
        "kind of file, or another architecture"
    ]
    lines += [f"  missing in the file: {shorten(missing, 12)}"] if missing else []
    lines += [f"  left over in the file: {shorten(unexpected, 12)}"] if unexpected else []
    lines += [f"  {name}: the file has {got}, the network {want}" for name, want, got in shapes[:4]]
    raise CheckpointError("\n".join(lines))


def _read(method: Method, network: str, source: Source) -> tuple[Mapping[str, Tensor], bool]:
    """The network's tensors in a file or run, and whether they come from a masked autoencoder."""
    path = Path(source.path)
    if path.is_dir():
        return _read_run(path, network)
    state = read_state(path)
    if source.format is None and is_autoencoder(state):
        return encoder_of(state), True
    try:
        layout = choose_format(method, state, source.format, str(path))
    except CheckpointError:
        if source.format is not None:
            raise
        return state, False  # of no known layout: the comparison lists what is wrong with it
    return layout.read(dict(state))["networks"][network], layout.name == "jhmfr-mae"


def _read_run(path: Path, network: str) -> tuple[Mapping[str, Tensor], bool]:
    from facex.train.checkpoint_folder import open_checkpoint

    networks: dict[str, dict[str, Tensor]] = {}
    for name, value in open_checkpoint(path).method_state().items():
        kind, _, rest = name.partition(".")
        if kind == "networks":
            owner, _, key = rest.partition(".")
            networks.setdefault(owner, {})[key] = value
    for state in networks.values():
        if is_autoencoder(state):
            return encoder_of(state), True
    found: Any = networks.get(network, next(iter(networks.values()), {}))
    return found, False
