"""Asking several providers at the same time what a job costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.job_client import Attempt, JobClient
from cocoon_p2p.errors import CocoonError, PeerRefused, RemoteProtocolError, TransportError
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.proto.job_client import JobTerms


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
        at_most: Mapping[PeerId, int | None] | None = None,
        within_s: float = limits.QUOTE_TIMEOUT_S,
    ) -> Asked:
        """Ask all at the same time; once `enough` have quoted, the others get a moment more. `at_most` holds the limits,
        nanogram, of those that are told another one than `terms` has."""
        asked = Asked(silent=set(peers))

        async def one(peer: PeerId) -> None:
            try:
                own = terms if not at_most or peer not in at_most else replace(terms, max_total=at_most[peer])
                quote = await self._jobs.ask(
                    peer, self._addresses[peer], self._order.job_id, own, deadline=self._order.deadline
                )
            except (PeerRefused, TransportError, RemoteProtocolError) as error:
                asked.refusals.append((peer, error))
            else:
                asked.quotes.append(quote)
            asked.silent.discard(peer)
            if len(asked.quotes) >= enough:
                grace = trio.current_time() + limits.QUOTE_GRACE_S
                nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, grace)

        ended = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.deadline = trio.current_time() + within_s
                for peer in peers:
                    nursery.start_soon(one, peer)
            ended = True
        finally:
            for quote in asked.quotes if not ended else ():  # whoever asked is cancelled, and nobody takes them
                await quote.cancel()
        return asked
