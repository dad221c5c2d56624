"""msgpack with bounds: the one place where bytes of a peer become Python values, and where each field is checked.

Messages are msgpack arrays with an integer tag first. Readers ignore trailing fields that they do not know; they accept
nil, booleans, integers, strings, byte strings and arrays, no maps and no extension types (protocols/README.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NoReturn

import msgpack

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import (
    JOB_ID_BYTES,
    MODEL_ID_BYTES,
    PEER_ID_BYTES,
    JobId,
    ModelId,
    PeerId,
    model_id_from_bytes,
    model_id_to_bytes,
    peer_id_from_bytes,
    peer_id_to_bytes,
)
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, FRAME_BYTES_MAX, WIRE_ARRAY_LENGTH_MAX

Bytes = bytes | bytearray | memoryview

UINT32_MAX = 2**32 - 1
INT32_MAX = 2**31 - 1
INT_MAX = 2**63 - 1
"""Times, sequence numbers: whatever fits a signed 64-bit integer."""
SIGNATURE_BYTES = 64
HASH_BYTES = 32

_REMEMBERED_IDS_MAX = 4096  # ids of the peers and models in use; base58 costs microseconds, a lookup 50 ns


def pack(fields: Sequence[Any]) -> bytes:
    """The msgpack bytes of an array, in msgpack's shortest form."""
    return msgpack.packb(fields, use_bin_type=True)  # type: ignore[no-any-return]


def unpack(frame: Bytes, what: str, *, bytes_max: int = FRAME_BYTES_MAX) -> tuple[Any, ...]:
    """The fields of a msgpack array, its integer tag first. Raises RemoteProtocolError for anything else."""
    if len(frame) > bytes_max:
        fail("BOUND", f"{what} of {len(frame)} bytes; at most {bytes_max}")
    try:
        fields = msgpack.unpackb(
            frame, raw=False, use_list=False, max_array_len=WIRE_ARRAY_LENGTH_MAX, max_map_len=0, max_ext_len=0
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise RemoteProtocolError(f"{what} is not msgpack of the kinds allowed", code="MALFORMED") from error
    if type(fields) is not tuple or not fields or type(fields[0]) is not int:
        fail("MALFORMED", f"{what} is no array that begins with an integer tag")
    return fields


def unpack_tagged(
    frame: Bytes, tag: int, count: int, what: str, *, bytes_max: int = FRAME_BYTES_MAX
) -> tuple[Any, ...]:
    """The fields of a record that has this tag and at least `count` fields, the tag among them."""
    fields = unpack(frame, what, bytes_max=bytes_max)
    if fields[0] != tag:
        fail("UNKNOWN_TAG", f"{what} has tag {fields[0]}; known here: {tag}")
    require_count(fields, count, what)
    return fields


def fail(code: str, message: str) -> NoReturn:
    raise RemoteProtocolError(message, code=code)


def require_count(fields: tuple[Any, ...], count: int, what: str) -> None:
    if len(fields) < count:
        fail("MALFORMED", f"{what} has {len(fields)} fields; {count} are needed")


def uint(value: Any, what: str, maximum: int, minimum: int = 0) -> int:
    """An integer within bounds (both included)."""
    if type(value) is not int:
        fail("MALFORMED", f"{what} is no integer")
    if not minimum <= value <= maximum:
        fail("BOUND", f"{what} is {value}; {minimum} to {maximum} are allowed")
    return value


def amount(value: Any, what: str) -> int:
    """Nanogram."""
    return uint(value, what, AMOUNT_NANOGRAM_MAX)


def time_ms(value: Any, what: str) -> int:
    """Unix milliseconds."""
    return uint(value, what, INT_MAX)


def network_id(value: Any, what: str) -> int:
    """A settlement network's global id, a signed 32-bit integer."""
    return uint(value, what, INT32_MAX, -INT32_MAX - 1)


def boolean(value: Any, what: str) -> bool:
    if type(value) is not bool:
        fail("MALFORMED", f"{what} is no boolean")
    return value


def fixed(value: Any, what: str, size: int) -> bytes:
    """A byte string of exactly `size` bytes."""
    if type(value) is not bytes or len(value) != size:
        fail("MALFORMED", f"{what} is no byte string of {size} bytes")
    return value


def fixed_or_empty(value: Any, what: str, size: int) -> bytes:
    if type(value) is not bytes or len(value) not in (0, size):
        fail("MALFORMED", f"{what} is no byte string of {size} or 0 bytes")
    return value


def blob(value: Any, what: str, maximum: int) -> bytes:
    """A byte string of up to `maximum` bytes."""
    if type(value) is not bytes:
        fail("MALFORMED", f"{what} is no byte string")
    if len(value) > maximum:
        fail("BOUND", f"{what} has {len(value)} bytes; at most {maximum}")
    return value


def text(value: Any, what: str, chars_max: int) -> str:
    """A string of up to `chars_max` characters (Unicode code points)."""
    if type(value) is not str:
        fail("MALFORMED", f"{what} is no string")
    if len(value) > chars_max:
        fail("BOUND", f"{what} has {len(value)} characters; at most {chars_max}")
    return value


def array(value: Any, what: str, count_max: int) -> tuple[Any, ...]:
    if type(value) is not tuple:
        fail("MALFORMED", f"{what} is no array")
    if len(value) > count_max:
        fail("BOUND", f"{what} has {len(value)} entries; at most {count_max}")
    return value


def job_id(value: Any) -> JobId:
    return JobId(fixed(value, "job id", JOB_ID_BYTES))


def model_id(value: Any) -> ModelId:
    return _model_id(fixed(value, "model id", MODEL_ID_BYTES))


def peer_id(value: Any, what: str) -> PeerId:
    """A peer id in its 38-byte form."""
    try:
        return _peer_id(fixed(value, what, PEER_ID_BYTES))
    except ValueError as error:
        raise RemoteProtocolError(f"{what} is no peer id of an Ed25519 key", code="MALFORMED") from error


_peer_id = lru_cache(_REMEMBERED_IDS_MAX)(peer_id_from_bytes)
_model_id = lru_cache(_REMEMBERED_IDS_MAX)(model_id_from_bytes)
peer_bytes = lru_cache(_REMEMBERED_IDS_MAX)(peer_id_to_bytes)
"""The 38-byte form of a peer id. Raises ValueError."""
model_bytes = lru_cache(_REMEMBERED_IDS_MAX)(model_id_to_bytes)
"""The 32-byte form of a model id. Raises ValueError."""
