"""Who is given an order: candidates from the offers, questions or announced prices, and the best of what was said.

The decision is `policy.selection`'s; what was considered is written down for `cocoon-node why`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from cocoon_p2p import limits
from cocoon_p2p.drivers.candidates import Candidates
from cocoon_p2p.drivers.clock import unix_ms
from cocoon_p2p.drivers.considerations import Consideration
from cocoon_p2p.drivers.job_client import Attempt, JobClient
from cocoon_p2p.drivers.market import MarketDriver
from cocoon_p2p.drivers.order import BuyerPorts, Order, worst
from cocoon_p2p.drivers.quotes import Asked, Asker, Terms
from cocoon_p2p.drivers.resolve import ResolvedModel
from cocoon_p2p.errors import CocoonError, TransportError
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.policy.selection import Candidate, Selection, Wanted, select
from cocoon_p2p.proto.job_client import AnnouncedPrice, JobTerms
from cocoon_p2p.proto.market import BookOffer
from cocoon_p2p.tensors import payload_bytes


@dataclass(slots=True)
class Progress:
    """What became of an order so far."""

    order: Order
    wish: JobId
    deadline: float
    started: float
    considered: Consideration
    discovered: float = 0.0
    rounds: int = 0
    """Providers that had the job and failed, and rounds of questions without a quote."""
    failures: list[dict[str, str]] = field(default_factory=list)
    excluded: set[PeerId] = field(default_factory=set)
    unreachable: set[PeerId] = field(default_factory=set)
    """Of the excluded, those that were not where they said."""
    racing: set[PeerId] = field(default_factory=set)
    """Who has the job now, or had it while another had it too."""
    no_backup: set[PeerId] = field(default_factory=set)
    """Of the excluded, those that refused to be a backup: they may have room when the job is in need."""
    counters: dict[PeerId, int] = field(default_factory=dict)
    """What providers want that refused the announced price."""
    looked_again: bool = False
    at_risk: int = 0
    last_error: CocoonError | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Who could do it, and who is asked."""

    wanted: Wanted
    candidates: dict[PeerId, Candidate]
    offers: dict[PeerId, BookOffer]
    selection: Selection

    def fitting(self) -> list[Candidate]:
        misfits = {misfit.candidate.peer_id for misfit in self.selection.excluded}
        return [candidate for candidate in self.candidates.values() if candidate.peer_id not in misfits]


class Chooser:
    """For all orders of a node."""

    def __init__(self, ports: BuyerPorts, market: MarketDriver, jobs: JobClient, candidates: Candidates) -> None:
        self._ports = ports
        self._market = market
        self._jobs = jobs
        self._candidates = candidates

    def choose(
        self,
        progress: Progress,
        model: ResolvedModel,
        items: int,
        *,
        count: int = limits.ASKED_AT_ONCE_MAX,
        at_least: int = 1,
    ) -> Choice:
        order = progress.order
        wanted = Wanted(
            tier=order.tier,
            items=items,
            input_bytes=payload_bytes(order.payload),
            max_total=order.max_total,
            provider=order.provider,
            networks=frozenset({self._ports.settlement.network_id}),
            min_reliability=order.min_reliability,
        )
        left_out = progress.excluded | progress.racing | order.excluded
        offers = [offer for offer in model.offers if offer.peer not in left_out]
        if order.provider is not None:
            offers = [offer for offer in offers if offer.peer == order.provider]
        offers = self._candidates.sample(offers)
        candidates = self._candidates.of(offers, model.model_id, items)
        for peer, needed in progress.counters.items():
            if peer in candidates:
                candidates[peer] = replace(candidates[peer], prices={order.tier: (needed, 0)})
        selection = select(
            wanted,
            list(candidates.values()),
            count=count,
            rng=self._ports.rng,
            prefer=order.prefer,
            at_least=at_least,
        )
        for excluded in selection.excluded:
            progress.considered.note_excluded(excluded)
        return Choice(wanted, candidates, {offer.peer: offer for offer in offers}, selection)

    def terms(self, progress: Progress, model: ResolvedModel, wanted: Wanted) -> JobTerms:
        return JobTerms(
            model_id=model.model_id,
            tier=wanted.tier,
            items=wanted.items,
            payload_bytes=wanted.input_bytes,
            max_total=wanted.max_total,
            timeout_s=progress.order.timeout_s,
            settlement_network=self._ports.settlement.network_id,
        )

    async def attempt(self, progress: Progress, model: ResolvedModel, choice: Choice) -> Attempt:
        """One that waits to be paid for: at the announced price of the first where that is possible, else the best of what
        was quoted. Raises what was said where nobody quoted."""
        order, chosen = progress.order, choice.selection.chosen
        terms = self.terms(progress, model, choice.wanted)
        best = self._firm(progress, chosen[0], choice, terms)
        if best is None:
            found = await self.asker(progress, choice).ask([c.peer_id for c in chosen], terms, enough=1)
            self.note_asked(progress, choice, found)
            if not found.quotes:
                raise worst(found.errors) if found.errors else _nobody_quoted()
            best, *others = self.best(order, choice, found.quotes)
            for other in others:
                await other.cancel()
        for candidate in choice.fitting():
            progress.considered.note_unasked(candidate, candidate.price(choice.wanted))
        return best

    def latest(self, model: ResolvedModel) -> ResolvedModel:
        """The same model with its offers as the book has them now: who has come since may do it, who said goodbye not."""
        return replace(model, offers=self._market.offers(model.model_id))

    def _firm(self, progress: Progress, candidate: Candidate, choice: Choice, terms: JobTerms) -> Attempt | None:
        """Its announced price taken as a quote; None where it has to be asked. After a first no we ask: announcements seem
        to be behind."""
        peer = candidate.peer_id
        if progress.rounds or progress.counters or not self._jobs.is_warm(peer, terms.tier):
            return None
        base, per_item = candidate.prices[terms.tier]
        announced = AnnouncedPrice(base, per_item, choice.offers[peer].expires_at_ms)
        try:
            attempt = self._jobs.prepare(peer, progress.wish, terms, announced, deadline=progress.deadline)
        except TransportError:
            return None
        progress.considered.note_quote(peer, candidate.price(choice.wanted), candidate.queue_ms, firm=True)
        return attempt

    def asker(self, progress: Progress, choice: Choice) -> Asker:
        addresses = {peer: offer.addresses for peer, offer in choice.offers.items()}
        return Asker(self._jobs, addresses, Terms(progress.wish, progress.deadline))

    def note_asked(self, progress: Progress, choice: Choice, found: Asked) -> None:
        now_ms = unix_ms(self._ports.clock)
        for quote in found.quotes:
            assert quote.job.quote is not None
            progress.considered.note_quote(
                quote.job.provider, quote.job.quote.max_total, quote.job.quote.queue_ms, firm=False
            )
        for peer, error in found.refusals:
            offered = frozenset(choice.candidates[peer].prices)
            progress.considered.note_error(peer, error, offered, now_ms)
            progress.excluded.add(peer)
            progress.failures.append({"provider": peer, "error": error.message, "code": error.code})
            if isinstance(error, TransportError):
                self._market.forget(peer)
                progress.unreachable.add(peer)
        if not found.quotes:  # who said nothing in time is not asked again
            progress.excluded.update(found.silent)

    def best(self, order: Order, choice: Choice, quotes: Iterable[Attempt]) -> list[Attempt]:
        """The best first, as they quoted, which counts more than what they announced; a newcomer on trial before all."""
        selection = choice.selection
        trial = selection.chosen[0].peer_id if selection.trial else None

        def rank(attempt: Attempt) -> tuple[bool, float]:
            quote, candidate = attempt.job.quote, choice.candidates[attempt.job.provider]
            assert quote is not None
            prices = {quote.tier: (quote.price_base, quote.price_per_item)}
            as_quoted = replace(candidate, prices=prices, queue_ms=quote.queue_ms)
            return attempt.job.provider != trial, order.prefer.score(choice.wanted, as_quoted)

        return sorted(quotes, key=rank)


def _nobody_quoted() -> TransportError:
    return TransportError("no provider quoted in time", outcome_known=True, code="TIMEOUT")
