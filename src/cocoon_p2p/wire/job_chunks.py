"""job/1: INPUT and OUTPUT, whole sealed chunks of a payload (protocols/job/1/spec.md §3.5, §3.6). Written and read by hand,
because msgpack would copy their megabyte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cocoon_p2p.ids import JOB_ID_BYTES, JobId
from cocoon_p2p.limits import CHUNK_BYTES, CHUNK_OVERHEAD_BYTES, CHUNKS_PER_FRAME_MAX
from cocoon_p2p.wire import codec
from cocoon_p2p.wire.codec import Bytes

CIPHERTEXT_BYTES_MAX = CHUNKS_PER_FRAME_MAX * (CHUNK_BYTES + CHUNK_OVERHEAD_BYTES)
"""Of one INPUT or OUTPUT frame."""


@dataclass(frozen=True, slots=True)
class Input:
    """Client: whole sealed chunks of the input, one after the other. A decoded `ciphertext` is a view of the frame."""

    job_id: JobId
    ciphertext: Bytes
    final: bool

    def encode(self) -> bytes:
        return b"".join(self.pieces())

    def pieces(self) -> tuple[bytes, Bytes, bytes]:
        """The same as what stands before the ciphertext, the ciphertext, and what stands behind it."""
        return _chunk_pieces(b"\x94\x05\xc4\x10", self.job_id, self.ciphertext, self.final)


@dataclass(frozen=True, slots=True)
class Output:
    """Provider: whole sealed chunks of the output. A decoded `ciphertext` is a view of the frame."""

    job_id: JobId
    ciphertext: Bytes
    final: bool

    def encode(self) -> bytes:
        return b"".join(self.pieces())

    def pieces(self) -> tuple[bytes, Bytes, bytes]:
        """As Input's."""
        return _chunk_pieces(b"\x94\x07\xc4\x10", self.job_id, self.ciphertext, self.final)


def decode_input(fields: tuple[Any, ...]) -> Input:
    return Input(codec.job_id(fields[1]), _read_chunks(fields[2]), codec.boolean(fields[3], "final"))


def decode_output(fields: tuple[Any, ...]) -> Output:
    return Output(codec.job_id(fields[1]), _read_chunks(fields[2]), codec.boolean(fields[3], "final"))


_CHUNK_PREFIXES: dict[bytes, type[Input] | type[Output]] = {b"\x94\x05\xc4\x10": Input, b"\x94\x07\xc4\x10": Output}
_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_CHUNK_LENGTH_AT = 4 + JOB_ID_BYTES


def _chunk_pieces(prefix: bytes, job_id: JobId, ciphertext: Bytes, final: bool) -> tuple[bytes, Bytes, bytes]:
    size = len(ciphertext)
    if size < 256:
        length = bytes((0xC4, size))
    elif size < 65536:
        length = b"\xc5" + size.to_bytes(2)
    else:
        length = b"\xc6" + size.to_bytes(4)
    return prefix + job_id + length, ciphertext, b"\xc3" if final else b"\xc2"


def read_chunks_by_hand(raw: Bytes) -> Input | Output | None:
    """The message, if it is one of these and written in the usual way; None leaves it to msgpack. Raises RemoteProtocolError."""
    if len(raw) <= 22 or bytes(raw[:4]) not in _CHUNK_PREFIXES:
        return None
    frame = memoryview(raw)
    kind = _CHUNK_PREFIXES[bytes(frame[:4])]
    length_bytes = _LENGTH_BYTES.get(frame[_CHUNK_LENGTH_AT])
    flag = frame[-1]
    if length_bytes is None or flag not in (0xC2, 0xC3):
        return None
    start = _CHUNK_LENGTH_AT + 1 + length_bytes
    size = int.from_bytes(frame[_CHUNK_LENGTH_AT + 1 : start])
    if start + size + 1 != len(frame):
        return None
    return kind(JobId(bytes(frame[4:_CHUNK_LENGTH_AT])), _ciphertext(frame[start:-1]), flag == 0xC3)


def _ciphertext(value: Bytes) -> Bytes:
    if not 0 < len(value) <= CIPHERTEXT_BYTES_MAX:
        codec.fail("BOUND", f"ciphertext of {len(value)} bytes; 1 to {CIPHERTEXT_BYTES_MAX} are allowed")
    return value


def _read_chunks(value: Any) -> Bytes:
    return _ciphertext(codec.blob(value, "ciphertext", CIPHERTEXT_BYTES_MAX))
