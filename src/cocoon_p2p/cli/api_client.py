"""The other end of the local API: HTTP over the Unix socket of the running node.

The standard library's client, with a connection for each call: any thread may call, nothing stays open between calls, and
a command starts without importing an HTTP library."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cocoon_p2p.errors import CocoonError, ConfigError, TransportError
from cocoon_p2p.gateway.errors_json import error_from_json
from cocoon_p2p.gateway.frames import decode_frame, decode_json, encode_frame, frame_bytes
from cocoon_p2p.limits import API_BODY_BYTES_MAX, API_LINE_BYTES_MAX
from cocoon_p2p.tensors import Payload, PayloadError

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
"""A cold lookup of offers takes a few seconds; adding a model of some GB hashes it first."""
PIECE_BYTES = 1024 * 1024
"""Of an answer, read at once."""


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
    """Calls of a running node, from any thread. Every method raises CocoonError: the node's, or TransportError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, address: str, **parameters: Any) -> dict[str, Any]:
        """The JSON object at an address, such as "/v1/status"; parameters that are None are left out."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return decode_json(bytes(self._call("GET", f"{address}?{urlencode(given)}" if given else address)))

    def get_bytes(self, address: str) -> bytes:
        """What stands at an address that answers with a file."""
        return bytes(self._call("GET", address))

    def post(
        self, address: str, value: Mapping[str, Any], *, timeout_s: float | None = READ_TIMEOUT_S
    ) -> dict[str, Any]:
        """`timeout_s` without a word from the node; None: as long as it takes."""
        return decode_json(bytes(self._post_json(address, value, timeout_s)))

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
            body=_bytes_of(pieces),
            headers={"content-length": str(size), "content-type": "application/octet-stream"},
            timeout_s=None,
        )
        return decode_frame(answer)

    def generate(self, head: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """One answer: its lines (gateway/generate_json.py), each as it comes. The node bounds the time; closing the iterator stops the
        job."""
        body = json.dumps(head).encode()
        headers = {"content-length": str(len(body)), "content-type": "application/json"}
        connection = _UnixConnection(self._path, None)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # it may refuse before it read all, and says why
                connection.request("POST", "/v1/generate", body=body, headers=headers)
            response = connection.getresponse()
            if response.status >= 400:
                raise _error(response.status, _read(response))
            row: dict[str, Any] = {}
            while line := response.readline(API_LINE_BYTES_MAX):
                row = decode_json(line)
                yield row
            if "result" not in row:
                raise IncompleteRead(b"")
        except (OSError, HTTPException) as error:
            raise _gone(error) from error
        finally:
            connection.close()

    def canary(self, model: str, seed: int) -> tuple[dict[str, Any], Payload]:
        """What the node's own engine answers to a made-up input (`Node.own_answer`)."""
        return decode_frame(self._post_json("/v1/canary", {"model": model, "seed": seed}, READ_TIMEOUT_S))

    def _post_json(self, address: str, value: Mapping[str, Any], timeout_s: float | None) -> bytearray:
        body = json.dumps(value).encode()
        headers = {"content-length": str(len(body)), "content-type": "application/json"}
        return self._call("POST", address, body=iter([body]), headers=headers, timeout_s=timeout_s)

    def _call(
        self,
        method: str,
        address: str,
        *,
        body: Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = READ_TIMEOUT_S,
    ) -> bytearray:
        connection = _UnixConnection(self._path, timeout_s)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # it may refuse before it read all, and says why
                connection.request(method, address, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            answer = _read(response)
        except (OSError, HTTPException) as error:
            raise _gone(error) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise _error(response.status, answer)
        return answer


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("node")
        self._path, self._timeout_s = path, timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)  # `close` closes it, also when nobody listens
        self.sock.settimeout(CONNECT_TIMEOUT_S)
        self.sock.connect(str(self._path))
        self.sock.settimeout(self._timeout_s)


def _read(response: HTTPResponse) -> bytearray:
    body = bytearray()
    while piece := response.read1(PIECE_BYTES):
        body += piece
        if len(body) > API_BODY_BYTES_MAX:
            raise TransportError("the node's answer is too long", outcome_known=True)
    if response.length:
        raise IncompleteRead(b"", response.length)
    return body


def _gone(error: Exception) -> TransportError:
    return TransportError(
        f"the node stopped answering: {error or type(error).__name__}", outcome_known=False, code="NODE_GONE"
    )


def _bytes_of(pieces: list[bytes | memoryview]) -> Iterator[bytes]:
    for piece in pieces:
        yield bytes(piece)


def _error(status: int, body: bytearray) -> CocoonError:
    try:
        return error_from_json(status, decode_json(bytes(body)))
    except ConfigError:
        return CocoonError(f"the node answered with status {status}", code="INTERNAL")
