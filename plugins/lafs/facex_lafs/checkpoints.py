"""Files of LAFS: what kind one is, what networks it holds, and how runs and official files initialise a method. Strict.

    part_fvit   a state dict with `stn`, `output_layer` and the transformer (stage 1, fine-tuned), with class centres
    `loss.weight` fvit        the same without a landmark network
    ssl         a dict with `teacher` and `student` (pre-training), a projection head in each
    run         a folder of facex's own

Names are taken without `module.`, `backbone.` and `encoder.`, which different trainers put before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from facex.errors import CheckpointError
from facex.methods import Format, LoadReport, Source
from facex.methods.formats import shorten
from facex.methods.loading import load_network, read_state
from facex.train.checkpoint_folder import open_checkpoint

if TYPE_CHECKING:
    from facex_lafs.finetune import LAFS
    from facex_lafs.pretrain import LAFSPretrain

Kind = Literal["part_fvit", "fvit", "ssl", "run"]
LANDMARKS = ("stn.", "output_layer.")
HEAD_KEY = "loss.weight"
_PREFIXES = ("module.", "backbone.", "encoder.")
# of the official landmark network for pre-training: parameters that nothing uses
_UNUSED = ("global_token.", "mask_token")
_WORDS = {
    "part_fvit": "a supervised Part fViT (stage 1 or fine-tuned)",
    "fvit": "an fViT without landmark network",
    "ssl": "a self-supervised file (teacher and student)",
    "run": "a facex run",
}


@dataclass
class Contents:
    """What a file holds: the transformer and the landmark network by their own names, class centres [C, D]."""

    kind: Kind
    where: str
    transformer: dict[str, Tensor] = field(default_factory=dict)
    landmarks: dict[str, Tensor] = field(default_factory=dict)
    head: Tensor | None = None

    @property
    def words(self) -> str:
        """The kind in words."""
        return _WORDS[self.kind]


def stripped(name: str) -> str:
    """A name without what trainers put before it, wherever it stands."""
    for prefix in _PREFIXES:
        name = name.replace(prefix, "")
    return name


def read_file(path: str | Path, branch: Literal["teacher", "student"] = "teacher") -> Contents:
    """The contents of an official file or a facex run.

    `branch`: whose weights of a self-supervised file. Nothing is unpickled freely. Raises CheckpointError for a file
    that is none of LAFS's.
    """
    if Path(path).is_dir():
        return _read_run(Path(path), branch)
    return sort_state(read_state(path), str(path), branch)


def sort_state(state: Mapping[str, Tensor], where: str, branch: str = "teacher") -> Contents:
    """The contents of a flat mapping of tensors."""
    kind: Kind = "fvit"
    if any(key.startswith(("teacher.", "student.")) for key in state):
        kind = "ssl"
        state = {k.removeprefix(f"{branch}."): v for k, v in state.items() if k.startswith(f"{branch}.")}
        if not state:
            raise CheckpointError(f"{where}: a self-supervised file without {branch!r}")
    found = Contents(kind, where)
    for key, value in state.items():
        name = stripped(key)
        if name == HEAD_KEY:
            found.head = (
                value if kind != "ssl" else None
            )  # a self-supervised file's head is left over from an unused layer
        elif name.startswith(LANDMARKS):
            found.landmarks[name] = value
        elif not name.startswith(("head.", "loss.", *_UNUSED)):
            found.transformer[name] = value
    if kind == "fvit" and found.landmarks:
        found.kind = "part_fvit"
    if not any(
        name.startswith("transformer.layers.0.") or name.startswith("stn.")
        for name in (*found.transformer, *found.landmarks)
    ):
        raise CheckpointError(
            f"{where}: matches nothing of an fViT or Part fViT (its names: {shorten(list(state))}). Another method's "
            "file?"
        )
    return found


def _read_run(path: Path, branch: str) -> Contents:
    """A run of LAFS (network `backbone`) or of LAFSPretrain (`teacher`, `student`, `landmarks`)."""
    checkpoint = open_checkpoint(path)
    state, found = checkpoint.method_state(), Contents("run", str(path))
    student = {"teacher": "frozen.teacher.", "student": "networks.student."}[branch]
    for key, value in state.items():
        if key.startswith("frozen.landmarks."):
            found.landmarks[key.removeprefix("frozen.landmarks.")] = value
        elif key.startswith(f"{student}backbone."):
            found.transformer[key.removeprefix(f"{student}backbone.")] = value
        elif key.startswith("networks.backbone."):
            name = key.removeprefix("networks.backbone.")
            (found.landmarks if name.startswith(LANDMARKS) else found.transformer)[name] = value
    if not found.transformer:
        raise CheckpointError(
            f"{path}: neither a run of LAFS nor one of LAFSPretrain (its names: {shorten(list(state))})"
        )
    return found


def _branch(source: Source) -> Literal["teacher", "student"]:
    return "student" if source.format == "lafs-ssl-student" else "teacher"


# -- initialising the supervised method --------------------------------------------------------------------------------
def init_finetuning(method: LAFS, sources: Sequence[Source]) -> list[LoadReport]:
    """`network`: transformer (from a self-supervised file), landmarks (from a stage-1 file), or unset for both at
    once."""
    return [_init_finetuning(method.backbone, source) for source in sources]


def _init_finetuning(backbone: nn.Module, source: Source) -> LoadReport:
    found = read_file(source.path, _branch(source))
    own = backbone.state_dict()
    part = source.network or "backbone"
    if part == "landmarks":
        return _load(
            backbone, landmarks_of(found), _names(own, landmarks=True), found.where, "landmarks", source.strict
        )
    if part == "transformer":
        if found.kind == "part_fvit":
            raise CheckpointError(
                f"{found.where}: {found.words} is given where a self-supervised file is expected (network: "
                "transformer). Give "
                "the file of pre-training, or leave `network` out to start from this one whole"
            )
        return _load(
            backbone, found.transformer, _names(own, landmarks=False), found.where, "transformer", source.strict
        )
    if part != "backbone":
        raise CheckpointError(f"{found.where}: network {part!r} is none of backbone, transformer and landmarks")
    wanted = bool(_names(own, landmarks=True))
    if wanted and not found.landmarks:
        raise CheckpointError(
            f"{found.where}: {found.words} holds no landmark network, which the Part fViT needs. Give it with network: "
            "transformer, and "
            "the stage-1 file with network: landmarks"
        )
    state = {**found.transformer, **(found.landmarks if wanted or found.kind == "part_fvit" else {})}
    return _load(backbone, state, list(own), found.where, "backbone", source.strict)


def landmarks_of(found: Contents) -> dict[str, Tensor]:
    """The landmark network of a file; CheckpointError where it has none."""
    if not found.landmarks:
        raise CheckpointError(
            f"{found.where}: {found.words} is given where a landmark network is expected (network: landmarks): it "
            "holds none. Give the "
            "stage-1 file, a supervised Part fViT"
        )
    return found.landmarks


def _names(own: Mapping[str, Tensor], landmarks: bool) -> list[str]:
    return [name for name in own if name.startswith(LANDMARKS) is landmarks]


class _Part(nn.Module):
    """Some tensors of a network as a network of their own, for strict loading."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The chosen tensors."""
        whole = self.module.state_dict()
        return {name: whole[name] for name in self.names}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Into the network."""
        return self.module.load_state_dict(state_dict, strict=False)


def _load(
    module: nn.Module, state: Mapping[str, Tensor], names: Sequence[str], where: str, part: str, strict: bool
) -> LoadReport:
    return load_network(_Part(module, names), state, where, part, strict)


# -- initialising pre-training -----------------------------------------------------------------------------------------
def init_pretraining(method: LAFSPretrain, sources: Sequence[Source]) -> list[LoadReport]:
    """`network`: landmarks (the default: a stage-1 file), or student, from a self-supervised file or run, which the
    teacher takes too."""
    reports = []
    for source in sources:
        part = source.network or "landmarks"
        if part == "landmarks":
            if method.landmark_network is None:
                raise CheckpointError(f"{source.path}: recipe dino has no landmark network; leave the file out")
            state = landmarks_of(read_file(source.path))
            names = list(method.landmark_network.state_dict())
            reports.append(_load(method.landmark_network, state, names, str(source.path), part, source.strict))
            method.mark_landmarks()
        elif part == "student":
            found = read_file(source.path, _branch(source))
            if found.kind == "part_fvit":
                raise CheckpointError(
                    f"{found.where}: {found.words} is given where a self-supervised file is expected (network: student)"
                )
            for net in (method.student.backbone, method.teacher.backbone):
                reports.append(_load(net, found.transformer, list(net.state_dict()), found.where, part, source.strict))
        else:
            raise CheckpointError(f"{source.path}: network {part!r} is none of landmarks and student")
    return reports


# -- official layouts --------------------------------------------------------------------------------------------------
def ssl_format(method: LAFSPretrain) -> Format:
    """The file of pre-training: `student` (names from inside DDP), `teacher`, and the centre of its logits."""
    heads = (list(method.student.state_dict()), [k for k in method.teacher.state_dict() if k != "center"])

    def read(state: dict[str, Any]) -> dict[str, Any]:
        student = {
            k.removeprefix("student.").removeprefix("module."): v for k, v in state.items() if k.startswith("student.")
        }
        teacher = {
            k.removeprefix("teacher.").removeprefix("module."): v for k, v in state.items() if k.startswith("teacher.")
        }
        unused = f"backbone.{HEAD_KEY}"
        student.pop(unused, None), teacher.pop(unused, None)
        center = state.get("dino_loss.center", method.teacher.center)
        return {
            "networks": {"student": student or dict(teacher), "teacher": {**teacher, "center": center}},
            "head": None,
            "meta": {},
        }

    def write(content: dict[str, Any]) -> dict[str, Any]:
        networks = content["networks"]
        student = {f"student.module.{k}": networks["student"][k] for k in heads[0]}
        teacher = {f"teacher.{k}": networks["teacher"][k] for k in heads[1]}
        return {**student, **teacher, "dino_loss.center": networks["teacher"]["center"]}

    return Format(
        "lafs-ssl",
        lambda state: "teacher.backbone.cls_token" in state or "teacher.module.backbone.cls_token" in state,
        read,
        write,
        "pre-training: student, teacher, centre",
        container="",
        nested=True,
    )


def recognise_ssl(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Constructor arguments of LAFSPretrain for the official file of pre-training."""
    for prefix in ("teacher.", "teacher.module."):
        found = architecture(state, f"{prefix}backbone.")
        if found is None:
            continue
        out, inner = state[f"{prefix}head.last_layer.weight_v"].shape
        bn = f"{prefix}head.mlp.6.weight" in state
        head = {"out_dim": int(out), "bottleneck_dim": int(inner), "use_bn": bn}
        head["hidden_dim"] = int(state[f"{prefix}head.mlp.0.weight"].shape[0])
        return {"backbone": "fvit_b", "backbone_options": found, "head": head}
    return None


def architecture(state: Mapping[str, Any], prefix: str) -> dict[str, Any] | None:
    """Options of the fViT whose tensors lie under `prefix`; None if there is none."""
    qkv, tokens = state.get(f"{prefix}transformer.layers.0.0.fn.fn.to_qkv.weight"), state.get(f"{prefix}pos_embedding")
    patches, inner = (
        state.get(f"{prefix}patch_to_embedding.weight"),
        state.get(f"{prefix}transformer.layers.0.1.fn.fn.net.0.weight"),
    )
    if qkv is None or tokens is None or patches is None or inner is None:
        return None
    depth = 0
    while f"{prefix}transformer.layers.{depth}.0.fn.norm.weight" in state:
        depth += 1
    return {
        "dim": int(qkv.shape[1]),
        "depth": depth,
        "heads": int(qkv.shape[0]) // (3 * 64),
        "mlp_dim": int(inner.shape[0]),
        "num_patches": int(tokens.shape[1]) - 1,
        "patch_size": round((int(patches.shape[1]) / 3) ** 0.5),
    }


def recognise_supervised(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Constructor arguments of LAFS for a supervised file."""
    for prefix in ("", "module."):
        found = architecture(state, prefix)
        if found is None:
            continue
        if f"{prefix}stn.features.0.0.weight" not in state:
            return {"backbone": "fvit_b", "backbone_options": found}
        return {"backbone": "part_fvit_b", "backbone_options": found}
    return None
