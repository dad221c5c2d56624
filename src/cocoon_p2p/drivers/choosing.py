"""Who is given an order: candidates from the offers, questions or announced prices, and the best of what was said.

The decision is `policy.selection`'s; what was considered is written down for `cocoon-node why`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
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
from cocoon_p2p.errors import CocoonError, PeerRefused, RefusalReason, TransportError
from cocoon_p2p.ids import JobId, ModelId, PeerId
from cocoon_p2p.policy.experience import Outcome
from cocoon_p2p.policy.retry import counter_offer
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
    """Providers that had the job and failed."""
    questions: int = 0
    """Rounds of questions without a quote, and quotes that were refused when the job came."""
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
    unpaid: set[PeerId] = field(default_factory=set)
    """Of the excluded, those that refused a payment: the next one goes over a new channel, when nobody else is left."""
    busy: dict[PeerId, float] = field(default_factory=dict)
    """Of the excluded, those that are full, and when (on the clock's `now`) they expect to have room."""
    waits: int = 0
    """How often we have waited for one of them."""
    looked_again: bool = False
    attempts_max: int = limits.JOB_ATTEMPTS_MAX
    at_risk: int = 0
    begun: ModelId | None = None
    """Of this model a part of the answer is here: no other one goes on with it, whatever its name stands for by now."""
    last_error: CocoonError | None = None

    def note_busy(self, peer: PeerId, error: CocoonError, now: float) -> None:
        """Where it is full: it may have room again before the job's time is over."""
        if isinstance(error, PeerRefused) and error.reason is RefusalReason.BUSY:
            self.busy[peer] = now + (error.needed or 0) / 1000


@dataclass(frozen=True, slots=True)
class Choice:
    """Who could do it, and who is asked."""

    wanted: Wanted
    candidates: dict[PeerId, Candidate]
    offers: dict[PeerId, BookOffer]
    selection: Selection
    model_id: ModelId

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
        return Choice(wanted, candidates, {offer.peer: offer for offer in offers}, selection, model.model_id)

    def terms(self, progress: Progress, model: ResolvedModel, wanted: Wanted) -> JobTerms:
        return JobTerms(
            model_id=model.model_id,
            tier=wanted.tier,
            items=wanted.items,
            payload_bytes=wanted.input_bytes,
            max_total=wanted.max_total,
            timeout_s=progress.order.timeout_s,
            settlement_network=self._ports.settlement.network_id,
            instalment=progress.order.instalment,
            prepaid=progress.order.prepaid,
        )

    async def attempt(self, progress: Progress, model: ResolvedModel, choice: Choice) -> Attempt:
        """One that waits to be paid for: at the announced price of the first where that is possible, else the best of what
        was quoted. Raises what was said where nobody quoted."""
        order, chosen = progress.order, choice.selection.chosen
        terms = self.terms(progress, model, choice.wanted)
        best = self._firm(progress, chosen[0], choice, terms)
        if best is None:
            asked = {c.peer_id: self._announced(choice, c, terms) for c in chosen}

            def more() -> dict[PeerId, int | None]:
                others = self._others(order, choice, asked)
                at_most = {c.peer_id: self._announced(choice, c, terms) for c in others}
                asked.update(at_most)
                return at_most

            found = await self.asker(progress, choice).ask(list(asked), terms, enough=1, at_most=dict(asked), more=more)
            self.note_asked(progress, choice, found)
            if not found.quotes:
                raise worst(found.errors) if found.errors else _nobody_quoted()
            quotes = found.quotes + await self._of_counters(progress, choice, found, terms)
            best, *others = self.best(order, choice, quotes)
            for other in others:
                await other.cancel()
        for candidate in choice.fitting():
            progress.considered.note_unasked(candidate, candidate.price(choice.wanted))
        return best

    def _others(self, order: Order, choice: Choice, asked: Collection[PeerId]) -> Sequence[Candidate]:
        """Whom to ask besides, when those that were asked are late."""
        left = [candidate for peer, candidate in choice.candidates.items() if peer not in asked]
        return select(
            choice.wanted, left, count=limits.ASKED_AT_ONCE_MAX, rng=self._ports.rng, prefer=order.prefer
        ).chosen

    def _announced(self, choice: Choice, candidate: Candidate, terms: JobTerms) -> int | None:
        """What it is asked for at most: its announced price is firm, and a low one must not bait for a higher quote. Who wants
        more by now says so, and competes at that price."""
        # SPEC job/1 §3.3
        if choice.offers[candidate.peer_id].expires_at_ms <= unix_ms(self._ports.clock):
            return terms.max_total
        price = min(max(candidate.price(choice.wanted), 1), limits.AMOUNT_NANOGRAM_MAX)  # on the wire 0 is no limit
        return price if terms.max_total is None else min(price, terms.max_total)

    async def _of_counters(self, progress: Progress, choice: Choice, found: Asked, terms: JobTerms) -> list[Attempt]:
        """Quotes of those that now want more than they announced, and are better than all who quoted nevertheless."""
        order = progress.order
        best = self.best(order, choice, found.quotes)[0]
        if choice.selection.trial and best.job.provider == choice.selection.chosen[0].peer_id:
            return []
        to_beat = order.prefer.score(choice.wanted, _as_quoted(choice, best))
        wants: dict[PeerId, int | None] = {}
        for peer, _ in found.refusals:
            if peer in progress.counters:
                candidate = replace(choice.candidates[peer], prices={order.tier: (progress.counters[peer], 0)})
                if order.prefer.score(choice.wanted, candidate) < to_beat:
                    wants[peer] = progress.counters[peer]
        if not wants:
            return []
        ended = False
        try:
            more = await self.asker(progress, choice).ask(
                list(wants), terms, enough=len(wants), at_most=wants, within_s=limits.COUNTER_ASKED_S
            )
            ended = True
        finally:
            for quote in found.quotes if not ended else ():  # whoever asked is cancelled, and nobody takes them
                await quote.cancel()
        self.note_asked(progress, choice, more)
        return more.quotes

    def latest(self, model: ResolvedModel) -> ResolvedModel:
        """The same model with its offers as the book has them now: who has come since may do it, who said goodbye not."""
        return replace(model, offers=self._market.offers(model.model_id))

    def _firm(self, progress: Progress, candidate: Candidate, choice: Choice, terms: JobTerms) -> Attempt | None:
        """Its announced price taken as a quote; None where it has to be asked. After a first no we ask: announcements seem
        to be behind."""
        peer = candidate.peer_id
        if progress.rounds or progress.questions or progress.counters or not self._jobs.is_warm(peer, terms.tier):
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
            wants = counter_offer(error, progress.order.max_total, progress.counters.get(peer))
            if wants is not None:
                progress.counters[peer] = wants  # asked again, at that price
            else:
                progress.excluded.add(peer)
                progress.note_busy(peer, error, self._ports.clock.now())
                if self._turned_away(progress, choice.candidates[peer], error):
                    self._ports.experience.note(peer, choice.model_id, Outcome.TURNED_AWAY)
            progress.failures.append({"provider": peer, "error": error.message, "code": error.code})
            if isinstance(error, TransportError):
                self._market.forget(peer)
                progress.unreachable.add(peer)
        if not found.quotes:  # who said nothing in time is not asked again
            progress.excluded.update(found.silent)
            return
        progress.excluded.update(found.kept_waiting)
        if not progress.considered.dry_run:
            for peer in found.kept_waiting:  # others answered, so it was not our line
                self._ports.experience.note(peer, choice.model_id, Outcome.TURNED_AWAY)

    def _turned_away(self, progress: Progress, candidate: Candidate, error: CocoonError) -> bool:
        """Whether it refused what it had announced, and what we did not take from it ourselves."""
        if not isinstance(error, PeerRefused) or progress.considered.dry_run:
            return False
        if error.reason is not RefusalReason.BUSY:
            return True
        ours = candidate.in_flight or self._candidates.has_ours(candidate.peer_id)
        return candidate.slots_free != 0 and not ours

    def best(self, order: Order, choice: Choice, quotes: Iterable[Attempt]) -> list[Attempt]:
        """The best first, as they quoted, which counts more than what they announced; a newcomer on trial before all."""
        selection = choice.selection
        trial = selection.chosen[0].peer_id if selection.trial else None

        def rank(attempt: Attempt) -> tuple[bool, float]:
            return attempt.job.provider != trial, order.prefer.score(choice.wanted, _as_quoted(choice, attempt))

        return sorted(quotes, key=rank)


def _as_quoted(choice: Choice, attempt: Attempt) -> Candidate:
    quote = attempt.job.quote
    assert quote is not None
    prices = {quote.tier: (quote.price_base, quote.price_per_item)}
    return replace(choice.candidates[attempt.job.provider], prices=prices, queue_ms=quote.queue_ms)


def _nobody_quoted() -> TransportError:
    return TransportError("no provider quoted in time", outcome_known=True, code="TIMEOUT")
