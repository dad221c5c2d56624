"""Garbage at the listening port of real nodes: whoever sends it, the same processes go on serving everybody else."""

from __future__ import annotations

import random
import socket

import numpy as np
import pytest
from towns import NodeProcess, Town

pytestmark = [pytest.mark.processes, pytest.mark.slow]

GREETING = b"\x13/multistream/1.0.0\n"
OPENINGS = [
    b"",
    b"\xff" * 5000,
    b"\x80" * 50,
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    GREETING,
    GREETING + b"\x04\xff\xfe\xfd\n",
    GREETING + b"\x07/noise\n" + b"\x00\x20" + b"\x55" * 32,
    GREETING + b"\x07/noise\n" + b"\xff\xff" + b"\x55" * 65535,
    GREETING + b"\x11/plaintext/2.0.0\n",
]


def port_of(node: NodeProcess) -> int:
    return int(node.address.split("/tcp/")[1].split("/")[0])


def send(port: int, data: bytes, *, wait: bool) -> None:
    """Connect, send, perhaps see what comes, hang up."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        try:
            connection.sendall(data)
            if wait:
                connection.settimeout(0.05)
                connection.recv(100)
        except (ConnectionError, TimeoutError):
            pass  # hanging up is the right answer


@pytest.mark.parametrize("name", ["provider", "bootstrap", "client"])
def test_garbage_on_the_listening_port_harms_nobody(market_town: Town, name: str) -> None:
    rng = random.Random(7)
    node = market_town.nodes[name]
    peer_id = node.status()["peer_id"]
    for opening in [*OPENINGS, *(rng.randbytes(rng.choice((1, 10, 1000, 70_000))) for _ in range(40))]:
        send(port_of(node), opening, wait=rng.random() < 0.5)
    assert node.running
    assert node.status()["peer_id"] == peer_id
    _, outputs = market_town.nodes["client"].run("matmul", {"x": np.ones((1, 4), np.float32)})
    assert outputs["y"].shape == (1, 3)
