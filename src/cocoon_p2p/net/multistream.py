"""multistream-select 1.0: how two ends agree on the protocol of a connection or stream. Bytes only, no libp2p import.

    dialer                           listener
    /multistream/1.0.0\\n  ─────────▶
    <protocol>\\n          ─────────▶
                         ◀─────────  /multistream/1.0.0\\n
                         ◀─────────  <protocol>\\n   or  na\\n

Each line is preceded by its length as an unsigned varint. The dialer sends both lines at once, which saves a round trip
and which every implementation accepts. Names are compared as bytes: py-libp2p decodes them as UTF-8 and dies of a name
that isn't (libp2p_cures.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from cocoon_p2p.errors import RemoteProtocolError, TransportError

HEADER = b"/multistream/1.0.0\n"
_NOT_AVAILABLE = b"na\n"
_LIST = b"ls\n"
LINE_BYTES_MAX = 1024
"""go-libp2p's bound."""
_PROPOSALS_MAX = 32
VARINT_BYTES_MAX = 9


class ExactReader(Protocol):
    async def read_exactly(self, size: int) -> bytes:
        """Raises TransportError when the stream ends before."""


class ReadWriter(ExactReader, Protocol):
    async def write(self, data: bytes) -> None: ...


def encode_varint(number: int) -> bytes:
    """Unsigned LEB128, as libp2p's unsigned-varint."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


async def read_varint(stream: ExactReader) -> int:
    """Raises RemoteProtocolError for a number of more than 63 bits."""
    number = 0
    for shift in range(0, 7 * VARINT_BYTES_MAX, 7):
        (byte,) = await stream.read_exactly(1)
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number
    raise RemoteProtocolError("a varint has more than 9 bytes", code="MALFORMED")


async def read_prefixed(stream: ExactReader, bytes_max: int) -> bytes:
    """A message behind its length. Raises RemoteProtocolError when it announces more than `bytes_max`."""
    size = await read_varint(stream)
    if size > bytes_max:
        raise RemoteProtocolError(f"a message of {size} bytes; at most {bytes_max} are allowed", code="BOUND")
    return await stream.read_exactly(size)


def encode_prefixed(message: bytes) -> bytes:
    return encode_varint(len(message)) + message


async def propose(stream: ReadWriter, *protocols: str) -> str:
    """The dialer's side: the first of `protocols` that the other end takes.

    Raises TransportError(code="UNKNOWN_PROTOCOL") when it takes none, RemoteProtocolError when it breaks the rules.
    """
    await stream.write(encode_prefixed(HEADER) + _line(protocols[0]))
    await _read_header(stream)
    for i, protocol in enumerate(protocols):
        if i:
            await stream.write(_line(protocol))
        answer = await read_prefixed(stream, LINE_BYTES_MAX)
        if answer == protocol.encode() + b"\n":
            return protocol
        if answer != _NOT_AVAILABLE:
            raise RemoteProtocolError("an answer to a protocol that was not proposed", code="MULTISTREAM")
    raise TransportError(
        f"the peer does not speak {' or '.join(protocols)}", outcome_known=True, code="UNKNOWN_PROTOCOL"
    )


async def accept(
    stream: ReadWriter, protocols: Collection[str], *, on_unknown: Callable[[], Awaitable[None]] | None = None
) -> str:
    """The listener's side: the first proposal that is in `protocols`. Raises RemoteProtocolError after many that are not.

    `on_unknown` is awaited before each refusal: it may take its time, or raise.
    """
    await _read_header(stream)  # first: to who does not speak it, a stranger to a private network say, we say nothing
    await stream.write(encode_prefixed(HEADER))
    known = {name.encode() + b"\n": name for name in protocols}
    for _ in range(_PROPOSALS_MAX):
        proposal = await read_prefixed(stream, LINE_BYTES_MAX)
        if proposal in known:
            await stream.write(encode_prefixed(proposal))
            return known[proposal]
        if proposal == _LIST:
            await stream.write(encode_prefixed(b"".join(map(encode_prefixed, known)) + b"\n"))
        else:
            if on_unknown is not None:
                await on_unknown()
            await stream.write(encode_prefixed(_NOT_AVAILABLE))
    raise RemoteProtocolError(f"{_PROPOSALS_MAX} proposals, none of them known", code="MULTISTREAM")


async def _read_header(stream: ExactReader) -> None:
    # By its length at once: from who speaks something else, no more bytes may come for a while.
    if await read_varint(stream) != len(HEADER) or await stream.read_exactly(len(HEADER)) != HEADER:
        raise RemoteProtocolError("the other end does not speak multistream-select 1.0", code="MULTISTREAM")


def _line(protocol: str) -> bytes:
    return encode_prefixed(protocol.encode() + b"\n")
