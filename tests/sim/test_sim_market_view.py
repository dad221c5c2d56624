"""What a node shows of the market: the book, why it is empty, when it changed, and that others can make the same book of
what it heard. Virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from test_sim_jobs import autojump_clock, run

from cocoon_p2p.cli.market_files import open_market_file, write_market_file
from cocoon_p2p.home import Home
from cocoon_p2p.ids import Tier
from cocoon_p2p.limits import ANNOUNCEMENT_LIFETIME_S, JOURNAL_FLUSH_S
from cocoon_p2p.proto.market_replay import MarketReplay
from cocoon_p2p.rows_market import market_rows
from cocoon_p2p.store.market_journal import open_market_journal
from cocoon_p2p.testing.simulation import EPOCH, Simulation
from cocoon_p2p.wire.market_file import FileEntry, FileHeader

__all__ = ["autojump_clock"]

Clock = trio.testing.MockClock


def announced(book: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the node's own experience, and without ages, which go on."""
    return [{key: value for key, value in row.items() if key not in ("fastest_ms", "age_ms")} for row in book]


async def test_the_book_has_what_the_node_knows(tmp_path: Path, echo_model: Path, autojump_clock: Clock) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model)
        client = await sim.start("client")
        before = await client.node.market("echo")
        (offer,) = before["offers"]
        assert (offer["peer_id"], offer["tries"], offer["reliability"]) == (provider.node.peer_id, 0, None)
        assert [(line["tier"], line["providers"], line["best_nanogram"]) for line in before["book"]] == [
            ("sealed", 1, 1010), ("open", 1, 1010),
        ]  # fmt: skip
        await run(client)
        (offer,) = (await client.node.market("echo", tier=Tier.SEALED))["offers"]
        assert (offer["tries"], offer["reliability"]) == (1, pytest.approx(2 / 3, abs=0.01))
        assert 10 / 3 <= offer["expected_ms"] <= 10, "one item of the three of our own job, which took 10 ms in all"
        assert (await client.node.market("echo", tier=Tier.ATTESTED))["empty"]["reason"] == "TIER"
        assert await client.node.offers("echo", tier=Tier.SEALED) == [offer]


async def test_why_there_is_nothing(tmp_path: Path, echo_model: Path, autojump_clock: Clock) -> None:
    async with Simulation(tmp_path) as sim:
        alone = await sim.start("bootstrap")
        assert (await alone.node.market())["empty"] == {
            "reason": "NOT_CONNECTED", "peers": 0, "others": [], "own": [],
        }  # fmt: skip
        client = await sim.start("client")
        assert (await client.node.market())["empty"]["reason"] == "NOBODY_SERVES"
        provider = await sim.start("provider", model=echo_model)
        assert (await provider.node.market())["empty"] == {
            "reason": "ONLY_SELF", "peers": 1, "others": [], "own": ["echo"],
        }  # fmt: skip
        assert (await client.node.market())["empty"] is None
        missed = (await client.node.market("ecko"))["empty"]
        assert (missed["reason"], missed["others"]) == ("MODEL", ["echo"])


async def test_it_tells_of_changes_at_once(tmp_path: Path, echo_model: Path, autojump_clock: Clock) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model)
        client = await sim.start("client")
        version = (await client.node.market())["version"]
        started = trio.current_time()
        unchanged = await client.node.market_after(version, 7)
        assert (unchanged["version"], trio.current_time() - started) == (version, pytest.approx(7, abs=0.1))
        assert (await client.node.market_after("another", 50))["version"] == version, "at once"
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                started = trio.current_time()
                changed = await client.node.market_after(version, 50)
                assert changed["offers"] == []
                assert trio.current_time() - started < 50

            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            await provider.leave()


async def test_others_make_the_same_book_of_what_was_heard(
    tmp_path: Path, echo_model: Path, autojump_clock: Clock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        for number in range(3):
            await sim.start(f"provider{number}", model=echo_model)
        client = await sim.start("client", keep_journal=True)
        assert len((await client.node.market("echo"))["offers"]) > 0
        await trio.sleep(ANNOUNCEMENT_LIFETIME_S)
        now_ms = int((EPOCH + trio.current_time()) * 1000)
        shown = await client.node.market()
        await trio.sleep(JOURNAL_FLUSH_S + 1)
        peer, home = client.node.peer_id, Home(client.home)
        with open_market_journal(home.market_file, read_only=True) as journal:
            heard = [FileEntry(at_ms, raw) for at_ms, raw in journal.announcements(0, now_ms)]
        write_market_file(tmp_path / "file", FileHeader(peer, now_ms - 1000, now_ms), heard)
        with open_market_file(tmp_path / "file") as (header, entries):
            replay = MarketReplay(header.peer_id, header.until_ms)
            for entry in entries:
                replay.hear(entry)
        assert replay.refused.total() == 0
        again = market_rows(replay.offers(), now_ms=now_ms)
        assert announced(again["book"]) == announced(shown["book"])
        assert [(row["peer_id"], row["prices"], row["age_ms"]) for row in again["offers"]] == [
            (row["peer_id"], row["prices"], row["age_ms"]) for row in shown["offers"]
        ]
