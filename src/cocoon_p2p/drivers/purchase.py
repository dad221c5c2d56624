"""One job from the wish to the output: find offers, ask for quotes, choose, pay, and, if that provider fails, try the next.

What is chosen and whether to try again is decided in `policy.selection` and `policy.retry`.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.drivers.job_client import Attempt, JobClient
from cocoon_p2p.drivers.market import MarketDriver
from cocoon_p2p.drivers.resolve import ResolvedModel, Resolver
from cocoon_p2p.errors import CocoonError, PeerRefused, RefusalReason, RemoteProtocolError, TransportError
from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.models.check import check_inputs
from cocoon_p2p.net.port import Network
from cocoon_p2p.policy.reputation import reliability
from cocoon_p2p.policy.retry import AttemptFacts, budget_left, may_retry
from cocoon_p2p.policy.selection import Candidate, Wanted, cheapest, score, select
from cocoon_p2p.proto.job_client import JobTerms
from cocoon_p2p.proto.market import BookOffer
from cocoon_p2p.settlement.port import Settlement
from cocoon_p2p.store import JobRecord, Store
from cocoon_p2p.tensors import Payload, decode_payload, encode_payload, payload_bytes
from cocoon_p2p.units import format_nanogram
from cocoon_p2p.wire.job import Receipt, ReceiptBody

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody wants done."""

    model: str
    """Model id or name."""
    payload: Payload
    tier: Tier
    max_total: int | None
    """nanogram for the whole job, failed attempts included; None for no limit."""
    provider: PeerId | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Purchase:
    """A finished job."""

    job_id: JobId
    model_id: ModelId
    provider: PeerId
    payload: Payload
    price: int
    receipt: Receipt | None
    """None when the connection broke between output and receipt; the provider sends it again later."""
    receipt_body: ReceiptBody | None
    timeline_ms: dict[str, float]
    attempts: list[dict[str, str]]
    """Earlier attempts that failed: provider and error."""


@dataclass(frozen=True, slots=True)
class BuyerPorts:
    network: Network
    settlement: Settlement
    store: Store
    clock: Clock
    rng: random.Random


@dataclass(slots=True)
class _Progress:
    """What became of an order so far."""

    order: Order
    deadline: float
    started: float
    discovered: float = 0.0
    failures: list[dict[str, str]] = field(default_factory=list)
    excluded: set[PeerId] = field(default_factory=set)
    unreachable: set[PeerId] = field(default_factory=set)
    """Of the excluded, those that were not where they said."""
    looked_again: bool = False
    at_risk: int = 0
    last_error: CocoonError | None = None


class Buyer:
    """Runs orders."""

    def __init__(self, ports: BuyerPorts, market: MarketDriver, jobs: JobClient, resolver: Resolver) -> None:
        self._ports = ports
        self._market = market
        self._jobs = jobs
        self._resolver = resolver

    async def buy(self, order: Order) -> Purchase:
        """Raises CocoonError: NO_MODEL, INPUT, PeerRefused (PRICE with the lowest offer), TIMEOUT, and what the last
        provider that was tried said."""
        started = self._ports.clock.now()
        progress = _Progress(order, deadline=started + order.timeout_s, started=started)
        # The machines' own deadline comes a second before this one, with its reason.
        with trio.move_on_after(order.timeout_s + 1.0) as scope:
            try:
                return await self._attempts(progress)
            except CocoonError as error:
                if progress.at_risk:
                    spent = (
                        f"{format_nanogram(progress.at_risk)} count as spent until the provider says otherwise, which it "
                        "does when this node next works with it: cocoon-node wallet"
                    )
                    error.hint = spent if error.hint is None else f"{error.hint}; {spent}"
                raise
        assert scope.cancelled_caught
        raise TransportError(
            f"no answer within {order.timeout_s:g} s", outcome_known=False, code="TIMEOUT", hint="allow more: --timeout"
        )

    async def _attempts(self, progress: _Progress) -> Purchase:
        """Quote and carry through, and once more elsewhere where `policy.retry` allows it."""
        order = progress.order
        model = await self._resolver.resolve(order.model)
        items = max(1, check_inputs(model.manifest, order.payload))
        if items > limits.ITEMS_PER_JOB_MAX:
            raise CocoonError(
                f"{items} items in one job; at most {limits.ITEMS_PER_JOB_MAX}",
                code="LIMITS",
                hint="split it into several jobs",
            )
        progress.discovered = self._ports.clock.now()
        while True:
            try:
                attempt = await self._quote(progress, model.model_id, model.offers, items)
            except TransportError:
                if progress.looked_again or not progress.unreachable:
                    raise
                model = await self._look_again(progress, order.model)
                continue
            try:
                return await self._carry_through(progress, attempt, model.name)
            except CocoonError as error:
                self._note_failure(progress, attempt, error)
                if not may_retry(self._facts(progress, error)):
                    raise

    async def _look_again(self, progress: _Progress, model: str) -> ResolvedModel:
        """Nobody that we knew of was where it said: perhaps they came back elsewhere."""
        progress.looked_again = True
        progress.excluded -= progress.unreachable
        progress.unreachable.clear()
        return await self._resolver.resolve(model)

    # --- quotes ---

    async def _quote(self, progress: _Progress, model_id: ModelId, offers: Sequence[BookOffer], items: int) -> Attempt:
        """The best quote of those asked; the others are told that they are not wanted."""
        order = progress.order
        left = None if progress.last_error is None else budget_left(self._facts(progress, progress.last_error))
        size = payload_bytes(order.payload)
        wanted = Wanted(
            tier=order.tier,
            items=items,
            input_bytes=size,
            max_total=order.max_total if left is None else left,
            provider=order.provider,
            networks=frozenset({self._ports.settlement.network_id}),
        )
        candidates = {o.peer: self._candidate(o) for o in offers if o.peer not in progress.excluded}
        selection = select(wanted, list(candidates.values()), count=limits.ASKED_AT_ONCE_MAX, rng=self._ports.rng)
        if not selection.chosen:
            raise progress.last_error or _nobody_fits(order, wanted, list(candidates.values()))
        terms = JobTerms(
            model_id=model_id,
            tier=order.tier,
            items=items,
            payload_bytes=size,
            max_total=wanted.max_total,
            timeout_s=order.timeout_s,
            settlement_network=self._ports.settlement.network_id,
        )
        addresses = {o.peer: o.addresses for o in offers}
        quotes, errors = await self._ask_all(progress, selection.chosen, addresses, terms)
        if not quotes:
            raise _worst(errors)
        quotes.sort(key=lambda attempt: score(wanted, _with_quote(candidates[attempt.job.provider], attempt)))
        for other in quotes[1:]:
            await other.cancel()
        return quotes[0]

    async def _ask_all(
        self,
        progress: _Progress,
        chosen: Sequence[Candidate],
        addresses: dict[PeerId, tuple[str, ...]],
        terms: JobTerms,
    ) -> tuple[list[Attempt], list[CocoonError]]:
        """Ask all at the same time; once one has quoted, the others get a moment more."""
        quotes: list[Attempt] = []
        errors: list[CocoonError] = []
        job_id = JobId(secrets.token_bytes(16))  # one id for one wish: whoever does it, it is the same job

        async def one(candidate: Candidate) -> None:
            peer = candidate.peer_id
            try:
                quotes.append(await self._jobs.ask(peer, addresses[peer], job_id, terms, deadline=progress.deadline))
            except (PeerRefused, TransportError, RemoteProtocolError) as error:
                errors.append(error)
                progress.excluded.add(peer)
                if isinstance(error, TransportError):
                    self._market.forget(peer)
                    progress.unreachable.add(peer)
                progress.failures.append({"provider": peer, "error": error.message, "code": error.code})
            if quotes:
                nursery.cancel_scope.deadline = min(
                    nursery.cancel_scope.deadline, trio.current_time() + limits.QUOTE_GRACE_S
                )

        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + limits.QUOTE_TIMEOUT_S
            for candidate in chosen:
                nursery.start_soon(one, candidate)
        if not quotes and not errors:
            errors.append(TransportError("no provider quoted in time", outcome_known=True, code="TIMEOUT"))
            progress.excluded.update(c.peer_id for c in chosen)
        return quotes, errors

    def _candidate(self, book: BookOffer) -> Candidate:
        done, failed = self._ports.store.jobs.outcomes(book.peer)
        latency = next((p.latency_s for p in self._ports.network.peers() if p.peer == book.peer), None)
        offer = book.offer
        return Candidate(
            peer_id=book.peer,
            price_base=offer.price_base,
            price_per_item=offer.price_per_item,
            tiers=frozenset(offer.tiers),
            items_max=offer.items_max,
            input_bytes_max=offer.input_bytes_max,
            networks=frozenset(book.settlement_networks),
            queue_ms=offer.queue_ms,
            item_us=offer.item_us,
            latency_ms=None if latency is None else latency * 1000,
            reliability=reliability(done, failed),
        )

    # --- the job itself ---

    async def _carry_through(self, progress: _Progress, attempt: Attempt, name: str) -> Purchase:
        job, quote = attempt.job, attempt.job.quote
        assert quote is not None
        ports = self._ports
        try:
            payment = await ports.settlement.reserve(job.provider, job.job_id, quote.max_total)
        except CocoonError:
            await attempt.cancel()
            raise
        self._insert_record(attempt, name)
        error: CocoonError | None = None
        try:
            output: memoryview | None = await attempt.run(payment, encode_payload(progress.order.payload))
        except CocoonError as caught:
            error = caught
            output = attempt.received_output()
        except trio.Cancelled:  # whoever asked has gone; the attempt has told the provider
            cancelled = CocoonError("the job was cancelled", code="CANCELLED")
            self._finish_record(attempt, cancelled, received=attempt.received_output() is not None)
            raise
        self._finish_record(attempt, error, received=output is not None)
        if output is None:
            assert error is not None
            raise error
        try:
            payload = decode_payload(output)
        except ValueError as malformed:
            raise RemoteProtocolError(f"the output is no payload: {malformed}", code="MALFORMED") from malformed
        body = job.receipt_body
        return Purchase(
            job_id=job.job_id,
            model_id=quote.model_id,
            provider=job.provider,
            payload=payload,
            price=body.price if body else quote.max_total,
            receipt=job.receipt,
            receipt_body=body,
            timeline_ms=timeline_ms(progress.started, progress.discovered, attempt),
            attempts=progress.failures,
        )

    def _insert_record(self, attempt: Attempt, name: str) -> None:
        quote = attempt.job.quote
        assert quote is not None
        self._ports.store.jobs.insert(
            JobRecord(
                job_id=attempt.job.job_id,
                role="client",
                model_id=quote.model_id,
                model_name=name,
                peer_id=attempt.job.provider,
                tier=quote.tier,
                state="running",
                price=quote.max_total,
                items=quote.items,
                created_at_ms=unix_ms(self._ports.clock),
            )
        )

    def _finish_record(self, attempt: Attempt, error: CocoonError | None, *, received: bool) -> None:
        """How a job without a receipt ended; one with a receipt was finished together with it."""
        if attempt.job.receipt_body is not None:
            return
        state = "done" if received else "unknown" if attempt.at_risk else "failed"
        self._ports.store.jobs.finish(
            attempt.job.job_id,
            "client",
            state,  # type: ignore[arg-type]
            finished_at_ms=unix_ms(self._ports.clock),
            price=attempt.at_risk,
            error="" if received or error is None else error.message,
        )

    def _note_failure(self, progress: _Progress, attempt: Attempt, error: CocoonError) -> None:
        peer = attempt.job.provider
        log.info("provider %s failed the job: %s", peer, error)
        payment_refused = isinstance(error, PeerRefused) and error.reason is RefusalReason.PAYMENT
        if not payment_refused:  # the next attempt pays over a new channel, at the same provider too
            progress.excluded.add(peer)
        progress.failures.append({"provider": peer, "error": error.message, "code": error.code})
        progress.at_risk += attempt.at_risk
        progress.last_error = error

    def _facts(self, progress: _Progress, error: CocoonError) -> AttemptFacts:
        in_time = self._ports.clock.now() < progress.deadline
        return AttemptFacts(
            attempts=len(progress.failures),
            retryable=error.retryable and in_time,
            at_risk=progress.at_risk,
            max_total=progress.order.max_total,
        )


def timeline_ms(started: float, discovered: float, attempt: Attempt) -> dict[str, float]:
    """Milliseconds of each leg of a job; they add up to `total`, but for rounding. `queue` and `execute` are the
    provider's own measure; `return` is what else passed between the last byte in and the last byte out."""
    marks, head = attempt.marks, attempt.job.head
    away = marks.output_complete - marks.input_sent
    queue = min(head.queue_us / 1e6, away) if head else 0.0  # the provider's word, as far as it can be true
    execute = min(head.execute_us / 1e6, away - queue) if head else 0.0
    legs = {
        "discover": discovered - started,
        "quote": marks.accepted - discovered,
        "seal": marks.input_sent - marks.accepted,
        "queue": queue,
        "execute": execute,
        "return": away - queue - execute,
        "receipt": marks.finished - marks.output_complete,
        "total": marks.finished - started,
    }
    return {leg: round(seconds * 1000, 3) for leg, seconds in legs.items()}


def _with_quote(candidate: Candidate, attempt: Attempt) -> Candidate:
    """The candidate as it quoted, which counts more than what it announced."""
    quote = attempt.job.quote
    assert quote is not None
    return replace(candidate, price_base=quote.price_base, price_per_item=quote.price_per_item, queue_ms=quote.queue_ms)


def _nobody_fits(order: Order, wanted: Wanted, candidates: Sequence[Candidate]) -> CocoonError:
    """Why none of the offers can be taken, and what would make it a yes."""
    if order.provider is not None and all(c.peer_id != order.provider for c in candidates):
        return CocoonError(
            f"provider {order.provider} does not offer {order.model}",
            code="NO_MODEL",
            hint="cocoon-node offers shows who does; leave out --provider to take any",
        )
    lowest = cheapest(wanted, candidates)
    if lowest is not None and wanted.max_total is not None:
        price = lowest.price(wanted.items)
        return PeerRefused(
            RefusalReason.PRICE,
            f"no offer of {order.model} is within {format_nanogram(wanted.max_total)}: "
            f"the lowest is {format_nanogram(price)} for {wanted.items} item{'s' if wanted.items > 1 else ''}",
            needed=price,
            hint=f"allow more: --max-price {price}",
        )
    reasons = select(wanted, candidates, count=0, rng=random.Random(0)).excluded
    first = reasons[0] if reasons else None
    return PeerRefused(
        first.reason if first else RefusalReason.NO_MODEL,
        f"no offer of {order.model} fits: " + ("; ".join(sorted({r.detail for r in reasons})[:3]) or "there is none"),
        needed=first.needed if first else None,
        hint="cocoon-node offers shows all offers",
    )


def _worst(errors: Sequence[CocoonError]) -> CocoonError:
    """Of several noes the one that tells most: a refusal before a broken connection."""
    return min(errors, key=lambda error: not isinstance(error, PeerRefused))
