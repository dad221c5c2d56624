"""libp2p over WebSocket with peers of another make: our one port takes them, and we dial theirs."""

from __future__ import annotations

import pytest
from foreign import OpenForeign
from interop_nodes import dial, exchange, identified_link, open_node, trouble

from cocoon_p2p.errors import TransportError
from cocoon_p2p.testing.net_contract import ECHO, echo

WEBSOCKET = "/ip4/127.0.0.1/tcp/0/ws"
ALL = ["py", "js", "go"]


@pytest.mark.parametrize("implementation", ALL)
@pytest.mark.parametrize("we_dial", [True, False], ids=["we dial", "they dial"])
async def test_streams_over_websocket(open_foreign: OpenForeign, we_dial: bool) -> None:
    async with open_node(1) as network, open_foreign(listen=WEBSOCKET) as foreign:
        network.set_handler(ECHO, echo)
        await dial(network, foreign, f"{network.addresses()[0]}/ws", we_dial=we_dial)
        await identified_link(network, foreign.peer_id)
        (there,) = network.peers()
        assert there.transport == "websocket"
        assert there.direction == ("outbound" if we_dial else "inbound")
        assert set(foreign.addresses) <= set(there.listens_on)
        await exchange(network, foreign)
        assert trouble(network) == {}


@pytest.mark.parametrize("implementation", ALL)
async def test_another_identity_at_the_websocket(open_foreign: OpenForeign) -> None:
    async with open_node(1) as network, open_node(2) as absent, open_foreign(listen=WEBSOCKET) as foreign:
        with pytest.raises(TransportError, match="another peer"):
            await network.connect(absent.peer_id, foreign.addresses)
