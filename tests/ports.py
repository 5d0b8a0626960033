"""What tests of several processes share: a free port, and an environment without the traces of another job."""

import os
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
JOB = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


def free_port() -> int:
    """A port for a rendezvous that nobody uses: tests run side by side."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def job_environment(**more: str) -> dict[str, str]:
    """The environment of a new job on the CPU: a process that trained before has left its own rendezvous in os.environ."""
    kept = {k: v for k, v in os.environ.items() if k not in JOB}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return kept | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PATH": path, "PYTHONPATH": str(ROOT)} | more
