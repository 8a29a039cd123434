"""Ports for servers that start later than they are chosen."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """A port that nobody uses, below those that a system gives to connections and to servers with port 0.

    One of those could be given away before it is used: a test that runs beside may start many servers.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
