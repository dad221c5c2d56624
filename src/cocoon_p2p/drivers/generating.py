"""One answer of a model that generates: find a provider, pay it by instalments, and, when it is lost, go on at the next one behind the
tokens so far, with the same draws: the text has no gap and no repeat.

Who is chosen, tried next and blamed is as for every order (`drivers.purchase`). When a provider is lost the stream says so at once; one
that froze is found by its silence (job/1 §3.13).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, replace

import trio

from cocoon_p2p.drivers.choosing import Progress
from cocoon_p2p.drivers.order import BuyerPorts, Order, new_wish, with_hint
from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.drivers.purchase import Buyer, Leg, too_late
from cocoon_p2p.drivers.resolve import ResolvedModel
from cocoon_p2p.drivers.stream_answer import Answer
from cocoon_p2p.drivers.stream_attempt import StreamAttempt
from cocoon_p2p.errors import CocoonError, ExecutionError, RemoteProtocolError, TransportError, one_line
from cocoon_p2p.generation import CALLER, GenerationRequest, Piece, Token
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import (
    CHATS_REMEMBERED_MAX,
    GENERATION_ALTERNATIVE_CHARS_MAX,
    GENERATION_TOKENS_MAX,
    INSTALMENT_TOKENS,
    RESUME_LOOK_MAX_S,
    RESUME_LOOK_MIN_S,
)
from cocoon_p2p.models.manifest import GENERATION
from cocoon_p2p.policy.token_bound import first_payment, items_bound
from cocoon_p2p.tensors import encode_payload

log = logging.getLogger(__name__)

_PASSES = frozenset({"WORKER", "BUSY", "SHUTTING_DOWN", "IDLE_POLICY"})
"""Codes of failures after which the same provider may go on with an answer a little later."""


@dataclass(frozen=True, slots=True)
class GenerationWish:
    """What somebody wants written."""

    order: Order
    """Its payload is the request's."""
    request: GenerationRequest
    raw: bool = False
    """A prompt is taken as it is, also where the model has a chat template."""


class Generating:
    """Has answers written, for one node."""

    def __init__(self, buyer: Buyer, ports: BuyerPorts) -> None:
        self._buyer = buyer
        self._ports = ports
        self._chats: OrderedDict[str, PeerId] = OrderedDict()
        """Who wrote the latest turn of each chat that has a name: it may still have what it computed for that."""

    async def run(self, wish: GenerationWish, answer: Answer) -> None:
        """Fill `answer` until it is over, by itself or because somebody stopped it. What goes wrong stands in it."""
        progress = self._buyer.begin(wish.order, answer.job_id)
        answer.attempts = progress.failures
        error: CocoonError | None = CocoonError("the node stopped", code="CANCELLED")
        try:
            before = self._chats.get(wish.request.chat)
            course = _Course(self._buyer, self._ports, progress, wish, answer, preferred=before)
            error = await self._in_time(progress, course)
            self._remember(wish.request.chat, answer)
        finally:
            self._buyer.considered(progress)
            answer.end(error)

    def _remember(self, chat: str, answer: Answer) -> None:
        if chat and answer.provider is not None and answer.error is None:
            self._chats[chat] = answer.provider
            self._chats.move_to_end(chat)
            if len(self._chats) > CHATS_REMEMBERED_MAX:
                self._chats.popitem(last=False)

    async def _in_time(self, progress: Progress, course: _Course) -> CocoonError | None:
        """Why it failed, if it did."""
        error: CocoonError | None = None
        # The machines' own deadline comes a second before this one, with its reason.
        with trio.move_on_after(progress.order.timeout_s + 1.0) as scope:
            try:
                await course.run()
            except CocoonError as failure:
                error = failure
        if scope.cancelled_caught:
            error = course.nobody or too_late(progress.order)
        if error is None or course.answer.stopping:
            return None
        progress.wish = course.answer.job_id  # what was considered is found by
        self._buyer.explain(progress, error)
        return error


class _Course:
    """Of one answer."""

    def __init__(
        self,
        buyer: Buyer,
        ports: BuyerPorts,
        progress: Progress,
        wish: GenerationWish,
        answer: Answer,
        *,
        preferred: PeerId | None,
    ) -> None:
        self._buyer = buyer
        self._ports = ports
        self._progress = progress
        self._wish = wish
        self._request = wish.request
        self.answer = answer
        self._preferred = None if wish.order.provider is not None else preferred
        """Asked before all others."""
        self._attempt: StreamAttempt | None = None
        """That is being paid and worked on now."""
        self._choosing = trio.CancelScope()
        self._lost: set[PeerId] = set()
        """Who had a part of it and may come back."""
        self._looks = 0
        """How often nobody was there, since somebody was."""
        self._waits = 0
        """How often somebody was waited for, since the last token."""
        self.nobody: CocoonError | None = None
        """While somebody is waited for, what was said when there was nobody."""

    async def run(self) -> None:
        """Raises CocoonError."""
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._stop_when_wanted)
            await self._write()
            nursery.cancel_scope.cancel()

    async def _stop_when_wanted(self) -> None:
        await self.answer.stop_wanted.wait()
        self._choosing.cancel()
        if self._attempt is not None:
            await self._attempt.stop()

    async def _write(self) -> None:
        """Raises CocoonError."""
        model: ResolvedModel | None = None
        while not self.answer.stopping:
            try:
                leg = await self._next_leg(model)
            except CocoonError as nobody:
                if model is None:
                    raise
                model = await self._wait_for_somebody(model, nobody)
                continue
            if leg is None:
                return  # stopped while nobody had it
            self._looks, self.nobody = 0, None
            before = len(self.answer.ids)
            if await self._leg(leg):
                self._buyer.done(self._progress, leg.model, leg.attempt.job.provider)
                return
            if len(self.answer.ids) > before:
                self._waits = 0
            if not self.answer.stopping:
                self._buyer.check_retry(self._progress)
            model = self._buyer.chooser.latest(leg.model)

    async def _wait_for_somebody(self, model: ResolvedModel, nobody: CocoonError) -> ResolvedModel:
        """Nobody is left to go on with the answer: wait a little, and look for who has the model then. Raises why there is no use in
        that, or no time."""
        progress, clock = self._progress, self._ports.clock
        if self.answer.stopping:  # it was said while nobody heard it
            return model
        asked_nobody = self._looks > 0 and not progress.questions
        misfits = asked_nobody and any(offer.peer in self._lost for offer in model.offers)
        wait_s = min(RESUME_LOOK_MIN_S * 2 ** min(self._waits, 10), RESUME_LOOK_MAX_S)
        in_time = clock.now() + wait_s < progress.deadline
        if not self.answer.ids or not self._lost or misfits or not in_time:
            if self.nobody is not None:
                raise self.nobody
            # Who asked has part of an answer: what broke it tells more than that nobody is left.
            if nobody.code != "NO_MODEL" or progress.last_error is None:
                raise nobody
            with_hint(progress.last_error, "nobody else could be found to go on with it")
            raise progress.last_error from nobody
        self.nobody = self.nobody or nobody
        log.info("nobody is left to go on with the answer (%s): looking again in %g s", one_line(nobody), wait_s)
        with trio.CancelScope() as self._choosing:
            await trio.sleep(wait_s)
            self._looks, self._waits = self._looks + 1, self._waits + 1
            return await self._look_again(model)
        return model  # stopped

    async def _look_again(self, model: ResolvedModel) -> ResolvedModel:
        """The same model, with who offers it now. Those that were lost, or said nothing, may be back."""
        progress = self._progress
        answered = {each["provider"] for each in progress.failures}
        silent = {peer for peer in progress.excluded if peer not in answered}
        progress.excluded -= self._lost | progress.unreachable | progress.busy.keys() | silent
        progress.unreachable.clear()
        progress.busy.clear()
        progress.questions = 0
        progress.wish = new_wish()  # who had the job before does no id twice (job/1 §2)
        try:
            return replace(await self._buyer.resolve(progress), name=model.name)
        except CocoonError as error:
            log.info("still nobody: %s", one_line(error))
            return self._buyer.chooser.latest(model)

    async def _next_leg(self, model: ResolvedModel | None) -> Leg | None:
        """Somebody who waits to be paid; None where it was stopped before."""
        with trio.CancelScope() as self._choosing:
            if model is None:
                model = await self._buyer.resolve(self._progress)
                items = self._begin(model)
            else:
                items = self._go_on(model)
            return await self._preferred_leg(model, items) or await self._buyer.next_leg(self._progress, model, items)
        return None

    async def _preferred_leg(self, model: ResolvedModel, items: int) -> Leg | None:
        """At who wrote the turn before; None where that has no room, wants too much, or is gone."""
        progress, preferred = self._progress, self._preferred
        self._preferred = None
        if preferred is None or all(offer.peer != preferred for offer in model.offers):
            return None
        progress.order = replace(progress.order, provider=preferred)
        try:
            return await self._buyer.next_leg(progress, model, items)
        except CocoonError as error:
            log.info("the chat goes on elsewhere: %s", one_line(error))
            progress.last_error = None
            return None
        finally:
            progress.order = replace(progress.order, provider=None)

    # --- the request ---

    def _begin(self, model: ResolvedModel) -> int:
        """The request as this model takes it; its items at most. Raises ExecutionError where the model generates nothing."""
        if model.manifest.kind != GENERATION:
            raise ExecutionError(
                f"{self._wish.order.model} generates no text",
                code="INPUT",
                hint=f"cocoon-node run {self._wish.order.model} gives its outputs; in a program: node.run",
            )
        request, spec = self._request, model.manifest.generation
        if request.prompt is not None and (spec is None or spec.template is not None) and not self._wish.raw:
            said = {"role": "user", "content": request.prompt}
            self._request = replace(request, prompt=None, messages=(said,))
        return self._set_out(items_bound(self._request, _context(model)))

    def _go_on(self, model: ResolvedModel) -> int:
        """The same behind what has come."""
        self._progress.begun = model.model_id if self.answer.ids else None
        self._request = replace(self._request, resume=tuple(self.answer.ids))
        bound = items_bound(self._request, _context(model))
        if any(each["code"] == "ITEMS" for each in self._progress.failures):
            bound = _context(model)  # a tokenizer that makes more of it than bytes
        return self._set_out(bound)

    def _set_out(self, items: int) -> int:
        given, spent = self._wish.order, self.answer.price
        self._progress.order = replace(
            given,
            payload=self._request.payload(),
            max_total=None if given.max_total is None else max(0, given.max_total - spent),
            instalment=INSTALMENT_TOKENS,
            prepaid=first_payment(self._request, items),
        )
        return items

    # --- one provider ---

    async def _leg(self, leg: Leg) -> bool:
        """Whether the answer is whole now; if not, why stands in the progress."""
        attempt = leg.attempt
        assert isinstance(attempt, StreamAttempt)
        progress, provider = self._progress, attempt.job.provider
        try:
            error = await self._carry(attempt, leg.model.name)
        except CocoonError as failure:
            error = failure
        progress.considered.chosen = provider
        if attempt.whole and self.answer.finish != CALLER:
            return True
        if self.answer.stopping:
            return attempt.whole
        if attempt.shortage is not None:
            raise attempt.shortage
        if error is None:
            error = ExecutionError("the provider ended the answer by itself", code="MODEL", retryable=True)
        self._buyer.note_failure(progress, attempt, error)
        if isinstance(error, TransportError) or error.code in _PASSES:
            self._lost.add(provider)
        else:
            self._lost.discard(provider)
        if self.answer.ids and leg.model.manifest.upstream is not None:
            raise error  # what is behind it counts its tokens in its own way: nobody could go on
        return False

    async def _carry(self, attempt: StreamAttempt, name: str) -> CocoonError | None:
        """Pay one attempt and have it write; the error that it ended with. Raises CocoonError where it did not begin."""
        job, buyer, settlement = attempt.job, self._buyer, self._ports.settlement
        try:
            payment = await settlement.reserve(job.provider, job.job_id, job.first_total)
        except CocoonError:
            await attempt.cancel()
            raise
        if self.answer.stopping:
            await attempt.cancel()
            await settlement.end_reservation(job.job_id, "cancelled", payee=job.provider)
            return None
        buyer.records.begin(attempt, name)
        attempt.on_piece = lambda piece: self._received(attempt, piece)
        self._attempt = attempt
        before, firm = self.answer.price, job.firm
        error: CocoonError | None = CocoonError("the job was cancelled", code="CANCELLED")
        try:
            with buyer.candidates.in_flight(job.provider):
                await attempt.run_stream(payment, encode_payload(self._progress.order.payload))
            error = None
        except CocoonError as failure:
            error = failure
        finally:
            self._attempt = None
            self.answer.price = before + attempt.price
            buyer.records.end_stream(attempt, error, firm=firm)
        return error

    def _received(self, attempt: StreamAttempt, piece: Piece) -> None:
        """Raises RemoteProtocolError."""
        job = attempt.job
        if len(self.answer.ids) + len(piece.tokens) > self._request.max_tokens:
            raise RemoteProtocolError("more tokens than were asked for", code="PAYLOAD")
        if job.quote is not None:
            self.answer.model_id = job.quote.model_id
        self.answer.add(_as_asked(piece, self._request.logprobs), job.provider, self._ports.clock.now())


def _as_asked(piece: Piece, logprobs: int | None) -> Piece:
    """Without what nobody asked for, which would only fill memory."""
    # SPEC job/1 §10.2
    if all(token.logprob is None and not token.top for token in piece.tokens):
        return piece
    shown = GENERATION_ALTERNATIVE_CHARS_MAX
    kept = (
        Token(each.id)
        if logprobs is None
        else replace(each, top=tuple((number, text[:shown], micro) for number, text, micro in each.top[:logprobs]))
        for each in piece.tokens
    )
    return replace(piece, tokens=tuple(kept))


def _context(model: ResolvedModel) -> int:
    """Tokens of prompt and answer together; where no files of the model say, what its providers take at most."""
    if model.manifest.generation is not None:
        return model.manifest.generation.context
    return max((each.offer.items_max for each in model.offers), default=GENERATION_TOKENS_MAX)
