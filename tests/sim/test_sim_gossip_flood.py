"""Floods and half-truths on the topic, in books and in the DHT, in whole networks and virtual time."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from test_sim_book import STRANGER, announcement, penalty, stranger
from test_sim_jobs import autojump_clock
from trio.testing import MockClock

from cocoon_p2p import limits
from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import ModelId
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.testing.simulation import Simulation, VirtualClock
from cocoon_p2p.wire.capacity import CAPACITY_PROTOCOL, CAPACITY_TOPIC, BookEntry, GetManifest, HeardBy

__all__ = ["autojump_clock"]


def names(count: int, first: int = 1000) -> list[IdentityKey]:
    return [IdentityKey.from_seed(number.to_bytes(32)) for number in range(first, first + count)]


async def test_a_crowd_of_names_silences_nobody_for_longer_than_minutes(
    autojump_clock: MockClock, tmp_path: Path, echo_model: Path
) -> None:
    """Forty names that say twice a minute what an honest provider would, and answer nobody."""
    async with Simulation(tmp_path) as sim, AsyncExitStack() as stack:
        bootstrap = await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model)
        await trio.sleep(10)
        pace = provider.node._parts.market._announcer.pace
        crowd = [await stack.enter_async_context(stranger(sim, bootstrap, each)) for each in names(40)]
        silent_since, longest = trio.current_time(), 0.0
        for turn in range(12):
            for key, network in zip(names(40), crowd, strict=True):
                await network.publish(CAPACITY_TOPIC, announcement(key))
                await trio.sleep(30 / 40)
            speaks = pace.chance(VirtualClock().unix(), changed=False) > 0.9
            silent_since = trio.current_time() if speaks else silent_since
            longest = max(longest, trio.current_time() - silent_since)
            assert turn < 11 or speaks
        assert 30 <= longest <= 300, "it is silenced at first, and not for long"
        assert penalty(provider, names(1)[0].peer_id) == 0, "nobody is to blame"


async def test_more_than_can_be_read_is_dropped_without_blame(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with Simulation(tmp_path) as sim, AsyncExitStack() as stack:
        bootstrap = await sim.start("bootstrap")
        for key in names(120):
            network = await stack.enter_async_context(stranger(sim, bootstrap, key))
            await network.publish(CAPACITY_TOPIC, announcement(key))
        await trio.sleep(1)
        market = bootstrap.node._parts.market
        most = limits.GOSSIP_STRANGERS_SHARE * limits.GOSSIP_TOPIC_BURST
        assert most <= len(market.offers("echo")) < 120
        assert all(penalty(bootstrap, key.peer_id) == 0 for key in names(120))


async def test_a_neighbour_that_exaggerates_keeps_no_newcomer_silent(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forged ones, and the same author again and again: of all that it tells, one counts."""
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        newcomer = await sim.start("newcomer")
        market = newcomer.node._parts.market
        same = [BookEntry(announcement(STRANGER, sequence=7), HeardBy.GOSSIP, 5)] * 40
        forged = BookEntry(announcement(STRANGER, of=names(1)[0]), HeardBy.GOSSIP, 5)
        for told, counted in (((forged, *same), 0), ((*same, forged), 1)):

            async def tell(*_: object, told: tuple[BookEntry, ...] = told, **__: object) -> tuple[BookEntry, ...]:
                await trio.lowlevel.checkpoint()
                return told

            monkeypatch.setattr(market._asker, "book", tell)
            await market._listen_back()
            assert round(market.gossiped_a_minute()) == counted


async def test_addresses_of_a_record_are_used_for_an_hour(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        parts = (await sim.start("client")).node._parts
        now_ms = int(VirtualClock().unix() * 1000)
        for age_s, used in ((0, True), (3500, True), (3700, False), (-3600, False)):
            issued = now_ms - age_s * 1000
            raw = announcement(STRANGER, addresses=("/memory/9",), issued_at_ms=issued, expires_at_ms=issued + 60_000)

            async def get(key: str, raw: bytes = raw) -> bytes:
                await trio.lowlevel.checkpoint()
                return raw

            monkeypatch.setattr(parts.network, "dht_get", get)
            found = await parts.market._discovery._addresses_in_dht(STRANGER.peer_id)
            assert found == (("/memory/9",) if used else ())


async def test_whoever_asks_for_manifests_without_end_is_cut(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with Simulation(tmp_path) as sim:
        bootstrap = await sim.start("bootstrap")
        async with stranger(sim, bootstrap) as network:
            stream = await network.open_stream(bootstrap.node.peer_id, CAPACITY_PROTOCOL)
            answered = 0
            with pytest.raises(TransportError):
                for _ in range(2 * limits.MANIFEST_QUESTIONS_PER_PEER_BURST):
                    await stream.send(GetManifest(ModelId("ab" * 32)).encode())
                    await stream.receive()
                    answered += 1
        assert answered >= limits.MODELS_PER_ANNOUNCEMENT_MAX
        assert penalty(bootstrap, STRANGER.peer_id) > 0
