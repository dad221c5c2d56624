"""Identify's message and peer records: what we write others read, and nothing hostile gets through."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.envelope import consume_envelope, seal_record
from libp2p.peer.peer_record import PeerRecord as ForeignRecord
from multiaddr import Multiaddr

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId, peer_id_from_public_key
from cocoon_p2p.limits import ADDRESSES_PER_ANNOUNCEMENT_MAX, IDENTIFY_PROTOCOLS_MAX, PEER_RECORD_BYTES_MAX
from cocoon_p2p.net.addresses import Address, parse_address
from cocoon_p2p.net.identify.envelope import public_key_message
from cocoon_p2p.net.identify.messages import decode_description, encode_description
from cocoon_p2p.net.identify.peer_record import (
    PeerRecord,
    RecordNumbers,
    open_peer_record,
    seal_peer_record,
)
from cocoon_p2p.net.multistream import encode_prefixed
from cocoon_p2p.net.pb.envelope_pb2 import Envelope
from cocoon_p2p.net.pb.identify_pb2 import Identify

SEED = hashlib.sha256(b"identify").digest()
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
PEER = peer_id_from_public_key(KEY.public_key().public_bytes_raw())
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"another").digest())
OTHER = peer_id_from_public_key(OTHER_KEY.public_key().public_bytes_raw())
ADDRESSES = tuple(
    map(parse_address, ("/ip4/192.0.2.1/tcp/4001", "/dns4/node.example/tcp/443/ws", "/ip6/2001:db8::1/tcp/1"))
)
RECORD = PeerRecord(PEER, 7, ADDRESSES)
SEALED = seal_peer_record(RECORD, KEY.sign)


def refused(raw: bytes, peer: PeerId = PEER) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        open_peer_record(raw, peer)
    return caught.value.code


def altered(**fields: bytes) -> bytes:
    envelope = Envelope()
    envelope.ParseFromString(SEALED)
    for name, value in fields.items():
        setattr(envelope, name, value)
    return envelope.SerializeToString()


def test_a_record_comes_back() -> None:
    assert open_peer_record(SEALED, PEER) == RECORD


def test_py_libp2p_reads_our_records() -> None:
    _, record = consume_envelope(SEALED, "libp2p-peer-record")
    assert record.peer_id.to_base58() == PEER
    assert record.seq == 7
    assert list(map(str, record.addrs)) == list(map(str, ADDRESSES))


def test_we_read_records_of_py_libp2p() -> None:
    from libp2p.peer.id import ID

    theirs = create_new_key_pair(SEED)
    record = ForeignRecord(ID.from_pubkey(theirs.public_key), [Multiaddr(str(ADDRESSES[0]))], 12)
    raw = seal_record(record, theirs.private_key).marshal_envelope()
    assert open_peer_record(raw, PEER) == PeerRecord(PEER, 12, ADDRESSES[:1])


def test_records_that_lie_are_refused() -> None:
    foreign = seal_peer_record(PeerRecord(OTHER, 7, ADDRESSES), OTHER_KEY.sign)
    about_us = seal_peer_record(RECORD, OTHER_KEY.sign)
    assert refused(foreign) == "SIGNATURE"
    assert refused(SEALED, OTHER) == "SIGNATURE"
    assert refused(about_us) == "SIGNATURE"
    assert refused(altered(public_key=public_key_message(OTHER))) == "SIGNATURE"
    assert refused(altered(signature=KEY.sign(b"something else"))) == "SIGNATURE"
    assert refused(altered(signature=b"")) == "SIGNATURE"
    assert refused(altered(payload_type=b"\x03\x02")) == "MALFORMED"
    assert refused(altered(payload=b"\xff")) == "SIGNATURE", "what nobody signed is not looked at"
    for nonsense in (b"\xff", b""):
        signature = KEY.sign(b"\x12libp2p-peer-record\x02\x03\x01" + encode_prefixed(nonsense))
        assert refused(altered(payload=nonsense, signature=signature)) == "MALFORMED"
    assert refused(b"") == "MALFORMED"
    assert refused(SEALED + bytes(PEER_RECORD_BYTES_MAX)) == "BOUND"


def test_a_record_under_another_domain_is_refused() -> None:
    envelope = Envelope()
    envelope.ParseFromString(SEALED)
    assert refused(altered(signature=KEY.sign(b"\x03abc" + b"\x02\x03\x01" + envelope.payload))) == "SIGNATURE"


def test_only_so_many_addresses_are_kept() -> None:
    many = tuple(Address("ip4", "192.0.2.1", port) for port in range(1, 100))
    kept = open_peer_record(seal_peer_record(PeerRecord(PEER, 1, many), KEY.sign), PEER).addresses
    assert kept == many[:ADDRESSES_PER_ANNOUNCEMENT_MAX]


@given(st.binary(max_size=200))
def test_garbage_is_refused(raw: bytes) -> None:
    assert refused(raw) in ("MALFORMED", "SIGNATURE")
    try:
        decode_description(raw, PEER)
    except RemoteProtocolError as error:
        assert error.code in ("MALFORMED", "SIGNATURE", "BOUND")


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_any_changed_byte_is_noticed(position: int, change: int) -> None:
    raw = bytearray(SEALED)
    raw[position] ^= change
    try:
        assert open_peer_record(bytes(raw), PEER) == RECORD  # a field number may become one that nobody reads
    except RemoteProtocolError as error:
        assert error.code in ("MALFORMED", "SIGNATURE", "BOUND")


def test_sequence_numbers_grow_whatever_the_clock_does() -> None:
    times = iter([100, 50, 50, 200])
    numbers = RecordNumbers(lambda: next(times))
    assert [numbers.next() for _ in range(4)] == [100, 101, 102, 200]


# --- identify --------------------------------------------------------------------------------------------------------


def described() -> Identify:
    raw = encode_description(
        PEER, agent="test/1", protocols=["/a", "/b"], addresses=ADDRESSES, observed=ADDRESSES[0], record=SEALED
    )
    message = Identify()
    message.ParseFromString(raw)
    return message


def test_a_description_comes_back() -> None:
    said = decode_description(described().SerializeToString(), PEER)
    assert (said.agent, said.protocols, said.addresses) == ("test/1", {"/a", "/b"}, ADDRESSES)
    assert (said.observed, said.record) == (ADDRESSES[0], RECORD)


def test_what_is_left_out_is_told_from_what_is_empty() -> None:
    said = decode_description(b"", PEER)
    assert (said.agent, said.protocols, said.addresses, said.observed, said.record) == (
        None,
        frozenset(),
        (),
        None,
        None,
    )


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"public_key": public_key_message(OTHER)}, "SIGNATURE"),
        ({"public_key": b"\x00"}, "SIGNATURE"),
        ({"signedPeerRecord": seal_peer_record(PeerRecord(OTHER, 7, ADDRESSES), OTHER_KEY.sign)}, "SIGNATURE"),
        ({"signedPeerRecord": b"\xff"}, "MALFORMED"),
    ],
)
def test_descriptions_of_somebody_else_are_refused(change: dict[str, bytes], code: str) -> None:
    message = described()
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(RemoteProtocolError) as caught:
        decode_description(message.SerializeToString(), PEER)
    assert caught.value.code == code


def test_too_many_protocols_are_refused() -> None:
    message = described()
    message.protocols.extend(f"/p/{number}" for number in range(IDENTIFY_PROTOCOLS_MAX))
    with pytest.raises(RemoteProtocolError) as caught:
        decode_description(message.SerializeToString(), PEER)
    assert caught.value.code == "BOUND"


def test_texts_that_are_no_text() -> None:
    """protobuf hands on bytes that are not UTF-8; names of that kind, empty and endless ones are left out."""
    message = described()
    message.protocols.extend(["", "/" + "x" * 300])
    raw = message.SerializeToString() + b"\x1a\x02\xff\xfe" + b"\x32\x03\xff\x1b["
    said = decode_description(raw, PEER)
    assert said.protocols == {"/a", "/b"}
    assert said.agent is not None
    assert said.agent.isprintable()
