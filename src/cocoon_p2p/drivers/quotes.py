"""Asking several providers at the same time what a job costs, and others besides when those say nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.job_client import Attempt, JobClient
from cocoon_p2p.errors import CocoonError, PeerRefused, RemoteProtocolError, TransportError
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.proto.job_client import JobTerms

AtMost = Mapping[PeerId, int | None]
"""Limits, nanogram, that providers are told; None for none."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What all questions of an order have in common."""

    job_id: JobId
    deadline: float


@dataclass(slots=True)
class Asked:
    """What was said."""

    quotes: list[Attempt] = field(default_factory=list)
    refusals: list[tuple[PeerId, CocoonError]] = field(default_factory=list)
    silent: set[PeerId] = field(default_factory=set)
    """Who said nothing in time."""
    kept_waiting: set[PeerId] = field(default_factory=set)
    """Of the silent, those that were waited for in vain for limits.QUOTE_SILENT_S and more."""

    @property
    def errors(self) -> list[CocoonError]:
        return [error for _, error in self.refusals]


class Asker:
    """Of one round of questions."""

    def __init__(self, jobs: JobClient, addresses: Mapping[PeerId, tuple[str, ...]], order: Terms) -> None:
        self._jobs = jobs
        self._addresses = addresses
        self._order = order

    async def ask(
        self,
        peers: Sequence[PeerId],
        terms: JobTerms,
        *,
        enough: int,
        at_most: AtMost | None = None,
        within_s: float = limits.QUOTE_TIMEOUT_S,
        more: Callable[[], AtMost] | None = None,
    ) -> Asked:
        """Ask all at the same time; once `enough` have quoted, the others get a moment more. While nobody has quoted, those
        that `more` names are asked besides, every limits.QUOTE_LATE_S, until it names nobody. Each has `within_s` to answer. `at_most` holds the limits of those
        that are told another one than `terms` has."""
        round_ = _Round(self, terms, enough, within_s)
        ended = False
        try:
            await round_.run(peers, at_most or {}, more)
            ended = True
        finally:
            for quote in round_.asked.quotes if not ended else ():  # whoever asked is cancelled, and nobody takes them
                await quote.cancel()
        return round_.asked

    async def one(self, peer: PeerId, terms: JobTerms) -> Attempt:
        """Raises PeerRefused, TransportError, RemoteProtocolError."""
        addresses, order = self._addresses[peer], self._order
        return await self._jobs.ask(peer, addresses, order.job_id, terms, deadline=order.deadline)


class _Round:
    def __init__(self, asker: Asker, terms: JobTerms, enough: int, within_s: float) -> None:
        self.asked = Asked()
        self._asker = asker
        self._terms = terms
        self._enough = enough
        self._within_s = within_s
        self._began: dict[PeerId, float] = {}
        self._open = 0
        self._answered = trio.Event()
        self._nursery: trio.Nursery

    async def run(self, peers: Sequence[PeerId], at_most: AtMost, more: Callable[[], AtMost] | None) -> None:
        async with trio.open_nursery() as self._nursery:
            self._begin(peers, at_most)
            if more is not None:
                await self._go_on(more)
        since = trio.current_time() - limits.QUOTE_SILENT_S
        self.asked.kept_waiting = {peer for peer in self.asked.silent if self._began[peer] <= since}

    def _begin(self, peers: Sequence[PeerId], at_most: AtMost) -> None:
        self.asked.silent.update(peers)
        self._open += len(peers)
        for peer in peers:
            self._began[peer] = trio.current_time()
            own = self._terms if peer not in at_most else replace(self._terms, max_total=at_most[peer])
            self._nursery.start_soon(self._one, peer, own)

    async def _go_on(self, more: Callable[[], AtMost]) -> None:
        """Those that are late are waited for all the same."""
        while not self.asked.quotes and self._open:
            self._answered = trio.Event()
            with trio.move_on_after(limits.QUOTE_LATE_S) as late:
                await self._answered.wait()
            if late.cancelled_caught:
                others = more()
                if not others:
                    return
                self._begin(list(others), others)

    async def _one(self, peer: PeerId, terms: JobTerms) -> None:
        asked = self.asked
        with trio.move_on_after(self._within_s):
            try:
                quote = await self._asker.one(peer, terms)
            except (PeerRefused, TransportError, RemoteProtocolError) as error:
                asked.refusals.append((peer, error))
            else:
                asked.quotes.append(quote)
            asked.silent.discard(peer)
        self._open -= 1
        self._answered.set()
        if len(asked.quotes) >= self._enough:
            scope = self._nursery.cancel_scope
            scope.deadline = min(scope.deadline, trio.current_time() + limits.QUOTE_GRACE_S)
