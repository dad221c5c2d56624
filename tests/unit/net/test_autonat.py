"""AutoNAT: dialling back within bounds, and what is made of the answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from net_nodes import open_node, polled

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId, peer_id_to_bytes
from cocoon_p2p.limits import AUTONAT_ADDRESSES_MAX, AUTONAT_PER_ASKER_BURST
from cocoon_p2p.net.addresses import address_to_bytes, parse_address
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.multistream import encode_prefixed, read_prefixed
from cocoon_p2p.net.pb.autonat_pb2 import Message
from cocoon_p2p.net.reach.autonat import AUTONAT, Answer, ask, dialable_for, read_answer

PEER = PeerId("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
ASKED = (parse_address("/ip4/5.6.7.8/tcp/4001"), parse_address("/ip4/5.6.7.8/tcp/4002/ws"))


def raw(*texts: str) -> list[bytes]:
    return [address_to_bytes(parse_address(text)) for text in texts]


# --- what may be dialled for whom ------------------------------------------------------------------------------------


def dialled(seen_at: str, *texts: str) -> list[str]:
    return [str(address) for address in dialable_for(parse_address(seen_at), raw(*texts))]


def test_only_the_host_that_the_asker_comes_from() -> None:
    assert dialled(
        "/ip4/5.6.7.8/tcp/50000",
        "/ip4/5.6.7.8/tcp/4001",
        "/ip4/5.6.7.8/tcp/80",
        "/ip4/5.6.7.8/tcp/4001/ws",
        "/ip4/5.6.7.9/tcp/4001",
        "/ip4/127.0.0.1/tcp/4001",
        "/ip4/192.168.1.1/tcp/4001",
        "/dns4/victim.example/tcp/4001",
        "/ip6/2001:db8::1/tcp/4001",
        f"/ip4/5.6.7.8/tcp/4001/p2p/{PEER}/p2p-circuit",
    ) == ["/ip4/5.6.7.8/tcp/4001", "/ip4/5.6.7.8/tcp/80", "/ip4/5.6.7.8/tcp/4001/ws"]


def test_a_lan_asks_about_itself_alone_and_not_about_services() -> None:
    asked = (
        "/ip4/192.168.1.5/tcp/4001",
        "/ip4/192.168.1.5/tcp/22",
        "/ip4/192.168.1.1/tcp/4001",
        "/ip4/5.6.7.8/tcp/4001",
    )
    assert dialled("/ip4/192.168.1.5/tcp/50000", *asked) == ["/ip4/192.168.1.5/tcp/4001"]
    assert dialled("/ip4/127.0.0.1/tcp/50000", "/ip4/127.0.0.1/tcp/25", "/ip4/127.0.0.1/tcp/4001") == [
        "/ip4/127.0.0.1/tcp/4001"
    ]


def test_many_addresses_and_garbage() -> None:
    many = [f"/ip4/5.6.7.8/tcp/{port}" for port in range(1000, 1100)]
    assert dialled("/ip4/5.6.7.8/tcp/50000", *many) == many[:AUTONAT_ADDRESSES_MAX]
    assert dialled("/ip4/5.6.7.8/tcp/50000", *[many[0]] * 20) == many[:1]
    assert dialable_for(ASKED[0], [b"", b"\xff" * 40, b"\x04"]) == []


# --- reading answers -------------------------------------------------------------------------------------------------


def answer(status: int, address: bytes | None = None, text: str = "") -> bytes:
    message = Message(type=Message.DIAL_RESPONSE)
    message.dialResponse.status = status  # type: ignore[assignment]
    message.dialResponse.statusText = text
    if address is not None:
        message.dialResponse.addr = address
    return message.SerializeToString()


def test_answers() -> None:
    assert read_answer(answer(Message.OK, raw(str(ASKED[1]))[0]), ASKED) == Answer("reached", ASKED[1])
    assert read_answer(answer(Message.E_DIAL_ERROR, text="no\x1b[0m way"), ASKED) == Answer(
        "not reached", detail="no[0m way"
    )
    for status in (Message.E_DIAL_REFUSED, Message.E_BAD_REQUEST, Message.E_INTERNAL_ERROR):
        assert read_answer(answer(status), ASKED).outcome == "refused"


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\xff\xff",
        Message(type=Message.DIAL).SerializeToString(),
        Message(type=Message.DIAL_RESPONSE).SerializeToString(),
        answer(Message.OK),
        answer(Message.OK, raw("/ip4/66.6.6.6/tcp/1")[0]),
    ],
)
def test_answers_that_are_none(hostile: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read_answer(hostile, ASKED)


# --- with real sockets -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def asker_and_server() -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork]]:
    async with open_node(1) as asker, open_node(2) as server:
        await asker.connect(server.peer_id, server.addresses())
        yield asker, server


async def asked_about(asker: Libp2pNetwork, server: Libp2pNetwork, *addresses: str) -> Answer:
    link = asker._switch.link(server.peer_id)
    assert link is not None
    return await ask(asker._streams, link, asker.peer_id, [parse_address(text) for text in addresses])


async def test_reached_over_a_new_connection_that_nobody_keeps() -> None:
    async with asker_and_server() as (asker, server):
        (own,) = asker.addresses()
        found = await asked_about(asker, server, "/ip4/127.0.0.1/tcp/1024", own)
        assert found == Answer("reached", parse_address(own))
        await polled(lambda: len(asker._switch.links_of(server.peer_id)) == 1)
        assert [peer.direction for peer in asker.peers()] == ["outbound"]
        assert dict(asker.counters()) == dict(server.counters()) == {}


async def test_not_reached_where_somebody_else_answers() -> None:
    """Only who proves to be the asker counts: a port where another node listens is no way to it."""
    async with asker_and_server() as (asker, server), open_node(3) as another:
        found = await asked_about(asker, server, *another.addresses(), "/ip4/127.0.0.1/tcp/1024")
        assert found.outcome == "not reached"


async def test_strange_hosts_are_refused() -> None:
    async with asker_and_server() as (asker, server):
        found = await asked_about(asker, server, "/ip4/127.0.0.2/tcp/4001", "/ip4/192.168.1.1/tcp/4001")
        assert (found.outcome, found.detail) == ("refused", "no address that this node may dial for you")


async def test_who_asks_too_often_is_refused() -> None:
    async with asker_and_server() as (asker, server):
        (own,) = asker.addresses()
        outcomes = [(await asked_about(asker, server, own)).outcome for _ in range(AUTONAT_PER_ASKER_BURST + 1)]
        assert outcomes[0] == "reached"
        assert outcomes[-1] == "refused"
        assert server.counters()["autonat_refused"] >= 1


async def test_a_question_about_another_peer_and_no_question() -> None:
    async with asker_and_server() as (asker, server):
        message = Message(type=Message.DIAL)
        message.dial.peer.id = peer_id_to_bytes(server.peer_id)
        message.dial.peer.addrs.extend(raw(*asker.addresses()))
        stream = await asker._streams.open_raw(server.peer_id, AUTONAT)
        await stream.write(encode_prefixed(message.SerializeToString()))
        said = Message()
        said.ParseFromString(await read_prefixed(stream, 4096))
        assert said.dialResponse.status == Message.E_BAD_REQUEST
        for garbage in (encode_prefixed(b"\xff\xff"), encode_prefixed(answer(Message.OK)), b"\xff" * 12):
            stream = await asker._streams.open_raw(server.peer_id, AUTONAT)
            await stream.write(garbage)
            with pytest.raises(TransportError):
                await stream.read_exactly(1)


async def test_nothing_is_dialled_for_who_comes_through_a_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asker_and_server() as (asker, server):
        await polled(lambda: server._switch.link(asker.peer_id) is not None)
        link = server._switch.link(asker.peer_id)
        assert link is not None
        monkeypatch.setattr(link.connection, "address", f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}/p2p-circuit")
        found = await asked_about(asker, server, *asker.addresses())
        assert (found.outcome, found.detail) == ("refused", "not through a relay")
