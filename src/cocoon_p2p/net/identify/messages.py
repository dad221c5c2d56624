"""The message of identify and identify/push: what a peer says of itself, checked as it comes in. No IO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import AGENT_CHARS_MAX, IDENTIFY_PROTOCOLS_MAX, PROTOCOL_NAME_CHARS_MAX
from cocoon_p2p.net.addresses import Address, address_from_bytes, address_to_bytes
from cocoon_p2p.net.identify.envelope import public_key_message
from cocoon_p2p.net.identify.peer_record import PeerRecord, open_peer_record, readable_addresses
from cocoon_p2p.net.pb.identify_pb2 import Identify
from cocoon_p2p.net.protobuf import parsed

PROTOCOL_VERSION = "ipfs/0.1.0"
"""go-libp2p's; rust-libp2p's applications may hang up on whoever names another."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a peer says of itself; None or nothing for what it leaves out (SPEC identify: then what it said before stands)."""

    agent: str | None
    protocols: frozenset[str]
    addresses: tuple[Address, ...]
    observed: Address | None
    """Where it sees us."""
    record: PeerRecord | None


def encode_description(
    peer: PeerId,
    *,
    agent: str,
    protocols: Sequence[str],
    addresses: Sequence[Address],
    observed: Address | None,
    record: bytes,
) -> bytes:
    """`record` is our sealed peer record, `observed` where we see the reader."""
    # SPEC identity §4.2
    message = Identify(
        protocol_version=PROTOCOL_VERSION,
        agent_version=agent,
        public_key=public_key_message(peer),
        listen_addrs=[address_to_bytes(address) for address in addresses],
        protocols=protocols,
        signedPeerRecord=record,
    )
    if observed is not None:
        message.observed_addr = address_to_bytes(observed)
    return message.SerializeToString()


def decode_description(raw: bytes, peer: PeerId) -> Description:
    """Raises RemoteProtocolError: MALFORMED, BOUND, or SIGNATURE for a key or record of another peer than `peer`."""
    # SPEC identity §4.2
    message = parsed(Identify(), raw, "identify")
    if message.public_key and message.public_key != public_key_message(peer):
        raise RemoteProtocolError(f"identify: the key of another peer than {peer}", code="SIGNATURE")
    record = message.signedPeerRecord
    return Description(
        agent=_printable(message.agent_version) if message.HasField("agent_version") else None,
        protocols=_protocols(message.protocols),
        addresses=readable_addresses(message.listen_addrs),
        observed=address_from_bytes(message.observed_addr),
        record=open_peer_record(record, peer) if record else None,
    )


def _protocols(names: Sequence[object]) -> frozenset[str]:
    """protobuf gives text that is not UTF-8 as bytes, whatever its types say: no such name is served here."""
    if len(names) > IDENTIFY_PROTOCOLS_MAX:
        raise RemoteProtocolError(f"identify: {len(names)} protocols", code="BOUND")
    return frozenset(name for name in names if isinstance(name, str) and 0 < len(name) <= PROTOCOL_NAME_CHARS_MAX)


def _printable(text: object) -> str:
    """A peer's text, safe to show on a terminal."""
    return "".join(char for char in str(text)[:AGENT_CHARS_MAX] if char.isprintable())
