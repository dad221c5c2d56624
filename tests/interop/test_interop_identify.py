"""Signed peer records and identify/push with peers of another make."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
from foreign import OpenForeign
from go_daemon import GO_KAD
from interop_nodes import dial_each_other, identified_link, open_node, polled

from cocoon_p2p.net.dht import dht
from cocoon_p2p.net.identify import identify
from cocoon_p2p.net.identify.identify import IDENTIFY_PUSH
from cocoon_p2p.testing.net_contract import ECHO, echo

LATE = "/test/late/1"


async def answered(ask: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool]) -> Any:
    """What they say, once it is so."""
    while not wanted(answer := await ask()):  # noqa: ASYNC110
        await trio.sleep(0.01)
    return answer


@pytest.mark.parametrize("implementation", ["js", "go"])
@pytest.mark.parametrize("we_dial", [True, False], ids=["we dial", "they dial"])
async def test_their_signed_records_are_read(open_foreign: OpenForeign, we_dial: bool) -> None:
    async with open_node(1) as network, open_foreign() as foreign:
        await dial_each_other(network, foreign, we_dial=we_dial)
        await identified_link(network, foreign.peer_id)
        await polled(lambda: network._identification._sequences.get(foreign.peer_id, 0) > 0)
        assert set(foreign.addresses) <= set(map(str, network._switch.book.get(foreign.peer_id)))
        assert not {"peer_bad_signature", "peer_malformed"} & set(network.counters())


@pytest.mark.parametrize("implementation", ["js"])
async def test_our_signed_record_and_our_pushes_are_taken(
    open_foreign: OpenForeign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identify, "IDENTIFY_PUSH_INTERVAL_S", 0.05)
    async with open_node(1) as network, open_foreign() as foreign:
        await network.connect(foreign.peer_id, foreign.addresses)
        link = await identified_link(network, foreign.peer_id)
        assert IDENTIFY_PUSH in link.protocols
        ask = partial(foreign.call, "known", peer=network.peer_id)
        known = await answered(ask, lambda known: known["certified"] == list(network.addresses()))
        assert ECHO not in known["protocols"]
        network.set_handler(ECHO, echo)
        await answered(ask, lambda known: ECHO in known["protocols"])
        moved = "/ip4/127.0.0.1/tcp/4999"
        network.announce([moved])
        await answered(ask, lambda known: known["certified"] == [moved])


@pytest.mark.parametrize("implementation", ["js", "go"])
async def test_their_pushes_are_taken(open_foreign: OpenForeign) -> None:
    async with open_node(1) as network, open_foreign() as foreign:
        await network.connect(foreign.peer_id, foreign.addresses)
        link = await identified_link(network, foreign.peer_id)
        assert LATE not in link.protocols
        await foreign.call("handle", protocol=LATE)
        await polled(lambda: LATE in link.protocols)


@pytest.mark.parametrize("implementation", ["go"])
async def test_go_hears_that_we_have_become_a_dht_server(
    open_foreign: OpenForeign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its daemon shows nothing of what it knows, but servers only get into its routing table."""
    monkeypatch.setattr(dht, "KAD", GO_KAD)
    async with open_node(1, dht_server=False) as network, open_foreign() as foreign:
        await network.connect(foreign.peer_id, foreign.addresses)
        await identified_link(network, foreign.peer_id)
        assert await foreign.call("dht_peers") == []
        network._dht.set_server(True)
        network._identification.changed()
        await foreign.call("wait_dht")
        assert await foreign.call("dht_peers") == [network.peer_id]
