"""A node of ours in a network namespace: a program that takes one JSON object a line and answers in kind (driving.py)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import trio

from cocoon_p2p import limits

QUICK = {
    "AUTONAT_DIAL_BACK_TIMEOUT_S": 1.0,
    "AUTONAT_GATHER_S": 0.1,
    "AUTONAT_ROUND_INTERVAL_S": 0.5,
    "DIAL_TIMEOUT_S": 1.5,
    "HOLE_PUNCH_TIMEOUT_S": 1.5,
    "KEEPALIVE_INTERVAL_S": 1.0,
    "RELAYED_LINK_GRACE_S": 0.5,
    "RELAY_RETRY_S": 1.0,
    "SWITCH_ROUND_S": 1.0,
}
"""Here round trips take a tenth of a millisecond, and what is dropped is waited for in vain."""
for _name, _seconds in {**QUICK, **json.loads(sys.argv[1]).get("limits", {})}.items():
    assert isinstance(getattr(limits, _name), float)
    setattr(limits, _name, _seconds)  # before those are imported that read it

from cocoon_p2p.errors import CocoonError  # noqa: E402
from cocoon_p2p.ids import PeerId  # noqa: E402
from cocoon_p2p.net.libp2p import Libp2pNetwork, open_libp2p  # noqa: E402
from cocoon_p2p.net.port import Stream  # noqa: E402

ECHO = "/test/echo/1"
_READ_BYTES = 64 * 1024


async def serve_echo(stream: Stream) -> None:
    while True:
        await stream.send(await stream.receive())


class Node:
    def __init__(self, network: Libp2pNetwork) -> None:
        self.network = network
        self.streams: dict[int, Stream] = {}

    async def do_connect(self, peer: str, addresses: list[str]) -> None:
        await self.network.connect(PeerId(peer), addresses)

    async def do_disconnect(self, peer: str) -> None:
        await self.network.disconnect(PeerId(peer))

    async def do_peers(self) -> list[dict[str, Any]]:
        return [asdict(peer) for peer in self.network.peers()]

    async def do_reachability(self) -> dict[str, Any]:
        return asdict(self.network.reachability())

    async def do_counters(self) -> dict[str, int]:
        return dict(self.network.counters())

    async def do_ping(self, peer: str) -> float:
        return await self.network.ping(PeerId(peer))

    async def do_open(self, peer: str) -> int:
        """A stream to the peer's echo; its number."""
        number = len(self.streams)
        self.streams[number] = await self.network.open_stream(PeerId(peer), ECHO)
        return number

    async def do_echo(self, stream: int, size: int) -> bool:
        """Whether random bytes come back."""
        data = os.urandom(size)
        await self.streams[stream].send(data)
        return await self.streams[stream].receive() == data

    async def do_close(self, stream: int) -> None:
        await self.streams.pop(stream).aclose()


async def main() -> None:
    options = json.loads(sys.argv[1])
    options.pop("limits", None)
    logging.basicConfig(stream=sys.stderr, level=options.pop("log", "WARNING"))
    if "network_key" in options:
        options["network_key"] = bytes.fromhex(options["network_key"])
    seed = hashlib.sha256(b"namespace node %d" % options.pop("number")).digest()
    async with open_libp2p(seed, agent="netns/1", **options) as network:
        network.set_handler(ECHO, serve_echo)
        _say({"peer_id": network.peer_id, "addresses": network.addresses()})
        node = Node(network)
        stdin = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
        buffer = b""
        async with trio.open_nursery() as nursery:
            while piece := await stdin.receive_some(_READ_BYTES):
                *lines, buffer = (buffer + piece).split(b"\n")
                for line in lines:
                    nursery.start_soon(_answer, node, json.loads(line))
            nursery.cancel_scope.cancel()


async def _answer(node: Node, request: dict[str, Any]) -> None:
    number, name = request.pop("id"), request.pop("do")
    action: Callable[..., Awaitable[Any]] = getattr(node, f"do_{name}")
    try:
        _say({"id": number, "ok": await partial(action, **request)()})
    except CocoonError as error:
        _say({"id": number, "error": str(error), "code": error.code, "hint": error.hint})


def _say(fields: dict[str, Any]) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    trio.run(main)
