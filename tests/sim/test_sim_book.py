"""The book of offers in whole networks: found quickly, kept fresh, without ghosts, whoever dies or lies."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio
from trio.testing import MockClock

from cocoon_p2p import limits
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import TransportError
from cocoon_p2p.execution.arrays import to_payload
from cocoon_p2p.ids import ModelId, PeerId, Tier
from cocoon_p2p.net.memory import MemoryHub, MemoryNetwork
from cocoon_p2p.net.port import Stream
from cocoon_p2p.node import RunRequest
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.store.market_journal import open_market_journal
from cocoon_p2p.testing.simulation import RunningNode, Simulation, VirtualClock
from cocoon_p2p.wire.capacity import (
    CAPACITY_DOMAIN,
    CAPACITY_PROTOCOL,
    CAPACITY_TOPIC,
    Announcement,
    Book,
    BookEntry,
    DeviceClass,
    GetBook,
    HeardBy,
    NoCapacity,
    Offer,
    SignedAnnouncement,
    TierPrice,
    Unit,
    decode_message,
)

X = to_payload({"x": np.ones((1, 4), np.float32)})
STRANGER = IdentityKey.from_seed(b"a" * 32)
OTHER = IdentityKey.from_seed(b"b" * 32)


def announcement(
    signer: IdentityKey, model_id: str = "ab" * 32, *, of: IdentityKey | None = None, **changes: object
) -> bytes:
    now_ms = int(VirtualClock().unix() * 1000)
    price = TierPrice(Tier.SEALED, 1, 0)
    offer = Offer(
        ModelId(model_id), "echo", Unit.ITEM, (price,), 10, 10_000, 4, 4, 0, "cpu", DeviceClass.CPU, 0, 0
    )  # fmt: skip
    peer = (of or signer).peer_id
    body = Announcement(peer, now_ms, now_ms, now_ms + 60_000, (), "", (0,), "", (offer,))
    raw = dataclasses.replace(body, **changes).encode()  # type: ignore[arg-type]
    return SignedAnnouncement(raw, signer.sign(CAPACITY_DOMAIN, raw)).encode()


def in_book(running: RunningNode) -> set[PeerId]:
    return {offer.peer for offer in running.node._parts.market.offers("echo")}


def penalty(running: RunningNode, peer: PeerId) -> float:
    return running.node._parts.standing.of(peer).penalty


@asynccontextmanager
async def stranger(sim: Simulation, to: RunningNode, own: IdentityKey = STRANGER) -> AsyncIterator[MemoryNetwork]:
    """Bare hands on the network, connected to one node."""
    async with sim.hub.open(own.peer_id) as network:
        await network.connect(to.node.peer_id, to.node._parts.network.addresses())
        yield network


# --- finding -----------------------------------------------------------------------------------------------------------


async def test_a_cold_client_has_its_first_offer_within_three_round_trips(
    autojump_clock: MockClock, tmp_path: Path, echo_model: Path
) -> None:
    """Its only neighbour has heard of the provider: no DHT is waited for, in which a lookup alone takes that long."""
    async with Simulation(tmp_path, latency_s=0.1) as sim:
        await sim.start("bootstrap")
        await sim.start("provider", model=echo_model)
        await trio.sleep(1)
        client = await sim.start("client")
        started = trio.current_time()
        (offer,) = await client.node._parts.market.find("echo")
        assert offer.peer == sim.nodes["provider"].node.peer_id
        assert trio.current_time() - started <= 3 * 0.2
        heard = client.node._parts.market._book.heard(offer.peer)
        assert heard is not None
        assert heard.heard_by is HeardBy.BOOK


async def test_in_a_network_whose_neighbours_know_nothing_the_dht_does(
    autojump_clock: MockClock, tmp_path: Path, echo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object, **__: object) -> tuple[BookEntry, ...]:
        await trio.lowlevel.checkpoint()
        return ()

    async with Simulation(tmp_path, latency_s=0.1) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model)
        await trio.sleep(5)
        client = await sim.start("client")
        monkeypatch.setattr(client.node._parts.market._asker, "book", nothing)
        assert [offer.peer for offer in await client.node._parts.market.find("echo")] == [provider.node.peer_id]


async def test_a_provider_that_does_not_answer_does_not_hold_up_the_manifest(
    autojump_clock: MockClock, tmp_path: Path, echo_model: Path
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        for name in ("one", "two", "three"):
            await sim.start(name, model=echo_model)
        client = await sim.start("client")
        await trio.sleep(limits.ANNOUNCEMENT_INTERVAL_S)
        assert len(in_book(client)) == 3
        for name in ("one", "two"):
            sim.hub.freeze(sim.nodes[name].node.peer_id)
        started = trio.current_time()
        resolved = await client.node._parts.buyer._resolver.resolve("echo")
        assert resolved.model_id in sim.nodes["three"].engine.manifests
        assert trio.current_time() - started < 1


async def test_when_all_that_are_known_are_dead_the_manifest_comes_from_others(
    autojump_clock: MockClock, tmp_path: Path, echo_model: Path
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        for name in ("one", "two", "three"):
            await sim.start(name, model=echo_model)
        client = await sim.start("client")
        await trio.sleep(limits.ANNOUNCEMENT_INTERVAL_S)
        assert len(in_book(client)) == 3
        for name in ("one", "two", "three"):
            await sim.kill(name)
        four = await sim.start("four", model=echo_model)
        client.node._parts.market._book.forget(four.node.peer_id)
        resolved = await client.node._parts.buyer._resolver.resolve("echo")
        assert [offer.peer for offer in resolved.offers] == [four.node.peer_id]


async def test_those_who_look_for_the_same_share_the_providers(
    autojump_clock: MockClock, tmp_path: Path, echo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty providers in the DHT, and no gossip and no books: different clients hear of different ones."""
    monkeypatch.setattr(limits, "BOOKS_ASKED_AT_ONCE", 0)
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        for number in range(40):
            await sim.start(f"provider-{number}", model=echo_model)
        await trio.sleep(5)
        found = []
        for number in range(4):
            client = await sim.start(f"client-{number}")
            found.append({offer.peer for offer in await client.node._parts.market.find("echo")})
        assert all(0 < len(each) <= limits.PROVIDERS_ASKED_AT_ONCE for each in found)
        assert len(set.union(*found)) > 2 * limits.PROVIDERS_ASKED_AT_ONCE


async def test_a_model_in_use_is_kept_fresh_without_gossip(
    autojump_clock: MockClock, tmp_path: Path, echo_model: Path
) -> None:
    """As in a network so large that gossip is rare: the client asks those it knows, and hears of those it does not."""
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        for number in range(5):
            provider = await sim.start(f"provider-{number}", model=echo_model)
            pace = provider.node._parts.market._announcer.pace
            pace.chance = lambda now, changed: 0.0  # type: ignore[method-assign,assignment,misc]
        client = await sim.start("client")
        await client.node._parts.market.find("echo")
        await trio.sleep(3 * limits.MARKET_FRESH_TICK_S)
        smallest = 5
        for _ in range(50):
            await trio.sleep(5)
            smallest = min(smallest, len(in_book(client)))
        assert smallest == 5
        await trio.sleep(limits.MARKET_USED_S)
        assert in_book(client) == set(), "nobody has used it for long: it is not asked for any more"
        assert len(await client.node._parts.market.find("echo")) >= 1


async def test_a_provider_that_fills_up_says_so_at_once(
    autojump_clock: MockClock, tmp_path: Path, echo_model: Path
) -> None:
    config = NodeConfig()
    config = dataclasses.replace(config, provider=dataclasses.replace(config.provider, slots=1))
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        await sim.start("provider", model=echo_model, execute_s=10.0, config=config)
        client = await sim.start("client")
        watcher = await sim.start("watcher")
        await trio.sleep(limits.ANNOUNCEMENT_INTERVAL_S)

        def free() -> list[int]:
            return [offer.offer.slots_free for offer in watcher.node._parts.market.offers("echo")]

        assert free() == [1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.node.run_payload, RunRequest("echo", timeout_s=60), X)
            await trio.sleep(2)
            assert free() == [0]
        await trio.sleep(2)
        assert free() == [1]


# --- gossip within its budget ------------------------------------------------------------------------------------------


async def test_an_author_that_floods_is_not_passed_on_and_loses_standing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with Simulation(tmp_path) as sim:
        bootstrap = await sim.start("bootstrap")
        now_ms = int(VirtualClock().unix() * 1000)
        async with stranger(sim, bootstrap) as network:
            for number in range(12):
                await network.publish(CAPACITY_TOPIC, announcement(STRANGER, sequence=now_ms + number))
                await trio.sleep(0.01)
            await trio.sleep(1)
        heard = bootstrap.node._parts.market._book.heard(STRANGER.peer_id)
        assert heard is not None
        assert heard.announcement.sequence == now_ms + limits.ANNOUNCEMENTS_PER_AUTHOR_BURST - 1
        assert penalty(bootstrap, STRANGER.peer_id) > 0


async def test_two_announcements_under_one_number_are_their_authors_fault(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with Simulation(tmp_path) as sim:
        bootstrap = await sim.start("bootstrap")
        async with stranger(sim, bootstrap) as network:
            await network.publish(CAPACITY_TOPIC, announcement(STRANGER, sequence=7, region="de"))
            await trio.sleep(1)
            assert penalty(bootstrap, STRANGER.peer_id) == 0
            await network.publish(CAPACITY_TOPIC, announcement(STRANGER, sequence=7, region="us"))
            await trio.sleep(1)
            assert penalty(bootstrap, STRANGER.peer_id) > 0
            heard = bootstrap.node._parts.market._book.heard(STRANGER.peer_id)
            assert heard is not None
            assert heard.announcement.region == "de"


# --- books of others ---------------------------------------------------------------------------------------------------


async def test_a_node_passes_on_what_it_heard(autojump_clock: MockClock, tmp_path: Path, echo_model: Path) -> None:
    async with Simulation(tmp_path) as sim:
        bootstrap = await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model)
        await trio.sleep(10)
        model_id = next(iter(provider.engine.manifests))
        (entry,) = await provider.node._parts.market.heard_of(bootstrap.node.peer_id)
        assert entry.heard_by is HeardBy.GOSSIP
        assert 9_000 <= entry.heard_ago_ms <= 11_000
        async with stranger(sim, bootstrap) as network:
            stream = await network.open_stream(bootstrap.node.peer_id, CAPACITY_PROTOCOL)
            for question, count in (
                (GetBook(model_id, None, 5), 1),
                (GetBook(None, None, 5), 1),
                (GetBook(None, provider.node.peer_id, 1), 1),
                (GetBook(ModelId("cd" * 32), None, 5), 0),
                (GetBook(None, STRANGER.peer_id, 1), 0),
            ):
                await stream.send(question.encode())
                answer = decode_message(await stream.receive())
                assert isinstance(answer, Book)
                assert len(answer.entries) == count
            await stream.aclose()
            await sim.kill("provider")
            await trio.sleep(60)
            stream = await network.open_stream(bootstrap.node.peer_id, CAPACITY_PROTOCOL)
            await stream.send(GetBook(None, None, 5).encode())
            assert decode_message(await stream.receive()) == Book(()), "never an expired one"


async def test_whoever_asks_for_the_book_too_often_is_cut(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with Simulation(tmp_path) as sim:
        bootstrap = await sim.start("bootstrap")
        async with stranger(sim, bootstrap) as network:
            stream = await network.open_stream(bootstrap.node.peer_id, CAPACITY_PROTOCOL)
            with pytest.raises(TransportError):
                for _ in range(limits.BOOK_QUESTIONS_PER_PEER_BURST + 2):
                    await stream.send(GetBook(None, None, 1).encode())
                    await stream.receive()
        assert penalty(bootstrap, STRANGER.peer_id) > 0


LIES = {
    "forged": lambda: announcement(OTHER, of=STRANGER),
    "garbage": lambda: b"\xc1garbage",
    "lives too long": lambda: announcement(OTHER, expires_at_ms=int(VirtualClock().unix() * 1000) + 3_600_000),
}


@pytest.mark.parametrize("kind", [*LIES, "expired"])
async def test_a_lying_neighbours_book(autojump_clock: MockClock, tmp_path: Path, echo_model: Path, kind: str) -> None:
    """Forgeries cost the teller; what is merely late does not. The honest neighbours' books are read all the same."""
    old_ms = int(VirtualClock().unix() * 1000) - 100_000

    async def lie(stream: Stream) -> None:
        try:
            while True:
                asks = isinstance(decode_message(await stream.receive()), GetBook)
                late = announcement(OTHER, issued_at_ms=old_ms, expires_at_ms=old_ms + 60_000)
                raw = LIES[kind]() if kind in LIES else late
                answer = Book((BookEntry(raw, HeardBy.GOSSIP, 5),)) if asks else NoCapacity()
                await stream.send(answer.encode())
        except TransportError:
            await stream.reset()

    async with Simulation(tmp_path) as sim:
        bootstrap = await sim.start("bootstrap")
        await sim.start("provider", model=echo_model)
        async with stranger(sim, bootstrap) as network:
            network.set_handler(CAPACITY_PROTOCOL, lie)
            client = await sim.start("client")
            client.node._parts.market._book.forget(sim.nodes["provider"].node.peer_id)
            await client.node._parts.network.connect(STRANGER.peer_id, network.addresses())
            offers = await client.node._parts.market.find("echo")
            await trio.sleep(1)
            assert [offer.peer for offer in offers] == [sim.nodes["provider"].node.peer_id]
            assert OTHER.peer_id not in in_book(client)
            assert (penalty(client, STRANGER.peer_id) > 0) == (kind != "expired")


# --- after a restart ---------------------------------------------------------------------------------------------------


async def test_a_restart_begins_with_what_the_last_run_knew(
    autojump_clock: MockClock, tmp_path: Path, echo_model: Path
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model)
        client = await sim.start("client", keep_journal=True)
        await trio.sleep(70)
        assert in_book(client) == {provider.node.peer_id}
        await sim.kill("client")
        sim.hub.partition([provider.node.peer_id])  # nobody can say anything new of it meanwhile
        client = await sim.start("client", keep_journal=True)
        await trio.sleep(0.1)
        assert in_book(client) == {provider.node.peer_id}, "its announcement has not expired"
        await sim.kill("client")
        await trio.sleep(120)
        client = await sim.start("client", keep_journal=True)
        await trio.sleep(0.1)
        market = client.node._parts.market
        assert in_book(client) == set()
        assert [each.peer_id for each in market._book.past_providers("echo")] == [provider.node.peer_id]
        sim.hub.heal()
        assert [offer.peer for offer in await market.find("echo")] == [provider.node.peer_id]


async def test_prices_are_noted_once_a_minute(autojump_clock: MockClock, tmp_path: Path, echo_model: Path) -> None:
    async with Simulation(tmp_path) as sim:
        client = await sim.start("bootstrap", keep_journal=True)
        provider = await sim.start("provider", model=echo_model)
        await trio.sleep(5 * limits.JOURNAL_SAMPLE_S)
        model_id = next(iter(provider.engine.manifests))
        with open_market_journal(client.home / "market.db", read_only=True) as journal:
            samples = journal.samples(model_id, Tier.SEALED, 0)
            heard = list(journal.announcements(0, 2**62))
        assert len(samples) in (4, 5)
        assert {(each.name, each.providers, each.slots_free, each.best, each.median) for each in samples} == {
            ("echo", 1, 32, 1010, 1010)
        }
        assert 10 <= len(heard) <= 13, "one every 27 to 30 s, written every 5 s"


async def test_a_node_without_history_keeps_none(autojump_clock: MockClock, tmp_path: Path) -> None:
    config = NodeConfig()
    config = dataclasses.replace(config, market=dataclasses.replace(config.market, history_hours=0))
    async with Simulation(tmp_path) as sim:
        node = await sim.start("quiet", config=config, keep_journal=True)
        assert not (node.home / "market.db").exists()
        damaged = tmp_path / "damaged"
        await sim.start("damaged", keep_journal=True)
        assert (damaged / "market.db").exists()
        await sim.nodes["damaged"].leave()
        (damaged / "market.db").write_bytes(bytes(range(256)) * 64)
        node = await sim.start("damaged", keep_journal=True)
        assert node.node.status(), "history stops no node"


def public_address(hub: MemoryHub) -> str:
    """Each node in a subnet of its own."""
    hub._next_port += 1
    return f"/ip4/8.8.{hub._next_port}.1/tcp/4001"


# --- a whole network ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
async def test_when_every_bootstrap_node_and_a_third_of_the_peers_die(
    autojump_clock: MockClock, tmp_path: Path, echo_model: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the internet: whoever has lost all connections dials no address of a LAN that a stranger told."""
    rng = random.Random(seed)
    monkeypatch.setattr(MemoryHub, "_new_address", public_address)
    async with Simulation(tmp_path, seed=seed, latency_s=0.02, loss=0.05) as sim:
        await sim.start("bootstrap")
        names = [f"node-{number}" for number in range(40)]
        for number, name in enumerate(names):
            await sim.start(name, model=echo_model if number % 2 else None)
        clients = [sim.nodes[name] for name in names[::2]]
        await trio.sleep(40)
        for name in rng.sample(names[1::2], 3):  # churn: some come and go
            await sim.kill(name)
            await sim.start(name, model=echo_model)
        await trio.sleep(10)
        await clients[0].node.run_payload(RunRequest("echo"), X)

        dead = {"bootstrap", *rng.sample(names, 12)}
        gone = {sim.nodes[name].node.peer_id for name in dead}
        for name in dead:
            await sim.kill(name)
        living = [running for running in clients if running.name not in dead]
        done = 0
        async with trio.open_nursery() as nursery:

            async def job(running: RunningNode) -> None:
                nonlocal done
                await running.node.run_payload(RunRequest("echo", timeout_s=60), X)
                done += 1

            for running in living:
                nursery.start_soon(job, running)
        assert done == len(living)
        await trio.sleep(60)
        for running in living:
            assert not in_book(running) & gone, "a ghost"
            assert len(in_book(running)) >= 5
