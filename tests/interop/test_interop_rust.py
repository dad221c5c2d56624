"""rust-libp2p, as far as lattica shows it: connections, identify, ping, and its Kademlia with ours."""

from __future__ import annotations

import pytest
import trio
from foreign import OpenRust
from interop_nodes import identified_link, open_node, ping, polled

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.net.dht.messages import KAD
from cocoon_p2p.net.gossip.messages import MESHSUB
from cocoon_p2p.net.identify import identify
from cocoon_p2p.net.identify.identify import IDENTIFY, PING
from cocoon_p2p.testing.net_contract import CONTENT, ECHO, KEY, echo, full_addresses


@pytest.fixture(autouse=True)
def its_protocol_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lattica hangs up on whoever names another than its own, which is its Kademlia's name."""
    monkeypatch.setattr(identify, "_PROTOCOL_VERSION", KAD)


@pytest.mark.parametrize("we_dial", [True, False], ids=["we dial", "they dial"])
async def test_identify_and_ping_with_rust(open_rust: OpenRust, we_dial: bool) -> None:
    async with open_node(1) as network, open_rust([] if we_dial else full_addresses(network)) as foreign:
        if we_dial:
            await network.connect(foreign.peer_id, foreign.addresses)
        await polled(lambda: bool(network.peers()))
        link = await identified_link(network, foreign.peer_id)
        (there,) = network.peers()
        assert there.agent.startswith("rust-libp2p/")
        assert there.direction == ("outbound" if we_dial else "inbound")
        assert {IDENTIFY, PING, KAD, *MESHSUB} <= link.protocols
        about_us = await foreign.call("identify", peer=network.peer_id)
        assert about_us["agent"] == "interop/1"
        assert {IDENTIFY, PING, KAD, *MESHSUB} == set(about_us["protocols"])
        assert about_us["addresses"] == list(network.addresses())
        await ping(network, foreign.peer_id)
        assert 0 < await foreign.call("ping", peer=network.peer_id) < 60


async def test_rust_shows_another_identity_than_expected(open_rust: OpenRust) -> None:
    async with open_node(1) as network, open_node(2) as absent, open_rust([]) as foreign:
        with pytest.raises(TransportError):
            await network.connect(absent.peer_id, foreign.addresses)


async def test_rust_keeps_our_record_and_provider(open_rust: OpenRust) -> None:
    """Their writer is gone when the reader asks."""
    async with open_rust([]) as foreign, open_node(2) as reader:
        async with open_node(1) as writer:
            await writer.connect(foreign.peer_id, foreign.addresses)
            await polled(lambda: foreign.peer_id in writer._dht._table)
            await writer.dht_put(KEY, b"1:old")
            await writer.dht_put(KEY, b"2:new")
            await writer.provide(CONTENT)
        await reader.connect(foreign.peer_id, foreign.addresses)
        await polled(lambda: foreign.peer_id in reader._dht._table)
        assert await reader.dht_get(KEY) == b"2:new"
        (told,) = await reader.find_providers(CONTENT, 5)
        assert (told.peer, told.addresses) == (writer.peer_id, writer.addresses())


async def test_a_record_of_rust_reaches_us(open_rust: OpenRust) -> None:
    """And is refused, since what lattica writes is no record of ours; that it was read shows in whom the validator saw."""
    async with open_node(1) as network, open_rust(full_addresses(network)) as foreign:
        seen = trio.Event()

        def refuse(key: str, value: bytes) -> int:
            assert (key, b"theirs" in value) == (KEY, True)
            seen.set()
            raise RemoteProtocolError("not one of ours", code="MALFORMED")

        network._dht._server.records._validators["test-records"] = refuse
        await foreign.call("identify", peer=network.peer_id)
        await foreign.call("put", key=KEY, value="theirs")
        await seen.wait()


async def test_a_peer_that_rust_knows_is_found(open_rust: OpenRust) -> None:
    async with open_node(1) as wanted, open_node(2) as seeker, open_rust([]) as foreign:
        wanted.set_handler(ECHO, echo)
        for network in (wanted, seeker):
            await network.connect(foreign.peer_id, foreign.addresses)
            await polled(lambda asked=network: foreign.peer_id in asked._dht._table)
            await foreign.call("identify", peer=network.peer_id)
        stream = await seeker.open_stream(wanted.peer_id, ECHO)
        await stream.send(b"found")
        assert await stream.receive() == b"found"
        await stream.aclose()
