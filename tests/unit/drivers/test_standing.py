"""What the network reports costs a peer its standing, first its pace and then its place; with real nodes and a real store."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cocoon_p2p.drivers.clock import SystemClock
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.errors import TransportError
from cocoon_p2p.limits import BAN_MAX_S, STANDING_BAN_S
from cocoon_p2p.net.libp2p import Libp2pNetwork, open_libp2p
from cocoon_p2p.policy.reputation import Fault
from cocoon_p2p.store import Store, open_store

PATIENCE_S = 20.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "state.db") as opened:
        yield opened


@asynccontextmanager
async def open_node(number: int) -> AsyncIterator[Libp2pNetwork]:
    seed = hashlib.sha256(b"standing %d" % number).digest()
    with trio.fail_after(PATIENCE_S):
        async with open_libp2p(seed, listen=["/ip4/127.0.0.1/tcp/0"], agent="test") as network:
            yield network


class WatchedClock(SystemClock):
    """The system's, and ahead of it if need be."""

    ahead_s = 0.0

    def unix(self) -> float:
        return super().unix() + self.ahead_s


async def fall(keeper: StandingKeeper, network: Libp2pNetwork, peer: str, below: float) -> None:
    with trio.fail_after(PATIENCE_S):
        while keeper.percent(peer) > below:  # type: ignore[arg-type]
            network._switch.report(peer, "flood")  # type: ignore[arg-type]
            await trio.sleep(0.01)


async def test_a_flooding_peer_is_slowed_then_banned_then_forgiven(store: Store) -> None:
    clock = WatchedClock()
    async with open_node(1) as server, open_node(2) as client, trio.open_nursery() as nursery:
        keeper = StandingKeeper(server, store, clock)
        nursery.start_soon(keeper.watch)
        await trio.testing.wait_all_tasks_blocked()
        await client.connect(server.peer_id, server.addresses())
        gate, peer = server._switch.gate, client.peer_id
        while server._switch.link(peer) is None:  # noqa: ASYNC110  (the last message of its handshake is on its way)
            await trio.sleep(0.01)
        assert keeper.percent(peer) == 100.0
        for _ in range(3):
            keeper.penalise(peer, Fault.FLOOD)
        assert gate.share(peer, trio.current_time()) == 0.5, "slowed"
        assert any(row.peer == peer for row in server.peers()), "and not yet cut off"
        await fall(keeper, server, peer, below=45.0)
        assert gate.share(peer, trio.current_time()) == 0.25
        await fall(keeper, server, peer, below=0.0)
        assert keeper.is_banned(peer)
        assert server._switch.is_banned(peer)
        with pytest.raises(TransportError):
            await client.connect(server.peer_id, server.addresses())
            stream = await client.open_stream(server.peer_id, "/none/1")
            await stream.receive()
        clock.ahead_s = STANDING_BAN_S + 1
        assert not keeper.is_banned(peer)
        assert 40.0 < keeper.percent(peer) < 60.0, "half a penalty is left after a half-life"
        clock.ahead_s = 20 * STANDING_BAN_S
        assert keeper.percent(peer) > 99.0
        nursery.cancel_scope.cancel()


async def test_who_comes_back_with_a_bad_standing_is_slow(store: Store) -> None:
    async with open_node(1) as server, open_node(2) as client, trio.open_nursery() as nursery:
        before = StandingKeeper(server, store, SystemClock())
        for _ in range(6):
            before.penalise(client.peer_id, Fault.FLOOD)
        server.slow(client.peer_id, 1.0, 0.0)  # as after a restart
        keeper = StandingKeeper(server, store, SystemClock())
        nursery.start_soon(keeper.watch)
        await trio.testing.wait_all_tasks_blocked()
        await client.connect(server.peer_id, server.addresses())
        with trio.fail_after(PATIENCE_S):
            while server._switch.gate.share(client.peer_id, trio.current_time()) != 0.25:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_a_ban_by_hand_outlives_a_restart_and_ends_by_hand(store: Store) -> None:
    async with open_node(1) as server, open_node(2) as client:
        clock = WatchedClock()
        keeper = StandingKeeper(server, store, clock)
        peer = client.peer_id
        keeper.penalise(peer, Fault.MALFORMED)
        until_ms = keeper.ban(peer, 3600.0)
        assert abs(until_ms / 1000 - clock.unix() - 3600.0) < 5.0
        assert keeper.percent(peer) == 0.0
        server.unban(peer)  # as after a restart
        StandingKeeper(server, store, clock).restore()
        assert server._switch.is_banned(peer)
        keeper.unban(peer)
        assert not server._switch.is_banned(peer)
        assert keeper.percent(peer) == 100.0
        await client.connect(server.peer_id, server.addresses())
        assert keeper.ban(peer, 1e12) / 1000 - clock.unix() < BAN_MAX_S + 5.0
