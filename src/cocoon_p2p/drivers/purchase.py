"""One order from the wish to the output: find offers, choose, ask or take an announced price, pay, and, if that provider
fails, go on with the next.

What is chosen and whether to go on is decided in `policy.selection` and `policy.retry`; words and records are in `order` and
`considerations`; a second provider for a job that is late in `hedging`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.candidates import Candidates
from cocoon_p2p.drivers.choosing import Choice, Chooser, Progress
from cocoon_p2p.drivers.clock import unix_ms
from cocoon_p2p.drivers.considerations import ID_DIGITS, Consideration, Row
from cocoon_p2p.drivers.hedging import race
from cocoon_p2p.drivers.job_client import Attempt, JobClient
from cocoon_p2p.drivers.job_records import JobRecords
from cocoon_p2p.drivers.market import MarketDriver
from cocoon_p2p.drivers.order import (
    BuyerPorts,
    Order,
    Purchase,
    new_wish,
    nobody_fits,
    timeline_ms,
    with_hint,
)
from cocoon_p2p.drivers.resolve import ResolvedModel, Resolver
from cocoon_p2p.errors import (
    CocoonError,
    ExecutionError,
    PeerRefused,
    RefusalReason,
    RemoteProtocolError,
    StoreError,
    TransportError,
    one_line,
)
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.models.check import check_inputs
from cocoon_p2p.models.manifest import GENERATION
from cocoon_p2p.policy.backup import backup_delay_s
from cocoon_p2p.policy.experience import Outcome
from cocoon_p2p.policy.retry import AttemptFacts, counter_offer, is_retryable, may_retry
from cocoon_p2p.policy.selection import Candidate
from cocoon_p2p.tensors import Payload, decode_payload, encode_payload
from cocoon_p2p.units import format_nanogram

log = logging.getLogger(__name__)

_COUNTED_S = limits.PROVIDERS_COUNTED_S
_ALL = 2 * limits.CONSIDERED_MAX
LOST_PLACE = frozenset({"TIMEOUT", "ALTERED"})
"""Codes of a connection's failure after which the provider is probably still where it was."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One try at one provider, which waits to be paid."""

    model: ResolvedModel
    choice: Choice
    attempt: Attempt


class Buyer:
    """Runs orders. A context manager: at its end what was learned is written."""

    def __init__(self, ports: BuyerPorts, market: MarketDriver, jobs: JobClient, resolver: Resolver) -> None:
        self._ports = ports
        self._market = market
        self._resolver = resolver
        self.experience = ports.experience
        self._considerations = ports.considerations
        self.candidates = Candidates(ports.network, ports.experience, ports.clock, ports.rng)
        self.chooser = Chooser(ports, market, jobs, self.candidates)
        self._counted: tuple[str, float, int] | None = None
        self.records = JobRecords(ports.store, ports.clock, ports.experience, ports.considerations)

    def __enter__(self) -> Buyer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.write()

    async def buy(self, order: Order) -> Purchase:
        """Raises CocoonError: NO_MODEL, INPUT, PeerRefused (PRICE with the lowest offer), TIMEOUT, and what the last
        provider that was tried said."""
        return await self._buy(order, attempts_max=limits.JOB_ATTEMPTS_MAX)

    async def buy_at(self, order: Order, provider: PeerId, job_id: JobId | None = None) -> Purchase:
        """One attempt at this provider alone, without a second one elsewhere. Raises as `buy`."""
        return await self._buy(replace(order, provider=provider, hedge=1), attempts_max=1, job_id=job_id)

    def _nobody_fits(self, order: Order, choice: Choice, model: ResolvedModel) -> CocoonError:
        offers = self._market.offers(model.model_id)
        called = sorted({each.offer.name for each in offers if each.peer == order.provider})
        return nobody_fits(order, choice.wanted, list(choice.candidates.values()), called=called)

    async def shortlist(self, order: Order) -> list[Candidate]:
        """All that fit (of a large market a random part), the one to ask first, first. Raises CocoonError when nobody
        does."""
        progress = self.begin(order)
        model, items = await self._resolve(progress)
        choice = self.chooser.choose(progress, model, items, count=_ALL, at_least=_ALL)
        if not choice.selection.chosen:
            raise self._nobody_fits(order, choice, model)
        return list(choice.selection.chosen)

    async def consider(self, order: Order) -> Row:
        """A dry run: everybody is asked, also those that do not fit; nothing is run or paid. Raises CocoonError when nobody
        offers the model, or the input is wrong."""
        progress = self.begin(order)
        considered = progress.considered
        considered.dry_run = True
        model, items = await self._resolve(progress)
        choice = self.chooser.choose(
            progress, model, items, count=limits.DRY_RUN_ASKED_MAX, at_least=limits.DRY_RUN_ASKED_MAX
        )
        asked = [candidate.peer_id for candidate in choice.selection.chosen]
        asked += [misfit.candidate.peer_id for misfit in choice.selection.excluded if order.provider is None]
        terms = self.chooser.terms(progress, model, choice.wanted)
        found = await self.chooser.asker(progress, choice).ask(
            asked[: limits.DRY_RUN_ASKED_MAX], terms, enough=len(asked)
        )
        self.chooser.note_asked(progress, choice, found)
        fitting = [
            quote for quote in found.quotes if quote.job.provider in {c.peer_id for c in choice.selection.chosen}
        ]
        if fitting:
            considered.chosen = self.chooser.best(order, choice, fitting)[0].job.provider
        for quote in found.quotes:
            await quote.cancel()
        self._considerations.add(considered)
        self._considerations.write(all_of_them=True)
        return considered.row()

    def why(self, job_id: str) -> Row:
        """Who was considered for a job, by its id or the beginning of it. Raises ConfigError."""
        return self._considerations.find(job_id)

    def providers(self, model: str) -> int:
        """How many offer a model (id or name), as far as is known now."""
        now = self._ports.clock.now()
        if self._counted is None or self._counted[0] != model or not 0 <= now - self._counted[1] < _COUNTED_S:
            self._counted = model, now, len(self._market.offers(model))
        return self._counted[2]

    def write(self) -> None:
        """What waits to be written. No job fails for it."""
        try:
            self.experience.write()
            self._considerations.write(all_of_them=True)
        except StoreError as error:
            log.warning("what was learned of providers could not be written: %s", error)

    # --- an order ---

    def begin(self, order: Order, job_id: JobId | None = None) -> Progress:
        started, wish = self._ports.clock.now(), job_id or new_wish()
        considered = Consideration(wish, order.model, order.tier, unix_ms(self._ports.clock), poll=order.poll)
        return Progress(order, wish, started + order.timeout_s, started, considered)

    async def _buy(self, order: Order, *, attempts_max: int, job_id: JobId | None = None) -> Purchase:
        progress = self.begin(order, job_id)
        progress.looked_again, progress.attempts_max = attempts_max == 1, attempts_max
        # The machines' own deadline comes a second before this one, with its reason.
        with trio.move_on_after(order.timeout_s + 1.0) as scope:
            try:
                return await self._attempts(progress)
            except CocoonError as error:
                self.explain(progress, error)
                raise
            finally:
                self.considered(progress)
        assert scope.cancelled_caught
        late = too_late(order)
        self.explain(progress, late)
        raise late

    def considered(self, progress: Progress) -> None:
        """Keeps who was considered, for `why`."""
        self._considerations.add(progress.considered)

    def explain(self, progress: Progress, error: CocoonError) -> None:
        """What it may have cost, and where to read more; written at once, since whoever failed may ask soon."""
        progress.considered.error = error.message
        if progress.at_risk:
            with_hint(
                error,
                f"{format_nanogram(progress.at_risk)} count as spent until the provider says that it keeps nothing, which it "
                "does when this node next works with it (what did not arrive is not owed): cocoon-node wallet",
            )
        if progress.considered.providers:
            with_hint(error, f"cocoon-node why {progress.wish.hex()[:ID_DIGITS]}")
            self._considerations.add(progress.considered)
            self.write()

    async def _attempts(self, progress: Progress) -> Purchase:
        """Choose and carry through, and again elsewhere where `policy.retry` allows it."""
        model, items = await self._resolve(progress)
        while True:
            leg = await self.next_leg(progress, model, items)
            model = leg.model
            backups = _Backups(self, progress, model, items, leg.choice)
            bought = await self._carry_through(progress, leg.attempt, backups)
            if bought is not None:
                self.done(progress, model, bought.provider)
                return bought
            self.check_retry(progress)
            model = self.chooser.latest(model)

    async def next_leg(self, progress: Progress, model: ResolvedModel, items: int) -> Leg:
        """Choose until somebody waits to be paid. Raises CocoonError when nobody is left."""
        while True:
            choice = self.chooser.choose(progress, model, items)
            if not choice.selection.chosen:
                if progress.unpaid:
                    progress.excluded -= progress.unpaid
                    progress.unpaid.clear()
                    continue
                if progress.unreachable and not progress.looked_again:
                    model = await self._look_again(progress)
                    continue
                if await self._waited_for_room(progress):
                    model = self.chooser.latest(model)
                    continue
                raise progress.last_error or self._nobody_fits(progress.order, choice, model)
            try:
                return Leg(model, choice, await self.chooser.attempt(progress, model, choice))
            except CocoonError as error:
                progress.questions += 1
                progress.last_error = error
            self.check_retry(progress)
            model = self.chooser.latest(model)

    def check_retry(self, progress: Progress) -> None:
        """Raises what the last one said where nobody else is to be tried."""
        assert progress.last_error is not None
        if progress.rounds >= progress.attempts_max or not self.may_retry(progress):
            raise progress.last_error

    def done(self, progress: Progress, model: ResolvedModel, provider: PeerId) -> None:
        """What follows from an order that was done."""
        for liar in _blaming_input(progress):
            self.experience.note(liar, model.model_id, Outcome.FAILED)
        self._resolver.used(progress.order.model, model.model_id)
        self._market.worked(provider)

    async def resolve(self, progress: Progress) -> ResolvedModel:
        """Raises CocoonError: NO_MODEL, AMBIGUOUS."""
        model = await self._resolver.resolve(progress.begun or progress.order.model)
        progress.discovered = self._ports.clock.now()
        progress.considered.model_id = model.model_id
        return model

    async def _resolve(self, progress: Progress) -> tuple[ResolvedModel, int]:
        order = progress.order
        model = await self.resolve(progress)
        if model.manifest.kind == GENERATION:
            raise ExecutionError(
                f"{order.model} generates text, piece by piece",
                code="INPUT",
                hint=f'cocoon-node generate {order.model} "…"; in a program: node.generate',
            )
        items = max(1, check_inputs(model.manifest, order.payload))
        if items > limits.ITEMS_PER_JOB_MAX:
            raise CocoonError(
                f"{items} items in one job; at most {limits.ITEMS_PER_JOB_MAX}",
                code="LIMITS",
                hint="split it into several jobs",
            )
        return model, items

    async def _waited_for_room(self, progress: Progress) -> bool:
        """A provider has failed the job, and the others are full: wait until one of them expects to have room, and a little
        longer each time. Not for a job that nobody has begun: whoever asked decides whether it is worth the wait."""
        if not (progress.busy and progress.rounds and self.may_retry(progress)):
            return False
        now = self._ports.clock.now()
        least = min(limits.BUSY_WAIT_MIN_S * 2**progress.waits, limits.BUSY_WAIT_MAX_S)
        wait_s = min(max(min(progress.busy.values()) - now, least), limits.BUSY_WAIT_MAX_S)
        if now + wait_s >= progress.deadline:
            return False
        await trio.sleep(wait_s)
        progress.waits += 1
        progress.excluded -= progress.busy.keys()
        progress.busy.clear()
        return True

    async def _look_again(self, progress: Progress) -> ResolvedModel:
        """Nobody that we knew of was where it said: perhaps they came back elsewhere."""
        progress.looked_again = True
        progress.excluded -= progress.unreachable
        progress.unreachable.clear()
        return await self._resolver.resolve(progress.begun or progress.order.model)

    def may_retry(self, progress: Progress) -> bool:
        """After `progress.last_error`, if there was one."""
        error = progress.last_error
        in_time = self._ports.clock.now() < progress.deadline
        retryable = error is None or is_retryable(error) or len(_blaming_input(progress)) == 1
        return may_retry(AttemptFacts(progress.rounds, retryable, in_time, progress.questions))

    # --- the job itself ---

    async def _carry_through(self, progress: Progress, first: Attempt, backups: _Backups) -> Purchase | None:
        """None when it failed at all that had it: why stands in `progress.last_error`."""

        async def carry(leg: Attempt) -> memoryview:
            return await self._carry(progress, leg, backups.model.name)

        progress.racing.add(first.job.provider)
        try:
            result = await race(first, carry, backups, at_most=progress.order.hedge)
        finally:
            progress.racing.clear()
        for late in result.overtaken:
            self.experience.note(late.job.provider, backups.model.model_id, Outcome.LATE)
        if result.winner is None or result.output is None:
            progress.excluded -= progress.no_backup
            progress.no_backup.clear()
            return None
        progress.considered.chosen = result.winner.job.provider
        return self._purchase(progress, result.winner, result.output)

    async def _carry(self, progress: Progress, attempt: Attempt, name: str) -> memoryview:
        """Pay one attempt and have it done. Raises CocoonError."""
        job = attempt.job
        assert job.quote is not None
        settlement = self._ports.settlement
        try:
            payment = await settlement.reserve(job.provider, job.job_id, job.quote.max_total)
        except CocoonError:
            await attempt.cancel()
            raise
        self.records.begin(attempt, name)
        output: memoryview | None = None
        failure: CocoonError | None = None
        try:
            with self.candidates.in_flight(job.provider):
                output = await attempt.run(payment, encode_payload(progress.order.payload))
        except CocoonError as error:
            failure = error
            output = attempt.received_output()
        except trio.Cancelled:  # whoever asked has gone; the attempt has told the provider
            cancelled = CocoonError("the job was cancelled", code="CANCELLED")
            self.records.end(attempt, cancelled, received=attempt.received_output() is not None)
            raise
        if output is not None:
            try:
                decode_payload(output)
            except ValueError as malformed:
                failure, output = RemoteProtocolError(f"the output is no payload: {malformed}", code="MALFORMED"), None
        self.records.end(attempt, failure, received=attempt.received_output() is not None, good=output is not None)
        if output is None:
            assert failure is not None
            raise failure
        return output

    def _purchase(self, progress: Progress, attempt: Attempt, output: memoryview) -> Purchase:
        job, body = attempt.job, attempt.job.receipt_body
        assert job.quote is not None
        payload: Payload = decode_payload(output)
        manifest = self._resolver.known(job.quote.model_id)
        return Purchase(
            job_id=job.job_id,
            model_id=job.quote.model_id,
            provider=job.provider,
            payload=payload,
            price=body.price if body else job.quote.max_total,
            receipt=job.receipt,
            receipt_body=body,
            timeline_ms=timeline_ms(progress.started, progress.discovered, attempt),
            attempts=progress.failures,
            text=None if manifest is None else manifest.text,
            transcript=attempt.transcript(),
        )

    def note_failure(self, progress: Progress, attempt: Attempt, error: CocoonError, *, alone: bool = True) -> None:
        """What follows from it for the rest of the order. A backup that is busy is none, and no failed attempt."""
        peer, order = attempt.job.provider, progress.order
        log.info("provider %s failed the job: %s", peer, one_line(error))
        now_ms = unix_ms(self._ports.clock)
        progress.considered.note_error(peer, error, frozenset({order.tier}), now_ms)
        wants = counter_offer(error, order.max_total, progress.counters.get(peer))
        if wants is not None:
            progress.counters[peer] = wants  # asked again, at that price
        else:
            progress.excluded.add(peer)
            progress.note_busy(peer, error, self._ports.clock.now())
            if isinstance(error, PeerRefused) and error.reason is RefusalReason.PAYMENT:
                self._note_unpaid(progress, attempt)
        if isinstance(error, TransportError) and error.code not in LOST_PLACE:
            self._market.forget(peer)
        progress.failures.append({"provider": peer, "error": error.message, "code": error.code})
        progress.at_risk += attempt.at_risk
        if not alone and isinstance(error, PeerRefused) and error.reason is RefusalReason.BUSY:
            progress.no_backup.add(peer)
            return
        if isinstance(error, PeerRefused):
            progress.questions += 1  # it never had the job
        else:
            progress.rounds += 1
        progress.last_error = error

    def _note_unpaid(self, progress: Progress, attempt: Attempt) -> None:
        """It quoted, and refused the payment. An honest one may know nothing of our channel any more, and gets a new one when
        nobody else is left; who refuses that too takes nobody's payment."""
        peer, quote = attempt.job.provider, attempt.job.quote
        assert quote is not None
        again = any((each["provider"], each["code"]) == (peer, "PAYMENT") for each in progress.failures)
        self.experience.note(peer, quote.model_id, Outcome.FAILED if again else Outcome.TURNED_AWAY)
        if not again:
            progress.unpaid.add(peer)


def too_late(order: Order) -> TransportError:
    """The order's own deadline is over."""
    return TransportError(
        f"no answer within {order.timeout_s:g} s", outcome_known=False, code="TIMEOUT", hint="allow more: --timeout"
    )


def _blaming_input(progress: Progress) -> set[PeerId]:
    """Who says that the input is wrong, which we have checked against the manifest ourselves. One may be lying, or have
    another runtime; two are believed."""
    return {PeerId(each["provider"]) for each in progress.failures if each["code"] in ("INPUT", "ITEMS")}


class _Backups:
    """Further legs of one job, for `race`."""

    def __init__(self, buyer: Buyer, progress: Progress, model: ResolvedModel, items: int, choice: Choice) -> None:
        self.model = model
        self._buyer = buyer
        self._progress = progress
        self._items = items
        self._choice = choice

    def delay_s(self, leg: Attempt) -> float:
        candidate, quote = self._choice.candidates[leg.job.provider], leg.job.quote
        if quote is not None and not leg.job.firm:
            candidate = replace(candidate, queue_ms=quote.queue_ms)
        return backup_delay_s(self._choice.wanted, candidate)

    async def another(self) -> Attempt | None:
        buyer, progress = self._buyer, self._progress
        if not buyer.may_retry(progress):
            return None
        self.model = buyer.chooser.latest(self.model)
        choice = buyer.chooser.choose(progress, self.model, self._items)
        if not choice.selection.chosen:
            return None
        before = set(progress.excluded)
        try:
            leg = await buyer.chooser.attempt(progress, self.model, choice)
        except CocoonError as error:
            log.info("no backup for the job: %s", one_line(error))
            return None
        finally:
            progress.no_backup |= progress.excluded - before - progress.unreachable
        self._choice = choice
        progress.racing.add(leg.job.provider)
        return leg

    def failed(self, leg: Attempt, error: CocoonError, *, alone: bool) -> None:
        self._progress.racing.discard(leg.job.provider)
        self._buyer.note_failure(self._progress, leg, error, alone=alone)
