"""The client of the local API against sockets that misbehave. What `serve_local_api` answers: tests/unit/gateway."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cocoon_p2p.cli.api_client import LocalApi, connect
from cocoon_p2p.errors import CocoonError, TransportError
from cocoon_p2p.execution.arrays import to_payload


def listen(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen()
    server.settimeout(10)
    return server


def answered(path: Path, answer: bytes, call: Callable[[LocalApi], object], *, read: int = 65536) -> object:
    """What `call` gives when the node reads `read` bytes, answers so and goes."""

    def serve() -> None:
        stream, _ = server.accept()
        with stream:
            stream.recv(read)
            stream.sendall(answer)

    with listen(path) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return call(LocalApi(path))
        finally:
            thread.join(10)


def test_nobody_listens(tmp_path: Path) -> None:
    assert connect(tmp_path / "s") is None
    listen(tmp_path / "s").close()  # as a killed node leaves it
    assert connect(tmp_path / "s") is None
    with pytest.raises(TransportError, match="stopped answering") as caught:
        LocalApi(tmp_path / "s").get("/v1/status")
    assert caught.value.code == "NODE_GONE"
    del caught
    gc.collect()  # a socket left open would warn here


def test_an_answer_that_breaks_off(tmp_path: Path) -> None:
    for number, answer in enumerate((b"", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}", b"nonsense\r\n\r\n")):
        with pytest.raises(TransportError, match="stopped answering"):
            answered(tmp_path / str(number), answer, lambda api: api.get("/v1/status"))


def test_a_refusal_before_the_body_was_read(tmp_path: Path) -> None:
    """The node may refuse a large input at its first bytes and close: its reason is what the caller reads."""
    body = b'{"error": {"code": "LIMITS", "message": "too much"}}'
    answer = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    payload = to_payload({"x": np.zeros(4_000_000, np.float32)})
    try:
        answered(tmp_path / "s", answer, lambda api: api.run({"model": "m"}, payload), read=100)
    except CocoonError as error:
        assert error.code in ("LIMITS", "NODE_GONE")  # the kernel may drop what was sent
    else:
        raise AssertionError("a refusal was taken for an answer")


def test_parameters_that_are_none_are_left_out(tmp_path: Path) -> None:
    asked: list[bytes] = []

    def serve() -> None:
        stream, _ = server.accept()
        with stream:
            asked.append(stream.recv(65536))
            stream.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    with listen(tmp_path / "s") as server:
        thread = threading.Thread(target=serve)
        thread.start()
        assert LocalApi(tmp_path / "s").get("/v1/offers", model="a b&c", tier=None) == {}
        thread.join(10)
    assert asked[0].startswith(b"GET /v1/offers?model=a+b%26c HTTP/1.1\r\n")
