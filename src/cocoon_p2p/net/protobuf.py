"""libp2p's messages: protobuf, most of them behind their length."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, EncodeError, Message

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.net.multistream import ExactReader, encode_prefixed, read_prefixed

AnyMessage = TypeVar("AnyMessage", bound=Message)


def parsed(message: AnyMessage, raw: bytes, what: str) -> AnyMessage:
    """`message`, filled from `raw`. Raises RemoteProtocolError(MALFORMED); `what` begins its text."""
    try:
        message.ParseFromString(raw)
    except (DecodeError, EncodeError) as error:  # EncodeError: a field that must be there is missing
        raise RemoteProtocolError(f"{what}: not a protobuf message", code="MALFORMED") from error
    return message


async def read_into(message: AnyMessage, stream: ExactReader, bytes_max: int, what: str) -> AnyMessage:
    """The same from a stream, behind its length. Raises RemoteProtocolError, and TransportError when the stream ends."""
    return parsed(message, await read_prefixed(stream, bytes_max), what)


def prefixed(message: Message) -> bytes:
    """To be sent behind its length."""
    return encode_prefixed(message.SerializeToString())
