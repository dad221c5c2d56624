"""Messages of circuit relay v2 and of DCUtR: what others read of ours, and what we make of anything that comes."""

from __future__ import annotations

import ipaddress
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.peer.envelope import unmarshal_envelope
from net_nodes import seed_of

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId, peer_id_from_public_key, peer_id_to_bytes
from cocoon_p2p.net.addresses import Address, address_to_bytes, parse_address
from cocoon_p2p.net.multistream import encode_prefixed
from cocoon_p2p.net.pb import circuit_pb2
from cocoon_p2p.net.pb.circuit_pb2 import HopMessage, Limit, Status, Voucher
from cocoon_p2p.net.pb.hole_punch_pb2 import HolePunch
from cocoon_p2p.net.reach.circuit_messages import (
    MESSAGE_BYTES_MAX,
    hop_connect,
    hop_status,
    named_peer,
    read_hop,
    read_stop,
    require_ok,
    seal_voucher,
    stop_connect,
    stop_status,
)
from cocoon_p2p.net.reach.hole_punch import OwnPort, dialled_targets, read_message


class Bytes:
    """A stream that ends after `data`."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read_exactly(self, size: int) -> bytes:
        if size > len(self._data):
            raise TransportError("cut off", outcome_known=False)
        taken, self._data = self._data[:size], self._data[size:]
        return taken


def key_and_id(number: int) -> tuple[Ed25519PrivateKey, PeerId]:
    key = Ed25519PrivateKey.from_private_bytes(seed_of(number))
    return key, peer_id_from_public_key(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def test_py_libp2p_verifies_our_voucher() -> None:
    key, relay = key_and_id(1)
    _, peer = key_and_id(2)
    envelope = unmarshal_envelope(seal_voucher(key.sign, relay, peer, 1_900_000_000))
    envelope.validate("libp2p-relay-rsvp")
    assert envelope.payload_type == b"\x03\x02"
    assert envelope.public_key.to_bytes() == key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    voucher = Voucher.FromString(envelope.raw_payload)
    assert (voucher.relay, voucher.peer, voucher.expiration) == (
        peer_id_to_bytes(relay),
        peer_id_to_bytes(peer),
        1_900_000_000,
    )


async def test_what_we_write_is_what_is_read() -> None:
    _, peer = key_and_id(2)
    request = await read_hop(Bytes(hop_connect(peer)))
    assert request.type == HopMessage.CONNECT
    assert named_peer(request) == peer
    stop = await read_stop(Bytes(stop_connect(peer, Limit(duration=60, data=1000))))
    assert (named_peer(stop), stop.limit.duration, stop.limit.data) == (peer, 60, 1000)
    assert (await read_stop(Bytes(stop_status(circuit_pb2.OK)))).status == circuit_pb2.OK


@pytest.mark.parametrize("name", sorted(set(Status.keys()) - {"OK"}))
async def test_every_refusal_says_why(name: str) -> None:
    answer = await read_hop(Bytes(hop_status(Status.Value(name))))
    with pytest.raises(TransportError) as caught:
        require_ok(answer)
    assert caught.value.code == name
    assert caught.value.outcome_known
    if name == "NO_RESERVATION":
        assert caught.value.message == "the peer holds no reservation at that relay"


async def test_a_status_that_nobody_knows_is_a_refusal() -> None:
    answer = HopMessage.FromString(bytes.fromhex("0802") + b"\x28\xe7\x07")  # STATUS, status 999
    with pytest.raises(TransportError, match="status 999"):
        require_ok(answer)
    with pytest.raises(RemoteProtocolError):
        require_ok(HopMessage(type=HopMessage.RESERVE))


async def test_a_message_over_the_bound_is_not_read() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        await read_hop(Bytes(encode_prefixed(bytes(MESSAGE_BYTES_MAX + 1))))
    assert caught.value.code == "BOUND"


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
async def test_any_bytes_are_a_message_or_the_peers_fault(data: bytes) -> None:
    for read in (read_hop, read_stop):
        with suppress(RemoteProtocolError):
            named_peer(await read(Bytes(encode_prefixed(data))))
    for kind in (HolePunch.CONNECT, HolePunch.SYNC):
        with suppress(RemoteProtocolError):
            assert (await read_message(Bytes(encode_prefixed(data)), kind)).type == kind


PUBLIC = OwnPort(("10.0.0.2", 40001), parse_address("/ip4/45.90.0.1/tcp/40001"))
PRIVATE = OwnPort(("10.0.0.2", 40001), parse_address("/ip4/10.0.0.2/tcp/40001"))
ANY_ADDRESS = st.builds(
    Address,
    st.just("ip4"),
    st.one_of(
        st.sampled_from(["127.0.0.1", "10.1.2.3", "0.0.0.0", "45.90.0.1", "45.90.0.7"]), st.ip_addresses(v=4).map(str)
    ),
    st.sampled_from([0, 22, 40001, 65535]),
)


@given(st.lists(ANY_ADDRESS, max_size=12))
@settings(max_examples=200, deadline=None)
def test_a_peer_cannot_have_us_dial_anything(addresses: list[Address]) -> None:
    """Few addresses, none of our own machine, and none of our network when the peer is elsewhere."""
    message = HolePunch(type=HolePunch.CONNECT, ObsAddrs=[address_to_bytes(address) for address in addresses])
    for own in (PUBLIC, PRIVATE):
        targets = dialled_targets(message, own)
        assert len(targets) <= 4
        for target in targets:
            host = ipaddress.ip_address(target.host)
            assert target.port and not host.is_loopback and not host.is_unspecified
            assert host.is_global or own is PRIVATE
            assert target != own.observed
