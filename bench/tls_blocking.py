"""The baseline of the data socket: blocking OpenSSL sockets, TLS 1.3, one way, no event loop on either side.

`one_way_rate(certificate, payload)` starts `python -m bench.tls_blocking CERTIFICATE.pem BYTES`, which takes that many
bytes of one connection into memory that is there already, answers with one byte, and ends.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

PIECE_BYTES = 1 << 20
_PAGE_BYTES = 4096
_TIMEOUT_S = 120.0


def one_way_rate(certificate: Path, payload: memoryview, rounds: int = 1) -> float:
    """MB/s of `payload`, sent `rounds` times over, from the first byte sent to the answer that all are there."""
    expected = len(payload) * rounds
    command = (sys.executable, "-m", "bench.tls_blocking", str(certificate), str(expected))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            return _send(certificate, int(server.stdout.readline()), payload, rounds)
        finally:
            server.kill()


def _send(certificate: Path, port: int, payload: memoryview, rounds: int) -> float:
    context = ssl.create_default_context(cafile=str(certificate))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with socket.create_connection(("127.0.0.1", port), _TIMEOUT_S) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.recv(1)  # the server has its memory ready
            begun = time.perf_counter()
            for _ in range(rounds):
                for start in range(0, len(payload), PIECE_BYTES):
                    secure.sendall(payload[start : start + PIECE_BYTES])
            secure.recv(1)
            return len(payload) * rounds / (time.perf_counter() - begun) / 1e6


def _receive(certificate: str, expected: int) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        plain, _ = listener.accept()
    taken = memoryview(bytearray(expected))
    for at in range(0, expected, _PAGE_BYTES):
        taken[at] = 1  # the page is there before the clock runs
    with plain:
        plain.settimeout(_TIMEOUT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_side=True) as secure:
            secure.sendall(b"r")
            got = 0
            while got < expected:
                received = secure.recv_into(taken[got : got + PIECE_BYTES])
                if not received:
                    raise EOFError("the connection ended")
                got += received
            secure.sendall(b"k")


if __name__ == "__main__":
    _receive(sys.argv[1], int(sys.argv[2]))
