"""identify and identify/push between nodes, and what hostile ones get: real sockets on loopback."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from net_nodes import open_node, polled, seed_of

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import peer_id_from_public_key
from cocoon_p2p.limits import IDENTIFY_MESSAGES_MAX, IDENTIFY_PUSHES_PER_PEER_BURST
from cocoon_p2p.net.addresses import address_to_bytes, parse_address
from cocoon_p2p.net.identify.envelope import public_key_message
from cocoon_p2p.net.identify.identify import IDENTIFY, IDENTIFY_PUSH, _may_name
from cocoon_p2p.net.identify.peer_record import PeerRecord, seal_peer_record
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.multistream import encode_prefixed
from cocoon_p2p.net.pb.identify_pb2 import Identify
from cocoon_p2p.net.port import PeerMisbehaved
from cocoon_p2p.net.switch.links import Link
from cocoon_p2p.net.yamux.stream import MuxStream
from cocoon_p2p.testing.net_contract import ECHO, echo

NEW = "/ip4/127.0.0.1/tcp/4999"


async def linked(one: Libp2pNetwork, other: Libp2pNetwork) -> Link:
    """What `one` knows of `other`, connected and identified in both directions."""
    await other.connect(one.peer_id, one.addresses())
    for here, there in ((one, other), (other, one)):
        await polled(lambda here=here, there=there: here._switch.link(there.peer_id) is not None)  # type: ignore[misc]
        link = here._switch.link(there.peer_id)
        assert link is not None
        await link.identified.wait()
    link = one._switch.link(other.peer_id)
    assert link is not None
    return link


def known(network: Libp2pNetwork, other: Libp2pNetwork) -> list[str]:
    return list(map(str, network._switch.book.get(other.peer_id)))


async def test_a_protocol_that_comes_later_is_told() -> None:
    async with open_node(1) as one, open_node(2) as other:
        link = await linked(one, other)
        assert ECHO not in link.protocols
        other.set_handler(ECHO, echo)
        await polled(lambda: ECHO in link.protocols)


async def test_an_address_that_comes_later_is_told() -> None:
    async with open_node(1) as one, open_node(2) as other:
        await linked(one, other)
        other.announce([NEW])
        await polled(lambda: NEW in known(one, other))


async def test_nothing_new_is_not_told() -> None:
    async with open_node(1) as one, open_node(2) as other:
        await linked(one, other)
        pushes: list[MuxStream] = []

        async def count(stream: MuxStream) -> None:
            pushes.append(stream)

        one._streams.set_internal(IDENTIFY_PUSH, count)
        other._identification.changed()
        other.set_handler(ECHO, echo)
        await polled(lambda: len(pushes) > 0)
        described = other._identification
        await polled(lambda: described._told[one.peer_id] == described._self.version())  # the push has ended here, too
        await described._push_to_all()
        assert len(pushes) == 1


async def push(attacker: Libp2pNetwork, victim: Libp2pNetwork, *messages: bytes) -> None:
    """Written; the victim has not dealt with it yet."""
    stream = await attacker._streams.open_raw(victim.peer_id, IDENTIFY_PUSH)
    for message in messages:
        await stream.write(encode_prefixed(message))
    await stream.close()


def record_of(number: int, sequence: int, *addresses: str) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(seed_of(number))
    peer = peer_id_from_public_key(key.public_key().public_bytes_raw())
    return seal_peer_record(PeerRecord(peer, sequence, tuple(map(parse_address, addresses))), key.sign)


def stranger_key() -> bytes:
    public = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"x").digest()).public_key().public_bytes_raw()
    return public_key_message(peer_id_from_public_key(public))


@pytest.mark.parametrize(
    ("hostile", "kind"),
    [
        ([Identify(public_key=stranger_key(), agent_version="evil")], "bad_signature"),
        ([Identify(signedPeerRecord=record_of(3, 2**62, NEW), agent_version="evil")], "bad_signature"),
        ([b"\xff\xff\xff"], "malformed"),
        ([Identify(protocols=[f"/evil/{number}" for number in range(129)])], "malformed"),
        ([Identify()] * (IDENTIFY_MESSAGES_MAX + 1), "malformed"),
        ([b"\0" * 9000], "malformed"),
    ],
)
async def test_hostile_pushes_change_nothing_and_are_reported(hostile: Iterable[Identify | bytes], kind: str) -> None:
    raw = [message if isinstance(message, bytes) else message.SerializeToString() for message in hostile]
    async with open_node(1) as victim, open_node(2) as attacker, victim.events() as events:
        link = await linked(victim, attacker)
        before = (link.agent, link.protocols, known(victim, attacker))
        await push(attacker, victim, *raw)
        async for event in events:
            if isinstance(event, PeerMisbehaved):
                assert event == PeerMisbehaved(attacker.peer_id, kind)  # type: ignore[arg-type]
                break
        assert (link.agent, link.protocols, known(victim, attacker)) == before
        assert await victim.ping(attacker.peer_id) < 5


async def test_a_record_older_than_the_known_one_is_ignored() -> None:
    async with open_node(1) as one, open_node(2) as other:
        await linked(one, other)
        future = 2**63
        await push(other, one, Identify(signedPeerRecord=record_of(2, future, NEW)).SerializeToString())
        await polled(lambda: NEW in known(one, other))
        late = "/ip4/127.0.0.1/tcp/4998"
        await push(other, one, Identify(signedPeerRecord=record_of(2, future - 1, late)).SerializeToString())
        await polled(lambda: one.counters()["identify_record_stale"] == 1)
        assert late not in known(one, other)
        await one.disconnect(other.peer_id)
        await linked(one, other)  # with the clock set right: what it says now counts again
        await polled(lambda: one._identification._sequences.get(other.peer_id, future) < future)


async def test_a_flood_of_pushes_is_refused() -> None:
    async with open_node(1) as victim, open_node(2) as attacker:
        await linked(victim, attacker)
        for _ in range(IDENTIFY_PUSHES_PER_PEER_BURST + 5):
            with suppress(TransportError):  # the refusal may be quicker than the message
                await push(attacker, victim, Identify(agent_version="again").SerializeToString())
        await polled(lambda: victim.counters()["identify_push_refused"] >= 1)
        assert victim.counters()["peer_flood"] >= 1


async def test_an_answer_in_two_messages() -> None:
    """go-libp2p puts its signed record into a second one when the first would become long."""

    async def in_two(stream: MuxStream) -> None:
        first = Identify(
            agent_version="go-like", protocols=["/first"], listen_addrs=[address_to_bytes(parse_address(NEW))]
        )
        await stream.write(encode_prefixed(first.SerializeToString()))
        second = Identify(signedPeerRecord=record_of(2, 5, "/ip4/127.0.0.1/tcp/4997"))
        await stream.write(encode_prefixed(second.SerializeToString()))

    async with open_node(1) as one, open_node(2) as other:
        other._streams.set_internal(IDENTIFY, in_two)
        await one.connect(other.peer_id, other.addresses())
        await polled(lambda: "/ip4/127.0.0.1/tcp/4997" in known(one, other))
        link = one._switch.link(other.peer_id)
        assert link is not None
        assert (link.agent, link.protocols) == ("go-like", {"/first"})
        assert NEW in known(one, other)


async def test_a_peer_that_never_answers_harms_nobody() -> None:
    async def silent(stream: MuxStream) -> None:
        await trio.sleep_forever()

    async with open_node(1) as one, open_node(2) as other:
        other._streams.set_internal(IDENTIFY, silent)
        await one.connect(other.peer_id, other.addresses())
        assert await one.ping(other.peer_id) < 5


def test_strangers_do_not_send_us_to_our_own_doors() -> None:
    public, lan, here = map(parse_address, ("/ip4/9.9.9.9/tcp/1", "/ip4/192.168.1.1/tcp/1", "/ip4/127.0.0.1/tcp/1"))
    name = parse_address("/dns4/node.example/tcp/1")
    assert [_may_name(public, address) for address in (public, name, lan, here)] == [True, True, False, False]
    assert [_may_name(lan, address) for address in (public, name, lan, here)] == [True, True, True, False]
    assert all(_may_name(here, address) for address in (public, name, lan, here))
