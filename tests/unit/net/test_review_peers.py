"""Peers that find what costs us more than it costs them, or that stay when they should be gone."""

from __future__ import annotations

import base64
import logging
import secrets
from collections import Counter
from contextlib import ExitStack

import pytest
import trio
import trio.testing
from gossip_attackers import open_attacker, say
from net_nodes import open_node, peer_of, polled, port_of
from rude_ends import open_bare
from secure_pairs import tcp_pipes

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import peer_id_to_bytes
from cocoon_p2p.limits import (
    GOSSIP_HEARTBEAT_S,
    GOSSIP_MESSAGES_PER_LINK_S,
    HANDSHAKE_FAILURES_PER_SUBNET_BURST,
    RELAY_CIRCUITS_PER_SUBNET_MAX,
    WEBSOCKET_FRAMES_BURST,
    WEBSOCKET_FRAMES_PER_S,
)
from cocoon_p2p.net.addresses import Address, parse_address, parse_dialable
from cocoon_p2p.net.dht.messages import KAD, provider_key
from cocoon_p2p.net.gossip.neighbour import Neighbour
from cocoon_p2p.net.multistream import encode_prefixed
from cocoon_p2p.net.pb.circuit_pb2 import Reservation
from cocoon_p2p.net.pb.gossip_pb2 import RPC
from cocoon_p2p.net.pb.kad_pb2 import Message
from cocoon_p2p.net.reach.autonat import ask
from cocoon_p2p.net.supervisor import run_guarded
from cocoon_p2p.net.switch import switch
from cocoon_p2p.net.switch.gate import Gate
from cocoon_p2p.net.switch.origins import Origin, origin_of_host
from cocoon_p2p.net.transport.websocket import accept_websocket
from cocoon_p2p.net.yamux.frames import GO_AWAY, NORMAL, encode_header
from cocoon_p2p.testing.net_contract import TOPIC


def accept(*_: object) -> bool:
    return True


# --- connections ------------------------------------------------------------------------------------------------------


async def test_a_peer_that_says_it_leaves_and_stays_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was neither trimmed nor shed, and kept its place for as long as it liked."""
    monkeypatch.setattr(switch, "CONNECTION_GRACE_S", 0.1)
    monkeypatch.setattr(switch, "SWITCH_ROUND_S", 0.05)
    async with open_node(1) as node, open_bare(node, 2) as connection:
        await polled(lambda: bool(node.peers()))
        connection.outbox.post(encode_header(GO_AWAY, 0, 0, NORMAL))
        await polled(lambda: not node.peers())
        assert node._switch.gate.places()["connections"] == 1
        await polled(lambda: node._switch.gate.places()["connections"] == 0)
        assert node.counters()["connections_left_open"] == 1


def test_a_stranger_behind_a_relay_cannot_have_the_relay_banned() -> None:
    gate, relay = Gate(), Origin("relay", "12D3KooWRelay")
    for _ in range(4 * HANDSHAKE_FAILURES_PER_SUBNET_BURST):
        assert not gate.note_failure(relay, 0.0)
    assert gate.admit_arrival(relay, 0.0) is None


# --- the DHT ----------------------------------------------------------------------------------------------------------


async def test_requests_of_a_peer_that_has_gone_hold_no_place(autojump_clock: trio.testing.MockClock) -> None:
    """ADD_PROVIDER has no answer whose writing would fail: a window full of them was worked off for an hour."""
    async with open_node(1) as node:
        async with open_node(2) as peer:
            await peer.connect(node.peer_id, node.addresses())
            request = Message(type=Message.ADD_PROVIDER, key=provider_key(bytes(32)))
            request.providerPeers.add(id=peer_id_to_bytes(peer.peer_id))
            raw = encode_prefixed(request.SerializeToString())
            stream = await peer._streams.open_raw(node.peer_id, KAD)
            await stream.write(raw * (200_000 // len(raw)))
            await polled(lambda: node.counters().get("dht_throttled", 0) > 0)
        began = trio.current_time()
        await polled(lambda: not node._switch.gate.places()["streams"])
        assert trio.current_time() - began < 2.0
        assert not node._dht._server._waited_s


async def test_a_group_counts_as_a_failure_of_what_it_came_from() -> None:
    """Not as one of somebody's handler."""

    async def fail() -> None:
        async with trio.open_nursery():
            raise TransportError("gone", outcome_known=True)

    counters: Counter[str] = Counter()
    assert not await run_guarded("inbound", fail, counters)
    assert counters == {"inbound_failed": 1}


# --- gossip -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [3, 4], ids=["graft", "prune"])
async def test_a_topic_that_is_not_utf8_is_the_peers_fault(caplog: pytest.LogCaptureFixture, field: int) -> None:
    """protobuf gives it as bytes and does not take it back for the answer: each cost a traceback in the log."""
    entry = bytes([field << 3 | 2, 4]) + b"\x0a\x02\xff\xfe"
    async with open_node(1) as node, open_attacker(2, node) as stream:
        await stream.write(encode_prefixed(b"\x1a" + bytes([len(entry)]) + entry))
        await polled(lambda: node.counters().get("gossip_rpc_invalid", 0) == 1)
        assert node.counters()["peer_malformed"] == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_subscriptions_are_paced(autojump_clock: trio.testing.MockClock) -> None:
    """Each may cost an IHAVE of 25 KB: subscribing and unsubscribing in turn, a peer took a core for 400 KB a second."""
    turns = RPC()
    for _ in range(256):
        turns.subscriptions.add(subscribe=False, topicid=TOPIC)
        turns.subscriptions.add(subscribe=True, topicid=TOPIC)
    async with open_node(1) as node, node.subscribe(TOPIC, accept), open_attacker(2, node) as stream:
        await say(stream, *[turns] * 6)
        await polled(lambda: node.counters().get("gossip_throttled", 0) > 1500)


async def test_rpcs_that_say_nothing_are_paced(autojump_clock: trio.testing.MockClock) -> None:
    async with open_node(1) as node, open_attacker(2, node) as stream:
        await say(stream, *[RPC()] * 12_000)
        await polled(lambda: node.counters().get("gossip_throttled", 0) > 0)


async def test_a_neighbour_that_never_stops_loses_standing(autojump_clock: trio.testing.MockClock) -> None:
    """What it made us wait was forgotten faster than it could grow."""
    neighbour = Neighbour(peer_of(2), Counter())

    async def beat() -> None:
        while True:
            await trio.sleep(GOSSIP_HEARTBEAT_S)
            neighbour.beat()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat)
        while not await neighbour.take_turn():
            neighbour.spend(verified=True)
        assert 10.0 < trio.current_time() < 20.0
        nursery.cancel_scope.cancel()


async def test_a_neighbour_that_goes_too_fast_now_and_then_does_not(autojump_clock: trio.testing.MockClock) -> None:
    neighbour = Neighbour(peer_of(2), Counter())
    for second in range(120):
        for _ in range(int(GOSSIP_MESSAGES_PER_LINK_S) if second % 5 else 3 * int(GOSSIP_MESSAGES_PER_LINK_S)):
            assert not await neighbour.take_turn()
            neighbour.spend(verified=second % 5 == 0)
        neighbour.beat()
        await trio.sleep_until(max(trio.current_time(), second + 1.0))


# --- reach ------------------------------------------------------------------------------------------------------------


async def test_autonat_is_asked_over_a_connection_that_was_dialled_by_name(caplog: pytest.LogCaptureFixture) -> None:
    async with open_node(1) as server, open_node(2) as asker:
        await server.connect(asker.peer_id, [f"/dns4/localhost/tcp/{port_of(asker)}"])
        await polled(lambda: bool(asker.peers()))
        link = asker._switch.link(server.peer_id)
        assert link is not None
        await link.identified.wait()
        answer = await ask(asker._streams, link, asker.peer_id, parse_dialable(asker.addresses()))
        assert answer.outcome == "refused"  # it knows a name, and dials back only where it is asked from
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_relay_with_a_name_that_is_too_long() -> None:
    """With the relay's id behind it the address is no address any more, and what told others of it failed for it."""
    name = ".".join(["x" * 60] * 3) + ".example"
    long = Address("dns4", name, 4001)
    raw = b"\x36" + bytes([len(name)]) + name.encode() + b"\x06\x0f\xa1"
    async with open_node(1) as node, open_node(2) as relay:
        await node.connect(relay.peer_id, relay.addresses())
        link = node._switch.link(relay.peer_id)
        assert link is not None
        usable = node._relay_client._usable(link, Reservation(addrs=[raw]))
        assert [parse_address(text).relay for text in usable] == [relay.peer_id]
        assert not any(name in text for text in usable)
        node._switch.extra_addresses = (f"{long}/p2p/{relay.peer_id}/p2p-circuit",)
        assert len(node._dht._server.own_addresses()) == len(node.addresses())


async def test_identities_of_one_subnet_do_not_get_all_circuits() -> None:
    async with open_node(1) as node:
        relay = node._relay_server
        here, elsewhere = origin_of_host("8.8.4.4"), origin_of_host("8.8.8.8")
        with ExitStack() as held:
            for number in range(RELAY_CIRCUITS_PER_SUBNET_MAX):
                ends = peer_of(100 + number), peer_of(200 + number)
                assert relay._has_circuits_left(here, *ends)
                held.enter_context(relay._counted(here, *ends))
            assert not relay._has_circuits_left(here, peer_of(98), peer_of(99))
            assert relay._has_circuits_left(elsewhere, peer_of(98), peer_of(99))
        assert relay._has_circuits_left(here, peer_of(98), peer_of(99))
        assert not relay._circuits


# --- WebSocket --------------------------------------------------------------------------------------------------------


async def test_websocket_frames_are_paced(autojump_clock: trio.testing.MockClock) -> None:
    """Empty ones came by the megabyte, before anybody had said who he is."""
    near, far = tcp_pipes()
    key = base64.b64encode(secrets.token_bytes(16))
    await near.send_all(
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
    )
    pipe = await accept_websocket(far)
    frames = WEBSOCKET_FRAMES_BURST + 3 * WEBSOCKET_FRAMES_PER_S
    began = trio.current_time()

    async def send() -> None:
        await near.send_all(b"\x82\x80mask" * frames + b"\x82\x81\0\0\0\0!")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        room = bytearray(1)
        assert await pipe.receive_into(memoryview(room)) == 1
        assert room == b"!"
    assert 2.5 < trio.current_time() - began < 4.0
    near.abort()
    pipe.abort()
