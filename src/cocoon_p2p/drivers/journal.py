"""Keeps the journal of the market: what was heard, and prices once a minute; and begins a run with what the last one knew."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.drivers.market import MarketDriver
from cocoon_p2p.errors import StoreError
from cocoon_p2p.policy.order_book import order_book
from cocoon_p2p.proto.market_book import BookOffer, Heard
from cocoon_p2p.proto.market_facts import offer_facts
from cocoon_p2p.store.market_journal import MarketJournal, MarketSample

log = logging.getLogger(__name__)


class JournalKeeper:
    """`run` it in a task, and `close` it at the end. A disk that is full costs the history, and nothing else.

    A batch is written on trio's thread: 256 announcements take 2 ms (measured), once in minutes at the rate of gossip."""

    def __init__(self, journal: MarketJournal, market: MarketDriver, clock: Clock) -> None:
        self._journal = journal
        self._market = market
        self._clock = clock
        self._failing = False

    async def run(self) -> None:
        """Runs until cancelled."""
        await trio.lowlevel.checkpoint()  # where the node's start failed, the journal is closed before this task begins
        await self._restore()
        self._market.taken = self._note
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flush_now_and_then)
            nursery.start_soon(self._sample_now_and_then)

    def close(self) -> None:
        self._market.taken = lambda heard: None
        self._attempt_to(self._journal.close)

    async def _restore(self) -> None:
        remembered: list[bytes] = []
        self._attempt_to(lambda: remembered.extend(self._journal.latest()))
        await self._market.restore(remembered)

    def _note(self, heard: Heard) -> None:
        raw, peer = heard.signed.encode(), heard.announcement.peer_id
        self._attempt_to(lambda: self._journal.append(round(heard.heard_at * 1000), raw, peer=peer))

    async def _flush_now_and_then(self) -> None:
        while True:
            await trio.sleep(limits.JOURNAL_FLUSH_S)
            self._attempt_to(self._journal.flush)

    async def _sample_now_and_then(self) -> None:
        while True:
            await trio.sleep(limits.JOURNAL_SAMPLE_S)
            self._attempt_to(self.sample)

    def sample(self) -> None:
        """Note the prices of now, and forget what is too old. Raises StoreError."""
        now_ms = unix_ms(self._clock)
        self._journal.add_samples(samples_of(self._market.offers(), now_ms))
        self._journal.trim(now_ms)

    def _attempt_to(self, write: Callable[[], object]) -> None:
        try:
            write()
        except StoreError as error:
            if not self._failing:
                log.warning("the history of the market is not kept: %s", error)
            self._failing = True
        else:
            self._failing = False


def samples_of(offers: list[BookOffer], now_ms: int) -> list[MarketSample]:
    """One sample for each model and tier, by its most frequent unit; at most limits.JOURNAL_SAMPLES_MAX."""
    found: dict[tuple[str, int], MarketSample] = {}
    for line in order_book(offer_facts(offers, now_ms=now_ms)):
        sample = MarketSample(
            at_ms=now_ms,
            model_id=line.model_id,
            name=line.name,
            tier=line.tier,
            providers=line.providers,
            slots_free=line.slots_free,
            slots_total=line.slots_total,
            best=line.best,
            median=line.median,
        )
        known = found.get((line.model_id, line.tier))
        if known is None or known.providers < sample.providers:
            found[line.model_id, line.tier] = sample
    most_offered = sorted(found.values(), key=lambda each: (-each.providers, each.model_id, each.tier))
    return most_offered[: limits.JOURNAL_SAMPLES_MAX]
