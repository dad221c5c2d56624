"""Kademlia with peers of another make: records, providers and addresses, kept and asked for by either side.

Go's daemon speaks /ipfs/kad/1.0.0 and takes no records but those of the public DHT, so ours speaks that protocol with it,
and records are left out.
"""

from __future__ import annotations

import pytest
import trio
from foreign import Foreign, OpenForeign
from go_daemon import GO_KAD
from interop_nodes import dial_each_other, identified_link, open_node, polled

from cocoon_p2p.errors import TransportError
from cocoon_p2p.net.dht import dht
from cocoon_p2p.net.dht.messages import provider_key
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.testing.net_contract import CONTENT, ECHO, KEY, echo

ALL = ["py", "js", "go"]
WITH_RECORDS = ["py", "js"]
MULTIHASH = provider_key(CONTENT).hex()


@pytest.fixture(autouse=True)
def protocol_of_the_other(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if implementation == "go":
        monkeypatch.setattr(dht, "KAD", GO_KAD)


async def acquainted(network: Libp2pNetwork, foreign: Foreign, *, we_dial: bool = True) -> None:
    """Each has the other in its routing table."""
    await dial_each_other(network, foreign, we_dial=we_dial)
    await identified_link(network, foreign.peer_id)
    await polled(lambda: foreign.peer_id in network._dht._table)
    await foreign.call("wait_dht")


@pytest.mark.parametrize("implementation", WITH_RECORDS)
async def test_they_keep_our_record(open_foreign: OpenForeign, implementation: str) -> None:
    """Its writer is gone when the reader asks."""
    async with open_foreign() as foreign, open_node(2) as reader:
        async with open_node(1) as writer:
            await acquainted(writer, foreign)
            await writer.dht_put(KEY, b"1:old")
            await writer.dht_put(KEY, b"2:new")
            if implementation != "py":  # which refuses a record that it has already
                await writer.dht_put(KEY, b"2:new")
            assert await foreign.call("get", key=KEY) == "2:new"
        await reader.connect(foreign.peer_id, foreign.addresses)
        await identified_link(reader, foreign.peer_id)
        assert await reader.dht_get(KEY) == b"2:new"


@pytest.mark.parametrize("implementation", WITH_RECORDS)
@pytest.mark.parametrize("we_dial", [True, False], ids=["we dial", "they dial"])
async def test_we_keep_their_record(open_foreign: OpenForeign, we_dial: bool) -> None:
    async with open_node(1) as network, open_foreign() as foreign:
        await acquainted(network, foreign, we_dial=we_dial)
        await foreign.call("put", key=KEY, value="7:theirs")
        await polled(lambda: network._dht._server.records.get(KEY, trio.current_time()) == b"7:theirs")
        async with open_node(2) as other:
            await other.connect(network.peer_id, network.addresses())
            await identified_link(other, network.peer_id)
            assert await other.dht_get(KEY) == b"7:theirs"


@pytest.mark.parametrize("implementation", WITH_RECORDS)
async def test_they_get_a_record_from_us(open_foreign: OpenForeign) -> None:
    async with open_node(1) as network, open_foreign() as foreign:
        with pytest.raises(TransportError):  # nobody is there to take it, so it stays with us
            await network.dht_put(KEY, b"3:ours")
        await foreign.call("connect", address=f"{network.addresses()[0]}/p2p/{network.peer_id}")
        await foreign.call("wait_dht")
        assert await foreign.call("get", key=KEY) == "3:ours"


@pytest.mark.parametrize("implementation", WITH_RECORDS)
async def test_a_record_that_nobody_has(open_foreign: OpenForeign) -> None:
    async with open_node(1) as network, open_foreign() as foreign:
        await acquainted(network, foreign)
        assert await network.dht_get("/test-records/nothing") is None
        assert await network.find_providers(CONTENT, 5) == ()


@pytest.mark.parametrize("implementation", ALL)
async def test_they_know_that_we_provide(open_foreign: OpenForeign) -> None:
    async with open_foreign() as foreign, open_node(2) as client:
        async with open_node(1) as provider:
            await acquainted(provider, foreign)
            await provider.provide(CONTENT)
            (found,) = await foreign.call("find_providers", key=MULTIHASH)
            assert found == [provider.peer_id, list(provider.addresses())]
            expected = (provider.peer_id, provider.addresses())
        await client.connect(foreign.peer_id, foreign.addresses)
        await identified_link(client, foreign.peer_id)
        (told,) = await client.find_providers(CONTENT, 5)
        assert (told.peer, told.addresses) == expected


@pytest.mark.parametrize("implementation", ALL)
async def test_we_know_that_they_provide(open_foreign: OpenForeign) -> None:
    async with open_node(1) as network, open_foreign() as foreign:
        await acquainted(network, foreign, we_dial=False)
        await foreign.call("provide", key=MULTIHASH)
        await polled(lambda: bool(network._dht._server.providers.get(CONTENT, trio.current_time())))
        async with open_node(2) as client:
            await client.connect(network.peer_id, network.addresses())
            await identified_link(client, network.peer_id)
            (told,) = await client.find_providers(CONTENT, 5)
            assert told.peer == foreign.peer_id
            assert set(foreign.addresses) <= set(told.addresses)


@pytest.mark.parametrize("implementation", ALL)
async def test_a_peer_that_they_know_is_found(open_foreign: OpenForeign) -> None:
    """Two of ours that know only the foreign peer: one opens a stream to the other."""
    async with open_node(1) as wanted, open_node(2) as seeker, open_foreign() as foreign:
        wanted.set_handler(ECHO, echo)
        await acquainted(wanted, foreign)
        await acquainted(seeker, foreign)
        stream = await seeker.open_stream(wanted.peer_id, ECHO)
        await stream.send(b"found")
        assert await stream.receive() == b"found"
        await stream.aclose()
