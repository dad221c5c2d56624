"""The other end of the local API: httpx over the Unix socket of the running node."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cocoon_p2p.errors import CocoonError, ConfigError, TransportError
from cocoon_p2p.gateway.errors_json import error_from_json
from cocoon_p2p.gateway.frames import decode_frame, decode_json, encode_frame, frame_bytes
from cocoon_p2p.limits import API_BODY_BYTES_MAX
from cocoon_p2p.tensors import Payload, PayloadError

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
"""A cold lookup of offers takes a few seconds; adding a model of some GB hashes it first."""


def connect(path: Path) -> LocalApi | None:
    """The API of the node that listens on `path`; None when none does (a socket that a killed node left behind refuses).
    Raises ConfigError when the socket belongs to somebody else."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(CONNECT_TIMEOUT_S)
    try:
        probe.connect(str(path))
    except PermissionError as error:
        raise ConfigError(f"the node that listens on {path} belongs to another user") from error
    except OSError:  # not there, refused, or a path too long to be a socket's
        return None
    finally:
        probe.close()
    return LocalApi(path)


class LocalApi:
    """Calls of a running node. A context manager. Every method raises CocoonError: the node's, or TransportError."""

    def __init__(self, path: Path) -> None:
        import httpx

        self._httpx = httpx
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(path)), base_url="http://node", timeout=timeout, trust_env=False
        )

    def __enter__(self) -> LocalApi:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.close()

    def get(self, address: str, **parameters: Any) -> dict[str, Any]:
        """The JSON object at an address, such as "/v1/status"; parameters that are None are left out."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return decode_json(bytes(self._call("GET", address, params=given)))

    def get_bytes(self, address: str) -> bytes:
        """What stands at an address that answers with a file."""
        return bytes(self._call("GET", address))

    def post(
        self, address: str, value: Mapping[str, Any], *, timeout_s: float | None = READ_TIMEOUT_S
    ) -> dict[str, Any]:
        """`timeout_s` without a word from the node; None: as long as it takes."""
        timeout = self._httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        return decode_json(bytes(self._call("POST", address, json=value, timeout=timeout)))

    def run(self, head: Mapping[str, Any], payload: Payload) -> tuple[dict[str, Any], Payload]:
        """One job: its result and its outputs, whose data are views into the answer. The node bounds the time."""
        try:
            pieces = encode_frame(head, payload)
        except PayloadError as error:
            raise ConfigError(f"the input cannot be sent: {error}") from error
        size = frame_bytes(pieces)
        if size > API_BODY_BYTES_MAX:
            raise ConfigError(f"the input has {size:,} bytes; at most {API_BODY_BYTES_MAX:,} travel in one job")
        answer = self._call(
            "POST",
            "/v1/run",
            content=_bytes_of(pieces),
            headers={"content-length": str(size), "content-type": "application/octet-stream"},
            timeout=self._httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        )
        return decode_frame(answer)

    def canary(self, model: str, seed: int) -> tuple[dict[str, Any], Payload]:
        """What the node's own engine answers to a made-up input (`Node.own_answer`)."""
        return decode_frame(self._call("POST", "/v1/canary", json={"model": model, "seed": seed}))

    def _call(self, method: str, address: str, **arguments: Any) -> bytearray:
        try:
            with self._client.stream(method, address, **arguments) as response:
                body = self._read(response)
        except self._httpx.HTTPError as error:
            raise TransportError(
                f"the node stopped answering: {error or type(error).__name__}", outcome_known=False, code="NODE_GONE"
            ) from error
        if response.status_code >= 400:
            raise _error(response.status_code, body)
        return body

    def _read(self, response: Any) -> bytearray:
        body = bytearray()
        for piece in response.iter_raw():
            body += piece
            if len(body) > API_BODY_BYTES_MAX:
                raise TransportError("the node's answer is too long", outcome_known=True)
        return body


def _bytes_of(pieces: list[bytes | memoryview]) -> Iterator[bytes]:
    for piece in pieces:
        yield bytes(piece)


def _error(status: int, body: bytearray) -> CocoonError:
    try:
        return error_from_json(status, decode_json(bytes(body)))
    except ConfigError:
        return CocoonError(f"the node answered with status {status}", code="INTERNAL")
