"""Tensors and the payload container (protocols/job/1, §4 "payload/1"): the plaintext of a job's input and output.

Layout, all integers little-endian::

    u8 version = 1 · u8 reserved = 0 · u16 tensor count · u16 wanted count · u16 texts cut · u32 head length
    per tensor: u8 name length · name (UTF-8) · u8 dtype code · u8 rank · rank × u64 dims · u64 data bytes
    per wanted output: u8 name length · name
    zeros up to a multiple of 64 · data of each tensor, each beginning at a multiple of 64 · zeros up to a multiple of 64

The head length counts from byte 0 to the end of the wanted names. Data is row-major, little-endian; a tensor of strings
is for each element u32 length · UTF-8 bytes. "Wanted" names the outputs that the client asks for; none means all.

No numpy here, so that a node that only passes payloads on does not load it; `execution.arrays` converts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from cocoon_p2p.limits import (
    JOB_BYTES_MAX,
    PAYLOAD_ALIGNMENT,
    PAYLOAD_RANK_MAX,
    PAYLOAD_TENSORS_MAX,
    TENSOR_NAME_BYTES_MAX,
)

VERSION = 1
CUT_MAX = 0xFFFF
TEXT_INPUT = "text"
"""Name of the string tensor, shape [n], that a model with a text front end takes in place of its own inputs."""

STRING = "string"
# ONNX TensorProto.DataType names and numbers, with bytes an element. Types below one byte travel unpacked, one element
# a byte; types that numpy lacks (bfloat16, float8…) travel as their bits.
DTYPES: dict[str, tuple[int, int]] = {
    "float32": (1, 4),
    "uint8": (2, 1),
    "int8": (3, 1),
    "uint16": (4, 2),
    "int16": (5, 2),
    "int32": (6, 4),
    "int64": (7, 8),
    STRING: (8, 0),
    "bool": (9, 1),
    "float16": (10, 2),
    "float64": (11, 8),
    "uint32": (12, 4),
    "uint64": (13, 8),
    "complex64": (14, 8),
    "complex128": (15, 16),
    "bfloat16": (16, 2),
    "float8e4m3fn": (17, 1),
    "float8e4m3fnuz": (18, 1),
    "float8e5m2": (19, 1),
    "float8e5m2fnuz": (20, 1),
    "uint4": (21, 1),
    "int4": (22, 1),
}
_NAME_OF_CODE = {code: name for name, (code, _) in DTYPES.items()}
_PREFIX = struct.Struct("<BBHHHI")


class PayloadError(ValueError):
    """The bytes are not a payload/1 container; the message says what is wrong with them."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """`data` is row-major, little-endian, prod(shape) × element size bytes (for strings: length-prefixed elements)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Payload:
    tensors: tuple[Tensor, ...]
    wanted: tuple[str, ...] = ()
    cut: int = 0
    """Of a text job's output: how many texts had more tokens than the model takes, and were cut. As its provider says."""


def string_tensor(name: str, strings: Sequence[str]) -> Tensor:
    """A tensor of strings, shape [n]. Raises PayloadError for text that is not Unicode (a lone surrogate)."""
    try:
        return Tensor(name, STRING, (len(strings),), pack_strings(s.encode() for s in strings))
    except UnicodeEncodeError as error:
        raise PayloadError(f"{name}: a string is not Unicode text: {error.reason}") from error


def pack_strings(elements: Iterable[bytes]) -> bytes:
    """Elements of a string tensor as they stand in its data."""
    return b"".join(len(e).to_bytes(4, "little") + e for e in elements)


def unpack_strings(tensor: Tensor) -> list[str]:
    """The elements of a string tensor, in row-major order. Raises PayloadError."""
    data, position, strings = memoryview(tensor.data).cast("B"), 0, []
    for _ in range(prod(tensor.shape)):
        end = position + 4
        if end > len(data):
            raise PayloadError(f"string tensor {tensor.name!r} ends within an element")
        stop = end + int.from_bytes(data[position:end], "little")
        if stop > len(data):
            raise PayloadError(f"string tensor {tensor.name!r} ends within an element")
        try:
            strings.append(str(data[end:stop], "utf-8"))
        except UnicodeDecodeError as error:
            raise PayloadError(f"string tensor {tensor.name!r} has an element that is not UTF-8") from error
        position = stop
    if position != len(data):
        raise PayloadError(f"string tensor {tensor.name!r} has bytes after its last element")
    return strings


def aligned(size: int) -> int:
    """`size` rounded up to the payload's alignment."""
    return -(-size // PAYLOAD_ALIGNMENT) * PAYLOAD_ALIGNMENT


def payload_bytes(payload: Payload) -> int:
    """The length of the encoded container."""
    return aligned(_head_bytes(payload)) + sum(aligned(len(_flat(t))) for t in payload.tensors)


def encode_payload(payload: Payload) -> list[bytes | memoryview]:
    """The container as a list of pieces to be sent one after the other; tensor data is not copied.

    Raises PayloadError when a tensor's data does not fit its shape, or a bound is passed."""
    pieces: list[bytes | memoryview] = []
    head = _encode_head(payload)
    pieces.append(head + bytes(aligned(len(head)) - len(head)))
    for tensor in payload.tensors:
        data = _flat(tensor)
        if data:
            pieces.append(data)
        padding = aligned(len(data)) - len(data)
        if padding:
            pieces.append(bytes(padding))
    return pieces


def write_payload(payload: Payload, into: memoryview) -> int:
    """Write the container at the start of `into`; its length. Raises PayloadError, also when `into` is too small."""
    size = payload_bytes(payload)
    if size > len(into):
        raise PayloadError(f"the payload has {size} bytes, the buffer {len(into)}")
    position = 0
    for piece in encode_payload(payload):
        into[position : position + len(piece)] = piece
        position += len(piece)
    return position


def decode_payload(buffer: bytes | bytearray | memoryview) -> Payload:
    """The tensors of a container; their data are views into `buffer`. Raises PayloadError for anything malformed."""
    view = memoryview(buffer).cast("B")
    if len(view) < _PREFIX.size or len(view) % PAYLOAD_ALIGNMENT:
        raise PayloadError(f"a payload is a multiple of {PAYLOAD_ALIGNMENT} bytes long, not {len(view)}")
    version, reserved, count, wanted_count, cut, head_bytes = _PREFIX.unpack_from(view)
    if version != VERSION or reserved:
        raise PayloadError(f"payload version {version} is not known here (this program knows {VERSION})")
    if count > PAYLOAD_TENSORS_MAX or wanted_count > PAYLOAD_TENSORS_MAX:
        raise PayloadError(f"more than {PAYLOAD_TENSORS_MAX} tensors in one payload")
    if not _PREFIX.size <= head_bytes <= len(view):
        raise PayloadError("the payload's head is longer than the payload")
    head = _Head(view[:head_bytes])
    entries = [head.entry() for _ in range(count)]
    wanted = tuple(head.name() for _ in range(wanted_count))
    if head.position != head_bytes:
        raise PayloadError("the payload's head has bytes after its last entry")
    _require_zeros(view[head_bytes : aligned(head_bytes)])
    return Payload(_slice_data(view, aligned(head_bytes), entries), wanted, cut)


class _Head:
    """Reads the head of a container, never past its end."""

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.position = _PREFIX.size

    def take(self, size: int) -> memoryview:
        end = self.position + size
        if end > len(self.view):
            raise PayloadError("the payload's head ends within an entry")
        piece = self.view[self.position : end]
        self.position = end
        return piece

    def name(self) -> str:
        try:
            return str(self.take(self.take(1)[0]), "utf-8")
        except UnicodeDecodeError as error:
            raise PayloadError("a tensor's name is not UTF-8") from error

    def entry(self) -> tuple[str, str, tuple[int, ...], int]:
        name = self.name()
        code, rank = self.take(2)
        if code not in _NAME_OF_CODE:
            raise PayloadError(f"tensor {name!r} has the unknown dtype code {code}")
        if rank > PAYLOAD_RANK_MAX:
            raise PayloadError(f"tensor {name!r} has rank {rank}; at most {PAYLOAD_RANK_MAX} is allowed")
        dims = struct.unpack(f"<{rank}Q", self.take(8 * rank))
        (size,) = struct.unpack("<Q", self.take(8))
        return name, _NAME_OF_CODE[code], dims, size


def _slice_data(
    view: memoryview, position: int, entries: list[tuple[str, str, tuple[int, ...], int]]
) -> tuple[Tensor, ...]:
    tensors = []
    names = set()
    for name, dtype, shape, size in entries:
        if name in names:
            raise PayloadError(f"tensor {name!r} stands twice in the payload")
        names.add(name)
        if size > len(view) - position:
            raise PayloadError(f"the payload ends within tensor {name!r}")
        _check_size(name, dtype, shape, size)
        end = position + size
        tensors.append(Tensor(name, dtype, shape, view[position:end]))
        position = aligned(end)
        _require_zeros(view[end:position])
    if position != len(view):
        raise PayloadError("the payload has bytes after its last tensor")
    return tuple(tensors)


def _check_size(name: str, dtype: str, shape: tuple[int, ...], size: int) -> None:
    elements = prod(shape)
    if dtype == STRING:
        if size < 4 * elements:
            raise PayloadError(f"string tensor {name!r} is too short for its {elements} elements")
    elif elements * DTYPES[dtype][1] != size:
        raise PayloadError(
            f"tensor {name!r}: {dtype}{list(shape)} needs {elements * DTYPES[dtype][1]} bytes, has {size}"
        )


def _require_zeros(padding: memoryview) -> None:
    if any(padding):
        raise PayloadError("the payload's padding is not zero")


def _flat(tensor: Tensor) -> memoryview:
    return memoryview(tensor.data).cast("B")


def _head_bytes(payload: Payload) -> int:
    names = sum(1 + len(t.name.encode()) + 2 + 8 * len(t.shape) + 8 for t in payload.tensors)
    return _PREFIX.size + names + sum(1 + len(w.encode()) for w in payload.wanted)


def _encode_head(payload: Payload) -> bytes:
    if max(len(payload.tensors), len(payload.wanted)) > PAYLOAD_TENSORS_MAX:
        raise PayloadError(f"more than {PAYLOAD_TENSORS_MAX} tensors in one payload")
    cut = min(payload.cut, CUT_MAX)
    head = bytearray(_PREFIX.pack(VERSION, 0, len(payload.tensors), len(payload.wanted), cut, _head_bytes(payload)))
    for tensor in payload.tensors:
        size = len(_flat(tensor))
        if tensor.dtype not in DTYPES:
            raise PayloadError(
                f"tensor {tensor.name!r}: dtype {tensor.dtype!r} cannot travel; known: {', '.join(DTYPES)}"
            )
        if len(tensor.shape) > PAYLOAD_RANK_MAX:
            raise PayloadError(f"tensor {tensor.name!r} has more than {PAYLOAD_RANK_MAX} dimensions")
        if size > JOB_BYTES_MAX:
            raise PayloadError(f"tensor {tensor.name!r} has {size} bytes; at most {JOB_BYTES_MAX} travel in one job")
        _check_size(tensor.name, tensor.dtype, tensor.shape, size)
        head += _encode_name(tensor.name)
        head += bytes((DTYPES[tensor.dtype][0], len(tensor.shape)))
        head += struct.pack(f"<{len(tensor.shape)}QQ", *tensor.shape, size)
    for name in payload.wanted:
        head += _encode_name(name)
    return bytes(head)


def _encode_name(name: str) -> bytes:
    raw = name.encode()
    if len(raw) > TENSOR_NAME_BYTES_MAX:
        raise PayloadError(f"the name {name[:40]!r}… is longer than {TENSOR_NAME_BYTES_MAX} bytes")
    return bytes((len(raw),)) + raw
