"""The body of `POST /v1/run` and of its answer: u32 big-endian length ‖ JSON of that length ‖ payload container (payload/1).

Both ends use this file; it imports neither a web framework nor numpy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import API_HEAD_BYTES_MAX
from cocoon_p2p.tensors import Payload, PayloadError, decode_payload, encode_payload

LENGTH_BYTES = 4
PIECE_BYTES = 1024 * 1024
"""What is written to a socket at once: a larger piece would be copied whole three times on its way out."""


def encode_frame(head: Mapping[str, Any], payload: Payload) -> list[bytes | memoryview]:
    """The pieces of a body, none above PIECE_BYTES; tensor data is not copied. Raises PayloadError."""
    text = encode_json(head)
    pieces: list[bytes | memoryview] = [len(text).to_bytes(LENGTH_BYTES) + text]
    for part in encode_payload(payload):
        view = memoryview(part)
        pieces += [view[start : start + PIECE_BYTES] for start in range(0, len(view), PIECE_BYTES)]
    return pieces


def frame_bytes(pieces: list[bytes | memoryview]) -> int:
    """The length of a body."""
    return sum(len(piece) for piece in pieces)


def decode_frame(body: bytes | bytearray | memoryview) -> tuple[dict[str, Any], Payload]:
    """The JSON object and the payload, whose tensors are views into `body`. Raises ConfigError for anything malformed:
    the sender is a program of this machine's own user."""
    view = memoryview(body)
    length = int.from_bytes(view[:LENGTH_BYTES])
    if len(view) < LENGTH_BYTES + length or length > API_HEAD_BYTES_MAX:
        raise ConfigError("the body ends within its JSON head, or the head's length is wrong", code="MALFORMED")
    head = decode_json(bytes(view[LENGTH_BYTES : LENGTH_BYTES + length]))
    try:
        return head, decode_payload(view[LENGTH_BYTES + length :])
    except PayloadError as error:
        raise ConfigError(f"the payload is malformed: {error}", code="MALFORMED") from error


def encode_json(value: Any) -> bytes:
    """Compact JSON. Numbers are finite."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def decode_json(raw: bytes) -> dict[str, Any]:
    """A JSON object. Raises ConfigError."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ConfigError(f"not JSON: {error}", code="MALFORMED") from error
    if not isinstance(value, dict):
        raise ConfigError("a JSON object is wanted", code="MALFORMED")
    return value
