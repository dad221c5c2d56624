"""Private networks (swarm.key) with peers of another make: in with the key, and nothing at all without it.

js-libp2p has the protector of the specification. py-libp2p 0.8.1 has one of its own (Salsa20 with a nonce of 8 bytes), which
nobody else speaks; go's daemon cannot be given a key. Both serve here as strangers.
"""

from __future__ import annotations

from functools import partial

import pytest
import trio
from foreign import ForeignError, OpenForeign
from interop_nodes import dial, exchange, identified_link, open_node, trouble

from cocoon_p2p.errors import TransportError
from cocoon_p2p.net.switch import inbound, outbound
from cocoon_p2p.net.transport.private import format_network_key
from cocoon_p2p.testing.net_contract import ECHO, echo

TCP, WEBSOCKET = "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"
KEY, ANOTHER_KEY = bytes(range(32)), bytes(range(1, 33))


@pytest.mark.parametrize("implementation", ["js"])
@pytest.mark.parametrize("listen", [TCP, WEBSOCKET], ids=["tcp", "websocket"])
@pytest.mark.parametrize("we_dial", [True, False], ids=["we dial", "they dial"])
async def test_with_the_key(open_foreign: OpenForeign, listen: str, we_dial: bool) -> None:
    ending = listen.removeprefix(TCP)
    async with (
        open_node(1, network_key=KEY) as network,
        open_foreign(listen=listen, network_key=format_network_key(KEY)) as foreign,
    ):
        network.set_handler(ECHO, echo)
        await dial(network, foreign, f"{network.addresses()[0]}{ending}", we_dial=we_dial)
        await identified_link(network, foreign.peer_id)
        (there,) = network.peers()
        assert there.transport == ("websocket" if ending else "tcp")
        await exchange(network, foreign)
        assert trouble(network) == {}


@pytest.mark.parametrize(
    ("implementation", "ours", "theirs"),
    [
        ("js", KEY, ANOTHER_KEY),
        ("js", KEY, None),
        ("js", None, KEY),
        ("go", KEY, None),
        ("py", KEY, KEY),  # its protector is not that of the specification: this fails when it has become so
    ],
    ids=["js, another key", "js, none", "js, we none", "go, none", "py, its own protector"],
)
async def test_without_the_key(
    open_foreign: OpenForeign, ours: bytes | None, theirs: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (
        inbound,
        outbound,
    ):  # noise may begin with a great length: both then wait for the rest of the message
        monkeypatch.setattr(module, "HANDSHAKE_TIMEOUT_S", 0.5)
    options = {} if theirs is None else {"network_key": format_network_key(theirs)}
    async with open_node(1, network_key=ours) as network, open_foreign(**options) as foreign:
        network.set_handler(ECHO, echo)

        async def they_dial() -> None:
            with pytest.raises(ForeignError):
                await foreign.call("connect", address=f"{network.addresses()[0]}/p2p/{network.peer_id}")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(they_dial)
            with pytest.raises(TransportError) as caught:
                await network.connect(foreign.peer_id, foreign.addresses)
        if ours is not None:
            assert "not in our private network" in str(caught.value)
            assert ours.hex() not in str(caught.value)
        assert network.peers() == ()


async def test_a_stranger_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took our first bytes for the length of a long message, say: the error still tells what may be the matter."""
    monkeypatch.setattr(outbound, "HANDSHAKE_TIMEOUT_S", 0.05)

    async def wait(stream: trio.SocketStream) -> None:
        async with stream:
            while await stream.receive_some():
                pass

    async with open_node(1, network_key=KEY) as network, open_node(2) as absent, trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, wait, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        with pytest.raises(TransportError, match="perhaps not in our private network: handshake: timed out"):
            await network.connect(absent.peer_id, [f"/ip4/127.0.0.1/tcp/{port}"])
        nursery.cancel_scope.cancel()
