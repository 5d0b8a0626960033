"""`facex info`: versions, the compiled extension, devices, and with --backbones the table of networks."""

from __future__ import annotations

import argparse
import json
import platform
from importlib import metadata
from typing import Any

from facex import __version__


def main(argv: list[str]) -> int:
    """Print what this installation is and can do. Something that is missing is named, never an error."""
    parser = argparse.ArgumentParser(prog="facex info", description=__doc__)
    parser.add_argument("--backbones", action="store_true", help="the table of backbones: parameters, FLOPs, embedding")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    if options.backbones:
        rows = backbone_rows()
        print(json.dumps({"backbones": rows}, indent=2) if options.json else _table(rows))
        return 0
    facts = collect()
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        width = max(map(len, facts))
        print("\n".join(f"{name:<{width}}  {value}" for name, value in facts.items()))
    return 0


def collect() -> dict[str, str]:
    """Facts by name, in the order they are printed."""
    import torch

    facts = {
        "facex": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "deepspeed": _version("deepspeed"),
        "numpy": _version("numpy"),
        "opencv": _version("opencv-python-headless", "opencv-python"),
        "jsonargparse": _version("jsonargparse"),
    }
    facts |= _extension()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(count))
    facts["cuda"] = f"{torch.version.cuda}, {count} device(s): {names}" if count else "no device"
    facts["cpu threads"] = str(torch.get_num_threads())
    return facts


def backbone_rows() -> list[dict[str, Any]]:
    """One row per registered backbone; one that cannot be built carries its error."""
    from facex.errors import FacexError
    from facex.models import backbone_names, describe_backbone

    rows: list[dict[str, Any]] = []
    for name in backbone_names():
        try:
            info = describe_backbone(name)
        except FacexError as error:
            rows.append({"name": name, "error": str(error)})
            continue
        rows.append(
            {
                "name": name,
                "parameters": info.parameters,
                "gflops": round(info.flops / 1e9, 3),
                "embedding": info.embedding_size,
                "input": f"{info.input_size[0]}x{info.input_size[1]}",
                "summary": info.summary,
                "from": info.distribution,
            }
        )
    return rows


def _table(rows: list[dict[str, Any]]) -> str:
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'name':<{width}} {'parameters':>13} {'GFLOPs':>9} {'embedding':>9} {'input':>9}  what"]
    for row in rows:
        if "error" in row:
            lines.append(f"{row['name']:<{width}} ERROR {row['error']}")
            continue
        origin = "" if row["from"] == "facex-train" else f" [{row['from']}]"
        lines.append(
            f"{row['name']:<{width}} {row['parameters']:>13,} {row['gflops']:>9.3f} {row['embedding']:>9} {row['input']:>9}"
            f"  {row['summary']}{origin}"
        )
    return "\n".join(lines)


def _version(*names: str) -> str:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def _extension() -> dict[str, str]:
    """State of facex._C: for which torch it was built, with CUDA kernels or without, and who decodes JPEG."""
    from facex.errors import ExtensionError
    from facex.ops.extension import extension

    try:
        module = extension()
    except ExtensionError as error:
        return {"extension": f"unusable: {error}", "jpeg decoder": "unknown without the extension"}
    kernels = "CPU and CUDA kernels" if module.cuda else "CPU kernels"
    return {
        "extension": f"built for torch {module.torch_version}, {kernels}",
        "jpeg decoder": str(module.jpeg_backend()),
    }
