"""A port for a rendezvous that nobody uses: tests of several processes run side by side."""

import socket


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
