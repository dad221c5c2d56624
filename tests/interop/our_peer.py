"""A peer of our own make, driven by JSON lines (foreign.py): for benchmarks, and for tests that run in a namespace.

our_peer.py [{"listen": "/ip4/…", "protocol_version": "what identify is to say"}]
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from typing import Any

import trio
from interop_nodes import identified_link, ping, polled

from cocoon_p2p.errors import CocoonError, RemoteProtocolError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.identify import messages
from cocoon_p2p.net.libp2p import Libp2pNetwork, open_libp2p
from cocoon_p2p.testing.net_contract import ECHO, echo, numbered

_READ_BYTES = 1 << 20


class Refusals:
    """The records that were no records of ours."""

    def __init__(self) -> None:
        self._seen: dict[str, bytes] = {}

    def validate(self, key: str, value: bytes) -> int:
        try:
            return numbered(key, value)
        except RemoteProtocolError:
            self._seen[key] = value
            raise

    async def wait(self, key: str) -> bytes:
        await polled(lambda: key in self._seen)
        return self._seen[key]


class Peer:
    def __init__(self, network: Libp2pNetwork, refusals: Refusals) -> None:
        self._network = network
        self._refusals = refusals

    async def do_connect(self, address: str) -> None:
        where, _, peer = address.partition("/p2p/")
        await self._network.connect(PeerId(peer), [where])

    async def do_identify(self, peer: str) -> dict[str, Any]:
        """Waits for the connection, too."""
        await polled(lambda: self._network._switch.link(PeerId(peer)) is not None)
        link = await identified_link(self._network, PeerId(peer))
        (there,) = [there for there in self._network.peers() if there.peer == peer]
        return {"agent": there.agent, "direction": there.direction, "protocols": sorted(link.protocols)}

    async def do_ping(self, peer: str) -> None:
        await ping(self._network, PeerId(peer))

    async def do_echo(self, peer: str, sizes: list[int]) -> bool:
        """Frames of these sizes; whether the same came back."""
        stream = await self._network.open_stream(PeerId(peer), ECHO)
        frames = [os.urandom(size) for size in sizes]

        async def write() -> None:
            for frame in frames:
                await stream.send(frame)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            same = [bytes(await stream.receive()) == frame for frame in frames]
        await stream.aclose()
        return all(same)

    async def do_wait_dht(self, peer: str) -> None:
        """Until it is in our routing table."""
        await polled(lambda: PeerId(peer) in self._network._dht._table)

    async def do_put(self, key: str, value: str) -> None:
        await self._network.dht_put(key, value.encode())

    async def do_get(self, key: str) -> str | None:
        value = await self._network.dht_get(key)
        return None if value is None else value.decode()

    async def do_provide(self, content: str) -> None:
        await self._network.provide(bytes.fromhex(content))

    async def do_find_providers(self, content: str) -> list[list[Any]]:
        found = await self._network.find_providers(bytes.fromhex(content), 20)
        return [[told.peer, list(told.addresses)] for told in found]

    async def do_wait_refused(self, key: str) -> str:
        """What somebody wanted to store under this key, and could not."""
        return (await self._refusals.wait(key)).hex()


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


async def answer(peer: Peer, request: dict[str, Any]) -> None:
    number, name = request.pop("id"), request.pop("do")
    try:
        say(id=number, ok=await getattr(peer, f"do_{name}")(**request))
    except CocoonError as error:
        say(id=number, error=f"{error.code}: {error}")


async def main(listen: str = "/ip4/127.0.0.1/tcp/0", protocol_version: str = messages.PROTOCOL_VERSION) -> None:
    messages.PROTOCOL_VERSION = protocol_version
    refusals = Refusals()
    validators = {"test-records": refusals.validate}
    async with (
        open_libp2p(secrets.token_bytes(32), listen=[listen], agent="ours", validators=validators) as network,
        trio.open_nursery() as nursery,
    ):
        network.set_handler(ECHO, echo)
        peer = Peer(network, refusals)
        say(peer_id=network.peer_id, addresses=list(network.addresses()), version="cocoon_p2p")
        buffer = b""
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
            while piece := await stdin.receive_some(_READ_BYTES):
                *lines, buffer = (buffer + piece).split(b"\n")
                for line in lines:
                    nursery.start_soon(answer, peer, json.loads(line))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    options = json.loads(sys.argv[1]) if sys.argv[1:] else {}
    trio.run(lambda: main(**options))
