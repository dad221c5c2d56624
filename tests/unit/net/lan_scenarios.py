"""What test_upnp.py and test_mdns.py do inside a network namespace of their own, where multicast reaches nobody else:
`python lan_scenarios.py NAME` prints its result as JSON."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio
from fake_router import FakeRouter, running_router
from zeroconf import DNSOutgoing, DNSText, Zeroconf
from zeroconf.const import _CLASS_IN, _FLAGS_AA, _FLAGS_QR_RESPONSE, _TYPE_TXT

from cocoon_p2p.ids import PeerId, peer_id_from_public_key
from cocoon_p2p.net.addresses import Address, parse_address
from cocoon_p2p.net.libp2p import Libp2pNetwork, open_libp2p
from cocoon_p2p.net.reach.mdns import PUBLIC_SERVICE, Mdns, encode_txt
from cocoon_p2p.net.reach.upnp import PortMapper

PATIENCE_S = 20.0
LISTENING = Address("ip4", "192.168.1.20", 4001)


def mapper_of(on_change: Callable[[], object]) -> PortMapper:
    mapper = PortMapper(lambda: [LISTENING, parse_address("/ip4/127.0.0.1/tcp/4001")], Counter())
    mapper.on_change = on_change
    return mapper


async def mapped_once(router: FakeRouter) -> dict[str, Any]:
    """One run of the mapper, until it has told something."""
    changed = trio.Event()
    mapper = mapper_of(changed.set)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mapper.run)
        await changed.wait()
        held = dict(router.mappings)
        mapped, outcome = [str(address) for address in mapper.mapped], mapper.outcome
        nursery.cancel_scope.cancel()
    return {"held": list(held.items()), "mapped": mapped, "outcome": outcome, "left": list(router.mappings)}


async def upnp() -> list[Any]:
    results = []
    with running_router("198.51.100.7") as router:  # an address for documentation, which counts as private
        results.append(await mapped_once(router))
        router.external_host = "9.9.9.9"
        results.append(await mapped_once(router))
        router.taken = {4001}
        results.append(await mapped_once(router))
        router.taken, router.permanent_only = set(), True
        results.append(await mapped_once(router))
    return results


async def upnp_without_router() -> dict[str, Any]:
    changed = trio.Event()
    mapper = mapper_of(changed.set)
    async with trio.open_nursery() as nursery:
        started = time.monotonic()
        nursery.start_soon(mapper.run)
        await trio.lowlevel.checkpoint()
        returned_s = time.monotonic() - started
        await changed.wait()
        took_s = time.monotonic() - started
        nursery.cancel_scope.cancel()
    return {"outcome": mapper.outcome, "mapped": mapper.mapped, "returned_s": returned_s, "took_s": took_s}


async def neighbours() -> dict[str, Any]:
    """Three nodes without any bootstrap: two of one network, and one of a private network."""
    with trio.fail_after(PATIENCE_S):
        async with (
            open_lan_node(1) as one,
            open_lan_node(2) as two,
            open_lan_node(3, network_key=bytes(32)) as stranger,
        ):
            while not (one.peers() and two.peers()):  # noqa: ASYNC110
                await trio.sleep(0.05)
            return {
                "ids": [one.peer_id, two.peer_id],
                "met": [[peer.peer for peer in node.peers()] for node in (one, two, stranger)],
                "counters": [dict(node.counters()) for node in (one, two, stranger)],
            }


async def mdns_liar() -> dict[str, Any]:
    """What a machine of the LAN makes others dial: nothing on the internet, and not often."""
    dialled: list[tuple[str, str]] = []
    own, liar = (peer_id_from_public_key(bytes([number]) * 32) for number in (1, 2))

    async def connect(peer: PeerId, addresses: Sequence[Address]) -> None:
        dialled.extend((peer, str(address)) for address in addresses)

    counters: Counter[str] = Counter()
    honest = Mdns(own, lambda: ("/ip4/127.0.0.1/tcp/4001",), connect, counters)
    lies = ["/ip4/9.9.9.9/tcp/80", "/dns4/victim.example/tcp/80", "/ip4/10.0.0.9/tcp/4001"]
    hostile = Mdns(liar, lambda: ("/ip4/10.0.0.9/tcp/4001",), ignore, Counter())
    hostile._local_addresses = lambda: [parse_address(text) for text in lies]  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(honest.run)
        nursery.start_soon(hostile.run)
        while not dialled:  # noqa: ASYNC110
            await trio.sleep(0.05)
        for number in range(200):
            honest._heard.append(encode_txt(liar, [parse_address(f"/ip4/10.0.0.{number % 250 + 1}/tcp/1")]))
        honest._arrived.set()
        while not counters:  # noqa: ASYNC110
            await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    return {"liar": liar, "dialled": dialled, "counters": dict(counters)}


async def mdns_at_once() -> dict[str, Any]:
    """Somebody announces himself, once, while the node's zeroconf starts: it is in the cache when `start` returns."""
    lan = parse_address("/ip4/10.0.0.9/tcp/4001")
    own, other = (peer_id_from_public_key(bytes([number]) * 32) for number in (1, 2))
    name = "a" * 32 + "." + PUBLIC_SERVICE
    announcement = DNSOutgoing(_FLAGS_QR_RESPONSE | _FLAGS_AA)
    announcement.add_answer_at_time(DNSText(name, _TYPE_TXT, _CLASS_IN, 120, encode_txt(other, [lan])), 0)
    real_start = Zeroconf.start

    def start(zeroconf: Zeroconf) -> None:
        real_start(zeroconf)
        while name not in zeroconf.cache.names():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(announcement.packets()[0], ("127.0.0.1", 5353))
            time.sleep(0.01)

    Zeroconf.start = start  # type: ignore[method-assign]
    met = trio.Event()

    async def connect(peer: PeerId, addresses: Sequence[Address]) -> None:
        if (peer, list(map(str, addresses))) == (other, [str(lan)]):
            met.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Mdns(own, lambda: ("/ip4/127.0.0.1/tcp/4001",), connect, Counter()).run)
        await met.wait()
        nursery.cancel_scope.cancel()
    return {"met": True}


async def ignore(peer: PeerId, addresses: Sequence[Address]) -> None:
    pass


def open_lan_node(number: int, network_key: bytes | None = None) -> AbstractAsyncContextManager[Libp2pNetwork]:
    return open_libp2p(
        bytes([number]) * 32, listen=["/ip4/127.0.0.1/tcp/0"], agent="lan", mdns=True, network_key=network_key
    )


SCENARIOS: dict[str, Callable[[], Awaitable[Any]]] = {
    "upnp": upnp,
    "upnp_without_router": upnp_without_router,
    "neighbours": neighbours,
    "mdns_liar": mdns_liar,
    "mdns_at_once": mdns_at_once,
}


async def main(name: str) -> None:
    with trio.fail_after(PATIENCE_S):
        print(json.dumps(await SCENARIOS[name]()))


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
