"""Addresses that strangers announce do not lead a node to the doors of its own machine or office; with real nodes."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from cocoon_p2p.drivers.clock import SystemClock
from cocoon_p2p.drivers.hearsay import heard_addresses
from cocoon_p2p.drivers.job_client import ClientPorts, JobClient
from cocoon_p2p.drivers.market import MarketDriver, MarketPorts
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import ModelId, Tier
from cocoon_p2p.net.addresses import dialable_hearsay
from cocoon_p2p.net.libp2p import Libp2pNetwork, open_libp2p
from cocoon_p2p.proto.market import Announcer, MarketBook
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import open_local_settlement
from cocoon_p2p.store import open_store
from cocoon_p2p.wire.capacity import DeviceClass, Offer, TierPrice, Unit

PATIENCE_S = 20.0
STRANGER = IdentityKey.from_seed(hashlib.sha256(b"a stranger").digest())
MODEL = ModelId("ab" * 32)
PRICE = TierPrice(Tier.SEALED, 100, 10)
OFFER = Offer(MODEL, "echo", Unit.ITEM, (PRICE,), 64, 10_000, 4, 4, 0, "cpu", DeviceClass.CPU, 0, 0)
LOOPBACK, LAN, PUBLIC = "/ip4/127.0.0.1/tcp/22", "/ip4/192.168.1.1/tcp/80/ws", "/ip4/8.8.8.8/tcp/4001"
THROUGH_LAN = f"/ip4/10.0.0.1/tcp/4001/p2p/{STRANGER.peer_id}/p2p-circuit"
TOLD = (LOOPBACK, "/ip6/::1/tcp/22", LAN, THROUGH_LAN, PUBLIC, "/dns4/node.example/tcp/1", "nonsense")


@pytest.mark.parametrize(
    ("seen_at", "left"),
    [
        ([], TOLD[4:]),
        (["/ip4/9.9.9.9/tcp/4001", "/ip6/2606:4700::1/tcp/1"], TOLD[4:]),
        (["/ip4/9.9.9.9/tcp/4001", "/ip4/192.168.1.7/tcp/40000"], TOLD[2:]),
        (["/ip4/9.9.9.9/tcp/4001", "/ip4/127.0.0.1/tcp/40000"], TOLD),
    ],
)
def test_what_may_be_dialled_depends_on_where_the_peers_are(seen_at: list[str], left: tuple[str, ...]) -> None:
    assert dialable_hearsay(TOLD, seen_at) == left


@asynccontextmanager
async def open_node(number: int, *listen: str) -> AsyncIterator[Libp2pNetwork]:
    seed = hashlib.sha256(b"hearsay %d" % number).digest()
    with trio.fail_after(PATIENCE_S):
        async with open_libp2p(seed, listen=listen, agent="test") as network:
            yield network


@contextmanager
def door() -> Iterator[tuple[socket.socket, str]]:
    """Something of this machine that listens, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener, f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}"


def has_been_knocked_at(listener: socket.socket) -> bool:
    try:
        visitor, _ = listener.accept()
    except BlockingIOError:
        return False
    visitor.close()
    return True


def announced(*addresses: str) -> bytes:
    """Of the stranger."""
    announcer = Announcer(STRANGER, agent="test", settlement_network=1, sequence=0)
    announcer.set_offers([OFFER], addresses, time.time())
    (publication,) = announcer.handle_timer(time.time())
    return publication.raw


@asynccontextmanager
async def open_drivers(network: Libp2pNetwork, folder: Path) -> AsyncIterator[tuple[MarketDriver, JobClient]]:
    own, clock = IdentityKey.generate(), SystemClock()
    with (
        open_store(folder / "state.db") as store,
        open_local_settlement(folder / "ledger.db", own, IdentityKey.generate()) as settlement,
    ):
        standing = StandingKeeper(network, store, clock)
        market = MarketDriver(
            MarketPorts(network, store, standing, clock),
            MarketBook(own.peer_id),
            Announcer(own, agent="test", settlement_network=1, sequence=0),
            offers=lambda: ((), ()),
            manifests=lambda _: None,
        )
        async with trio.open_nursery() as nursery:
            yield market, JobClient(ClientPorts(own, network, settlement, store, standing, clock), nursery)
            nursery.cancel_scope.cancel()


async def test_a_strangers_word_alone_opens_no_socket_to_this_machine(tmp_path: Path) -> None:
    async with open_node(1) as network, open_drivers(network, tmp_path) as (market, jobs):
        with door() as (listener, address):
            with pytest.raises(TransportError):
                await jobs._open(STRANGER.peer_id, [address])
            with pytest.raises(TransportError):
                await market.fetch_manifest(STRANGER.peer_id, [address], MODEL)
            assert not has_been_knocked_at(listener)
            with trio.move_on_after(0.2), pytest.raises(TransportError):  # as an operator may
                await network.connect(STRANGER.peer_id, [address])
            assert has_been_knocked_at(listener), "this test would see it"


@pytest.mark.parametrize("driver", ["jobs", "market"])
async def test_among_peers_of_one_machine_its_addresses_are_dialled(tmp_path: Path, driver: str) -> None:
    async with open_node(1) as network, open_node(2, "/ip4/127.0.0.1/tcp/0") as other:
        await network.connect(other.peer_id, other.addresses())
        async with open_drivers(network, tmp_path) as (market, jobs):
            with door() as (listener, address):
                with trio.move_on_after(0.2):
                    if driver == "jobs":
                        await jobs._open(STRANGER.peer_id, [address])
                    else:
                        await market.fetch_manifest(STRANGER.peer_id, [address], MODEL)
                assert has_been_knocked_at(listener)


async def test_nothing_of_it_is_noted_either(tmp_path: Path) -> None:
    async with open_node(1) as network, open_drivers(network, tmp_path) as (market, _):
        market._take(announced(LOOPBACK, PUBLIC))
        record = market._ports.store.peers.get(STRANGER.peer_id)
        assert record is not None
        assert record.addresses == (PUBLIC,)
        assert heard_addresses(network, TOLD) == TOLD[4:]
