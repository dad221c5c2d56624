"""Entering a network, finding it again, and what an operator does to single peers: on the simulated network.

`autojump_clock` makes hours pass at once."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cocoon_p2p.drivers.invites import read_invite
from cocoon_p2p.drivers.joining import Joiner
from cocoon_p2p.drivers.known_peers import SAVE_FIRST_S, KnownPeersKeeper
from cocoon_p2p.drivers.peering import Membership, Peering, PeeringPorts
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.errors import CocoonError, ConfigError, TransportError
from cocoon_p2p.ids import PeerId, peer_id_from_public_key
from cocoon_p2p.limits import BAN_MAX_S, KNOWN_PEER_AGE_MAX_S
from cocoon_p2p.net.memory import MemoryHub, MemoryNetwork
from cocoon_p2p.net.port import PeerAddresses, PeerConnected
from cocoon_p2p.store import KnownPeer, Store, open_store
from cocoon_p2p.testing.simulation import VirtualClock

PEERS = [peer_id_from_public_key(bytes([n]) * 32) for n in range(12)]
NOBODY = PeerAddresses(PEERS[11], ("/ip4/10.9.9.9/tcp/1",))


@dataclass
class Party:
    network: MemoryNetwork
    store: Store
    standing: StandingKeeper
    known: KnownPeersKeeper
    clock: VirtualClock

    @property
    def as_entry(self) -> PeerAddresses:
        return PeerAddresses(self.network.peer_id, self.network.addresses())

    def joiner(self, *bootstrap: PeerAddresses) -> Joiner:
        return Joiner(self.network, bootstrap, self.known.some)

    def peering(self, joiner: Joiner | None = None, membership: Membership | None = None) -> Peering:
        ports = PeeringPorts(self.network, self.store, self.standing, self.clock)
        joiner = joiner or self.joiner()
        return Peering(ports, joiner, self.known, membership or Membership(), self.network.addresses)

    def connected(self) -> set[PeerId]:
        return {peer.peer for peer in self.network.peers()}


@asynccontextmanager
async def party(hub: MemoryHub, number: int, folder: Path, *, network_name: str = "") -> AsyncIterator[Party]:
    clock = VirtualClock()
    async with hub.open(PEERS[number], listen=[f"/ip4/10.0.0.{number + 1}/tcp/4001"]) as network:
        with open_store(folder / f"{number}.sqlite3") as store:
            standing = StandingKeeper(network, store, clock)
            rng = random.Random(number)
            known = KnownPeersKeeper(network, store, standing, clock, rng, network_name=network_name)
            yield Party(network, store, standing, known, clock)


async def connected_to(network: MemoryNetwork, peer: PeerId) -> None:
    """As soon as it is; events that came before do not count, so the state is looked at first."""
    async with network.events() as events:
        if peer in {each.peer for each in network.peers()}:
            return
        async for event in events:
            if event == PeerConnected(peer):
                return


# --- joining ---


async def test_the_first_that_answers_is_enough(tmp_path: Path, autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    async with party(hub, 0, tmp_path) as one, party(hub, 1, tmp_path) as two:
        await one.joiner(NOBODY, two.as_entry).join()
        assert one.connected() == {PEERS[1]}


async def test_the_others_are_dialled_later(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Whoever knows one entry only is lost with it."""
    hub = MemoryHub()
    async with party(hub, 0, tmp_path) as one, party(hub, 1, tmp_path) as two, party(hub, 2, tmp_path) as three:
        joiner = one.joiner(two.as_entry, three.as_entry)
        await joiner.join()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(joiner.run)
            await trio.sleep(1)
            assert one.connected() == {PEERS[1], PEERS[2]}
            nursery.cancel_scope.cancel()


async def test_nobody_answers(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with party(MemoryHub(), 0, tmp_path) as one:
        with pytest.raises(TransportError, match=r"no bootstrap node could be reached: .*Connection refused") as caught:
            await one.joiner(NOBODY).join()
        assert (caught.value.code, bool(caught.value.hint)) == ("BOOTSTRAP", True)
        await one.joiner().join()


async def test_peers_known_from_before_lead_back_when_the_bootstrap_nodes_are_gone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    hub = MemoryHub()
    async with party(hub, 1, tmp_path) as other:
        async with party(hub, 0, tmp_path) as one:
            await one.network.connect(PEERS[1], other.network.addresses())
            one.known.save()
        async with party(hub, 0, tmp_path) as one, trio.open_nursery() as nursery:
            joiner = one.joiner(NOBODY)
            assert await joiner.join_by_known()
            assert one.connected() == {PEERS[1]}
            nursery.start_soon(joiner.run)
            await trio.sleep(1000)
            await one.network.disconnect(PEERS[1])
            with trio.fail_after(100):
                await connected_to(one.network, PEERS[1])
            nursery.cancel_scope.cancel()


async def test_a_bootstrap_node_is_tried_until_it_answers_also_when_others_did(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    hub = MemoryHub()
    async with party(hub, 0, tmp_path) as one, party(hub, 1, tmp_path) as other, trio.open_nursery() as nursery:
        one.known.remember(PEERS[1], other.network.addresses())
        late = PeerAddresses(PEERS[2], ("/ip4/10.0.0.3/tcp/4001",))
        joiner = one.joiner(late)
        with pytest.raises(TransportError):
            await joiner.join()
        nursery.start_soon(joiner.run)
        await trio.sleep(300)
        assert one.connected() == {PEERS[1]}
        async with party(hub, 2, tmp_path):
            with trio.fail_after(70):
                await connected_to(one.network, PEERS[2])
            nursery.cancel_scope.cancel()


async def test_without_anybody_to_try_it_waits_quietly(tmp_path: Path, autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    async with party(hub, 0, tmp_path) as one, party(hub, 1, tmp_path) as other, trio.open_nursery() as nursery:
        nursery.start_soon(one.joiner().run)
        await trio.sleep(10)
        await other.network.connect(PEERS[0], one.network.addresses())
        await trio.sleep(10)
        await other.network.disconnect(PEERS[0])
        await trio.sleep(10)
        assert one.connected() == set()
        nursery.cancel_scope.cancel()


async def test_how_it_stands_with_bootstrap_peers(tmp_path: Path, autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    async with party(hub, 0, tmp_path) as one, party(hub, 1, tmp_path) as two, trio.open_nursery() as nursery:
        joiner = one.joiner(NOBODY)
        nursery.start_soon(joiner.run)
        await trio.sleep(20)
        (entry,) = joiner.entries()
        assert (entry.peer, entry.connected) == (NOBODY, False)
        assert entry.failure == f"{NOBODY.addresses[0]}: Connection refused", "without the id, which everybody sees"
        assert entry.tried_ago_s is not None
        assert entry.again_in_s is not None
        assert entry.tried_ago_s + entry.again_in_s == pytest.approx(16.0, abs=0.1), "after 1, 2, 4 and 8 seconds"
        await one.network.connect(PEERS[1], two.network.addresses())
        joiner.add(two.as_entry)
        assert joiner.entries()[1].connected
        nursery.cancel_scope.cancel()


async def test_a_bootstrap_peer_is_dialled_as_soon_as_its_ban_is_ended(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    hub = MemoryHub()
    parties = party(hub, 0, tmp_path), party(hub, 1, tmp_path), party(hub, 2, tmp_path)
    async with parties[0] as one, parties[1] as two, parties[2] as other, trio.open_nursery() as nursery:
        joiner = one.joiner(two.as_entry)
        await joiner.join()
        await one.network.connect(PEERS[2], other.network.addresses())  # never alone
        nursery.start_soon(joiner.run)
        nursery.start_soon(one.known.run)
        await trio.sleep(1)
        peering = one.peering(joiner)
        peering.ban(PEERS[1], 3600.0)
        await trio.sleep(100)
        assert one.connected() == {PEERS[2]}
        (banned,) = one.store.peers.banned(now_ms=0)
        assert banned.addresses == two.network.addresses(), "where it was connected"
        assert set(peering.met()) == {PEERS[1], PEERS[2]}
        peering.unban(PEERS[1])
        with trio.fail_after(5):
            await connected_to(one.network, PEERS[1])
        nursery.cancel_scope.cancel()


# --- known peers ---


async def test_who_is_kept_and_who_is_dialled(tmp_path: Path, autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    async with party(hub, 0, tmp_path) as one, party(hub, 1, tmp_path) as two, party(hub, 2, tmp_path) as three:
        for other in (two, three):
            await one.network.connect(other.network.peer_id, other.network.addresses())
        one.known.save()
        assert one.known.some() == [], "who is connected needs no dialling"
        for other in (two, three):
            await one.network.disconnect(other.network.peer_id)
        assert {each.peer: each.addresses for each in one.known.some()} == {
            PEERS[1]: two.network.addresses(),
            PEERS[2]: three.network.addresses(),
        }
        assert [each.peer for each in one.known.some(without=frozenset({PEERS[1]}))] == [PEERS[2]]
        one.standing.ban(PEERS[1], 60)
        assert [each.peer for each in one.known.some()] == [PEERS[2]]
        await trio.sleep(KNOWN_PEER_AGE_MAX_S + 1)
        assert one.known.some() == []


async def test_they_are_saved_now_and_then(tmp_path: Path, autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    async with party(hub, 0, tmp_path) as one, party(hub, 1, tmp_path) as two, trio.open_nursery() as nursery:
        nursery.start_soon(one.known.run)
        await one.network.connect(PEERS[1], two.network.addresses())
        await trio.sleep(SAVE_FIRST_S + 1)
        assert [each.peer for each in one.store.known_peers.of_network("")] == [PEERS[1]]
        nursery.cancel_scope.cancel()


async def test_a_few_at_random_and_of_this_network_only(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with party(MemoryHub(), 0, tmp_path) as one, party(MemoryHub(), 1, tmp_path, network_name="ab") as private:
        for each in (one, private):
            now_ms = int(each.clock.unix() * 1000)
            everybody = [KnownPeer(peer, ("/ip4/10.0.0.9/tcp/1",), now_ms) for peer in PEERS[2:]]
            each.store.known_peers.save("", everybody)
        assert private.known.some() == []
        picks = [tuple(each.peer for each in one.known.some()) for _ in range(10)]
        assert all(len(set(pick)) == 4 for pick in picks)
        assert len(set(picks)) > 1


async def test_a_full_disk_costs_the_list_and_nothing_else(tmp_path: Path, autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    async with party(hub, 0, tmp_path) as one, party(hub, 1, tmp_path) as two:
        await one.network.connect(PEERS[1], two.network.addresses())
        one.store.close()
        one.known.save()


# --- single peers ---


async def test_join_by_an_invite_connects_and_is_remembered(tmp_path: Path, autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    async with party(hub, 0, tmp_path) as one, party(hub, 1, tmp_path) as two:
        text, written = two.peering().invite(hours=2, with_network_key=False)
        assert read_invite(text, now_ms=0) == written
        joiner = one.joiner()
        invitation = await one.peering(joiner).join(text)
        assert invitation == written
        assert one.connected() == {PEERS[1]}
        await one.network.disconnect(PEERS[1])
        assert [each.peer for each in one.known.some()] == [PEERS[1]]
        await joiner.join()
        assert one.connected() == {PEERS[1]}, "it is one of the bootstrap peers from now on"
        await trio.sleep(2 * 3600)
        with pytest.raises(ConfigError, match="has expired"):
            await one.peering().join(text)


async def test_an_invite_that_leads_nowhere_is_not_remembered(tmp_path: Path, autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    async with party(hub, 0, tmp_path) as one:
        async with party(hub, 1, tmp_path) as two:
            text, _ = two.peering().invite(hours=None, with_network_key=False)
        joiner = one.joiner()
        with pytest.raises(TransportError, match="Connection refused") as caught:
            await one.peering(joiner).join(text)
        assert caught.value.hint
        assert not joiner.has_bootstrap
        assert one.known.some() == []


async def test_invites_of_other_networks_are_refused_before_anybody_is_dialled(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    hub = MemoryHub()
    private = Membership("büro", "ab" * 8, bytes(32))
    async with party(hub, 0, tmp_path) as one, party(hub, 1, tmp_path) as two:
        with_key, _ = two.peering(membership=private).invite(hours=None, with_network_key=True)
        without, _ = two.peering(membership=private).invite(hours=None, with_network_key=False)
        for text in (with_key, without):
            for use in (one.peering().join, one.peering().connect):
                with pytest.raises(ConfigError, match="private network büro") as caught:
                    await use(text)
                assert (caught.value.code, bool(caught.value.hint)) == ("OTHER_NETWORK", True)
        assert one.connected() == set()
        await one.peering(membership=private).join(with_key)
        assert one.connected() == {PEERS[1]}
        with pytest.raises(ConfigError, match="this node's own invite"):
            await two.peering(membership=private).join(with_key)
        with pytest.raises(ConfigError, match="no private network"):
            one.peering().invite(hours=None, with_network_key=True)


async def test_connect_takes_an_address_an_invite_and_a_known_peer(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = MemoryHub()
    kept: list[PeerId] = []
    monkeypatch.setattr(MemoryNetwork, "keep", lambda _, peer: kept.append(peer))
    async with party(hub, 0, tmp_path) as one, party(hub, 1, tmp_path) as two:
        (address,) = two.network.addresses()
        invite, _ = two.peering().invite(hours=None, with_network_key=False)
        for target in (f"{address}/p2p/{PEERS[1]}", invite.upper(), PEERS[1]):
            assert await one.peering().connect(target) == PEERS[1]
            assert one.connected() == {PEERS[1]}
            await one.network.disconnect(PEERS[1])
        one.store.peers.seen(PEERS[2], ("/ip4/10.0.0.3/tcp/4001",), at_ms=1)
        async with party(hub, 2, tmp_path):
            assert await one.peering().ping(PEERS[2]) >= 0, "at the address of its announcement"
        assert kept == [PEERS[1]] * 3, "who was connected to by hand, and not who was but pinged"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/ip4/10.0.0.2/tcp/4001", "does not say which peer"),
        ("/ip4/10.0.0.2/udp/4001", "no TCP address"),
        ("somebody", "is no base58 digit|no peer id"),
        (f"/ip4/10.0.0.1/tcp/4001/p2p/{PEERS[0]}", "this node itself"),
        (PEERS[9], "no address of"),
    ],
)
async def test_what_cannot_be_connected_to(
    tmp_path: Path, autojump_clock: MockClock, target: str, message: str
) -> None:
    async with party(MemoryHub(), 0, tmp_path) as one:
        with pytest.raises(CocoonError, match=message) as caught:
            await one.peering().connect(target)
        assert caught.value.hint


async def test_bans_hold_until_they_end_or_are_lifted(tmp_path: Path, autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    async with party(hub, 0, tmp_path) as one, party(hub, 1, tmp_path) as two:
        peering = one.peering()
        entry = f"{two.network.addresses()[0]}/p2p/{PEERS[1]}"
        await peering.connect(entry)
        until_ms = peering.ban(PEERS[1], 60)
        assert until_ms == int(one.clock.unix() * 1000) + 60_000
        assert one.connected() == set()
        with pytest.raises(TransportError, match="is banned here") as caught:
            await peering.connect(entry)
        assert "unban" in str(caught.value.hint)
        with pytest.raises(TransportError):
            await two.network.connect(PEERS[0], one.network.addresses())
        assert peering.unban(PEERS[1])
        assert not peering.unban(PEERS[1])
        await peering.connect(entry)
        peering.ban(PEERS[1], 60)
        await trio.sleep(61)
        await peering.connect(entry)


@pytest.mark.parametrize("duration_s", [0, -1, BAN_MAX_S + 1, float("nan")])
async def test_how_long_a_ban_may_last(tmp_path: Path, autojump_clock: MockClock, duration_s: float) -> None:
    async with party(MemoryHub(), 0, tmp_path) as one:
        with pytest.raises(ConfigError, match="a ban lasts"):
            one.peering().ban(PEERS[1], duration_s)
        with pytest.raises(ConfigError, match="this node itself"):
            one.peering().ban(PEERS[0], 1)
