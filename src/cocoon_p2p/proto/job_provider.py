"""job/1, the provider's end: all jobs of one client, on one stream.

Call order: `handle_message` for what the client sends; the driver answers `TakePayment` with `payment_taken` or
`payment_refused`, the final `WriteInput` with `input_complete` (or any with `input_bad`), `Execute` with `executed` or
`execution_failed`, `SendOutput` with `output_sent`. `handle_timer` at `next_deadline`. `lost` when the stream ends.
Answers for a job that ended meanwhile are ignored. Messages that break the protocol raise RemoteProtocolError: the
session is then over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from cocoon_p2p import limits
from cocoon_p2p.errors import ExecutionError, RefusalReason, RemoteProtocolError
from cocoon_p2p.ids import JobId, PeerId, Tier
from cocoon_p2p.policy.admission import Refused
from cocoon_p2p.policy.pricing import Price
from cocoon_p2p.policy.reputation import fault_of_code
from cocoon_p2p.proto.job_effects import (
    BeginInput,
    Closed,
    Earn,
    Execute,
    KeepSignature,
    Penalise,
    ProviderEffect,
    ReleasePayment,
    Send,
    SendOutput,
    TakePayment,
    TellOutcome,
    WriteInput,
)
from cocoon_p2p.proto.job_states import PROVIDER_TRANSITIONS, STREAM_FAULTS, Machine, ProviderEvent, ProviderState
from cocoon_p2p.proto.provider_desk import ProviderDesk
from cocoon_p2p.sealing.envelope import OpenedRequest, plain_opened
from cocoon_p2p.sealing.signing import verify_signature
from cocoon_p2p.wire.job import (
    QUOTE_DOMAIN,
    RECEIPT_DOMAIN,
    Accept,
    Ask,
    Cancel,
    Failure,
    FailureCode,
    Input,
    JobMessage,
    OutputHead,
    Quote,
    QuoteBody,
    Receipt,
    ReceiptAck,
    ReceiptBody,
    Refusal,
    quote_hash,
    quoted_total,
)
from cocoon_p2p.wire.seal import (
    RESPONSE_NONCE_BYTES,
    SUITE_PLAIN,
    SUITE_XWING,
    EnvelopeHeader,
    ResponseHeader,
    decode_envelope_header,
)


@dataclass(slots=True)
class _Job:
    machine: Machine[ProviderState, ProviderEvent]
    quote: QuoteBody
    quote_hash: bytes
    deadline: float
    """When the present state ends at the latest."""
    job_deadline: float
    """When the client has no more use for the answer."""
    accept: Accept | None = None
    header: EnvelopeHeader | None = None
    opened: OpenedRequest | None = None
    input_hash: bytes = b""
    price: int = 0
    items: int = 0
    queue_us: int = 0
    execute_us: int = 0
    holds_slot: bool = False


class ProviderSession:
    """The jobs of one client. `entropy` draws so many random bytes, for the nonces of responses."""

    def __init__(self, desk: ProviderDesk, client: PeerId, *, entropy: Callable[[int], bytes]) -> None:
        self._desk = desk
        self.client = client
        self._entropy = entropy
        self._jobs: dict[JobId, _Job] = {}
        self._unsigned: OrderedDict[JobId, bytes] = OrderedDict()
        """Bodies of receipts that were sent and wait for the client's signature."""

    # --- getters ---

    def next_deadline(self) -> float | None:
        return min((job.deadline for job in self._jobs.values()), default=None)

    def jobs(self) -> dict[JobId, ProviderState]:
        return {job_id: job.machine.state for job_id, job in self._jobs.items()}

    # --- messages ---

    def handle_message(self, message: JobMessage, *, now: float, unix_ms: int) -> list[ProviderEffect]:
        """Raises RemoteProtocolError with one of STREAM_FAULTS; any other fault ends the one job that it is in."""
        try:
            return self._handle(message, now, unix_ms)
        except RemoteProtocolError as error:
            if error.code in STREAM_FAULTS:
                raise
            return self._fault(message.job_id, error)

    def _handle(self, message: JobMessage, now: float, unix_ms: int) -> list[ProviderEffect]:
        match message:
            case Ask():
                return self._on_ask(message, now, unix_ms)
            case Accept():
                return self._on_accept(message, now, unix_ms)
            case Input():
                return self._on_input(message, now)
            case Cancel():
                return self._on_cancel(message)
            case ReceiptAck():
                return self._on_receipt_ack(message)
            case _:
                raise RemoteProtocolError(f"a client does not send {type(message).__name__}", code="UNEXPECTED")

    def _on_ask(self, ask: Ask, now: float, unix_ms: int) -> list[ProviderEffect]:
        # SPEC job/1 §3.3
        if ask.job_id in self._jobs or self._desk.is_done(self.client, ask.job_id):
            raise RemoteProtocolError("ASK for a job id that is in use", code="UNEXPECTED")
        if ask.input_bytes < limits.PAYLOAD_ALIGNMENT:
            detail = f"a payload has at least {limits.PAYLOAD_ALIGNMENT} bytes"
            return [Send(Refusal(ask.job_id, RefusalReason.LIMITS, detail, limits.PAYLOAD_ALIGNMENT))]
        decision = self._desk.decide(ask, jobs_of_client=len(self._jobs), client_banned=False)
        if isinstance(decision, Refused):
            return [Send(Refusal(ask.job_id, decision.reason, decision.detail, decision.needed))]
        body = self._quote_body(ask, decision, unix_ms)
        raw = body.encode()
        timeout_s = min(ask.timeout_ms / 1000, limits.JOB_TIMEOUT_MAX_S)
        self._jobs[ask.job_id] = _Job(
            machine=Machine(PROVIDER_TRANSITIONS, ProviderState.QUOTED),
            quote=body,
            quote_hash=quote_hash(raw),
            deadline=now + limits.QUOTE_LIFETIME_S,
            job_deadline=now + timeout_s,
        )
        return [Send(Quote(ask.job_id, raw, self._desk.identity.sign(QUOTE_DOMAIN, raw)))]

    def _quote_body(self, ask: Ask, price: Price, unix_ms: int) -> QuoteBody:
        record = b""
        if ask.tier is not Tier.OPEN:
            self._desk.seal_keys.rotate(unix_ms)
            record = self._desk.seal_keys.current()[1]
        return QuoteBody(
            provider=self._desk.identity.peer_id,
            client=self.client,
            job_id=ask.job_id,
            model_id=ask.model_id,
            tier=ask.tier,
            items=ask.items,
            input_bytes=ask.input_bytes,
            price_base=price.base,
            price_per_item=price.per_item,
            max_total=price.max_total,
            expires_at_ms=unix_ms + int(limits.QUOTE_LIFETIME_S * 1000),
            queue_ms=self._desk.queue_ms(ask.model_id),
            settlement_network=self._desk.settlement_network,
            payee_key=b"",
            seal_key_record=record,
        )

    def _on_accept(self, accept: Accept, now: float, unix_ms: int) -> list[ProviderEffect]:
        job = self._jobs.get(accept.job_id)
        if job is None:
            # Expired, or never quoted: a late client is told so, and loses no standing.
            detail = "there is no quote for this job: it expired, or was never given; ask again"
            return [Send(Refusal(accept.job_id, RefusalReason.QUOTE_EXPIRED, detail, None))]
        job.machine.remote(ProviderEvent.ACCEPT)
        if accept.quote_hash != job.quote_hash:
            raise RemoteProtocolError("ACCEPT names another quote than was given", code="QUOTE")
        job.accept = accept
        job.header = self._check_header(accept, job.quote, unix_ms)
        job.deadline = now + limits.JOB_INPUT_IDLE_TIMEOUT_S
        self._desk.begin(job.quote.model_id, job.quote.items, job.quote.input_bytes)
        job.holds_slot = True
        return [TakePayment(accept.job_id, accept.payment, job.quote.max_total)]

    def _check_header(self, accept: Accept, quote: QuoteBody, unix_ms: int) -> EnvelopeHeader:
        # SPEC seal/1 §4.3
        header = decode_envelope_header(accept.envelope_header)
        expected = (quote.job_id, quote.model_id, quote.provider, quote.max_total, quote.input_bytes, quote.items)
        stated = (
            header.job_id,
            header.model_id,
            header.provider,
            header.max_total,
            header.payload_bytes,
            header.items,
        )
        if stated != expected:
            raise RemoteProtocolError("the envelope's header does not agree with the quote", code="ENVELOPE")
        suite = SUITE_PLAIN if quote.tier is Tier.OPEN else SUITE_XWING
        if header.suite != suite:
            raise RemoteProtocolError("the envelope's suite is not that of the quoted tier", code="ENVELOPE")
        if not unix_ms <= header.expires_at_ms <= unix_ms + limits.ENVELOPE_LIFETIME_MAX_S * 1000:
            raise RemoteProtocolError("the envelope has expired, or expires too far from now", code="EXPIRED")
        return header

    def _on_input(self, message: Input, now: float) -> list[ProviderEffect]:
        job = self._jobs.get(message.job_id)
        if job is None:
            return []  # under way when the job ended
        job.machine.remote(ProviderEvent.INPUT)
        job.deadline = now + limits.JOB_INPUT_IDLE_TIMEOUT_S
        return [WriteInput(message.job_id, message.ciphertext, message.final)]

    def _on_cancel(self, message: Cancel) -> list[ProviderEffect]:
        job = self._jobs.get(message.job_id)
        if job is None:
            # SPEC job/1 §3.9: a receipt that was sent is the answer already
            return [] if message.job_id in self._unsigned else [TellOutcome(message.job_id)]
        job.machine.remote(ProviderEvent.CANCEL)
        if job.machine.state is not ProviderState.CLOSED:
            return []
        # SPEC job/1 §3.9: so that the client knows that nothing was earned
        answer: list[ProviderEffect] = [Send(Failure(message.job_id, FailureCode.CANCELLED, "cancelled by the client"))]
        return [*answer, *self._close(message.job_id, "cancelled by the client")]

    def _on_receipt_ack(self, message: ReceiptAck) -> list[ProviderEffect]:
        body = self._unsigned.get(message.job_id)
        if body is None:
            raise RemoteProtocolError("RECEIPT_ACK for a receipt that was not sent", code="UNEXPECTED")
        if not verify_signature(self.client, RECEIPT_DOMAIN, body, message.client_signature):
            raise RemoteProtocolError("the signature under the receipt is not the client's", code="SIGNATURE")
        del self._unsigned[message.job_id]
        return [KeepSignature(message.job_id, message.client_signature)]

    # --- answers of the driver ---

    def not_earned(self, job_id: JobId) -> list[ProviderEffect]:
        """The answer to TellOutcome where there is no receipt, and the job goes on nowhere."""
        return [Send(Failure(job_id, FailureCode.CANCELLED, "nothing was earned with this job"))]

    def resend_receipts(self, receipts: list[Receipt]) -> list[ProviderEffect]:
        """At the start of a session: receipts of earlier jobs that this client has not signed."""
        # SPEC job/1 §3.8
        effects: list[ProviderEffect] = []
        for receipt in receipts[: limits.RECEIPTS_RESENT_MAX]:
            self._await_signature(receipt)
            effects.append(Send(receipt))
        return effects

    def payment_taken(self, job_id: JobId, *, unix_ms: int) -> list[ProviderEffect]:
        job = self._jobs.get(job_id)
        if job is None:
            return [ReleasePayment(job_id)]
        job.machine.local(ProviderEvent.PAYMENT_TAKEN)
        assert job.accept is not None
        assert job.header is not None
        try:
            job.opened = self._open(job.accept, job.header, unix_ms)
        except RemoteProtocolError as error:
            return self.input_bad(job_id, error)
        job.accept = None
        return [BeginInput(job_id, job.opened.opener, job.quote.input_bytes)]

    def _open(self, accept: Accept, header: EnvelopeHeader, unix_ms: int) -> OpenedRequest:
        if header.suite == SUITE_PLAIN:
            return plain_opened(accept.envelope_header)
        key = self._desk.seal_keys.find(header.key_id, unix_ms)
        if key is None:
            raise RemoteProtocolError("the envelope is sealed to a key that is not in use", code="ENVELOPE")
        return key.open_request(accept.envelope_header, accept.box)

    def payment_refused(self, job_id: JobId, detail: str, needed: int | None) -> list[ProviderEffect]:
        """The credit does not cover the job: an honest "no"."""
        job = self._jobs.get(job_id)
        if job is None:
            return []
        job.machine.local(ProviderEvent.PAYMENT_REFUSED)
        answer: list[ProviderEffect] = [
            Send(Refusal(job_id, RefusalReason.PAYMENT, detail[: limits.DETAIL_CHARS_MAX], needed))
        ]
        return [*answer, *self._close(job_id, detail)]

    def payment_bad(self, job_id: JobId, error: RemoteProtocolError) -> list[ProviderEffect]:
        """The payment is none, or not this channel's: a fault."""
        refused = self.payment_refused(job_id, error.message, None)
        return [Penalise(fault_of_code(error.code)), *refused]

    def input_complete(self, job_id: JobId, input_hash: bytes, *, unix_ms: int) -> list[ProviderEffect]:
        """All chunks opened, the final one at the announced length."""
        job = self._jobs.get(job_id)
        if job is None:
            return []
        assert job.header is not None
        self._desk.consume(self.client, job_id, expires_at_ms=job.header.expires_at_ms, now_ms=unix_ms)
        job.machine.local(ProviderEvent.INPUT_COMPLETE)
        job.input_hash = input_hash
        job.deadline = job.job_deadline
        return [Execute(job_id, job.quote.model_id, job.quote.items)]

    def input_bad(self, job_id: JobId, error: RemoteProtocolError) -> list[ProviderEffect]:
        """The box or a chunk did not open: this job ends, the session and the job id live."""
        return self._fault(job_id, error) if job_id in self._jobs else []

    def _fault(self, job_id: JobId, error: RemoteProtocolError) -> list[ProviderEffect]:
        """The client broke a rule of one job."""
        penalty: list[ProviderEffect] = [Penalise(fault_of_code(error.code))]
        job = self._jobs.get(job_id)
        if job is None:
            return penalty
        job.machine.local(ProviderEvent.FAULT)
        failure = Send(Failure(job_id, FailureCode.ENVELOPE, error.message[: limits.DETAIL_CHARS_MAX]))
        return [*penalty, failure, *self._close(job_id, error.message)]

    def input_failed(self, job_id: JobId, error: ExecutionError) -> list[ProviderEffect]:
        """There is no room for the input after all."""
        return self._fail(job_id, ProviderEvent.INPUT_BAD, error)

    def executed(
        self, job_id: JobId, *, items: int, payload_bytes: int, queue_us: int, execute_us: int
    ) -> list[ProviderEffect]:
        job = self._jobs.get(job_id)
        if job is None:
            return []
        job.machine.local(ProviderEvent.EXECUTED)
        assert job.opened is not None
        job.items, job.queue_us, job.execute_us = max(1, items), queue_us, execute_us
        job.price = quoted_total(job.quote.price_base, job.quote.price_per_item, job.items)
        header = ResponseHeader(job_id=job_id, nonce=self._entropy(RESPONSE_NONCE_BYTES)).encode()
        head = OutputHead(
            job_id=job_id,
            response_header=header,
            payload_bytes=payload_bytes,
            queue_us=queue_us,
            execute_us=execute_us,
        )
        # From here on only a broken stream ends the job early; a slow reader is the stream's concern.
        job.deadline = float("inf")
        return [Send(head), SendOutput(job_id, job.opened.response_sealer(header))]

    def execution_failed(self, job_id: JobId, error: ExecutionError) -> list[ProviderEffect]:
        return self._fail(job_id, ProviderEvent.EXECUTION_FAILED, error)

    def _fail(self, job_id: JobId, event: ProviderEvent, error: ExecutionError) -> list[ProviderEffect]:
        job = self._jobs.get(job_id)
        if job is None:
            return []
        job.machine.local(event)
        code = FailureCode[error.code] if error.code in FailureCode.__members__ else FailureCode.MODEL
        detail = error.message[: limits.DETAIL_CHARS_MAX]
        # The client may read the detail; our own list of jobs keeps the code alone, since a name in the detail may come
        # out of the sealed input.
        return [Send(Failure(job_id, code, detail)), *self._close(job_id, error.code)]

    def output_sent(self, job_id: JobId, output_hash: bytes, *, unix_ms: int) -> list[ProviderEffect]:
        """The final piece of output is given to the network: the price is earned."""
        job = self._jobs.get(job_id)
        if job is None:
            return []
        job.machine.local(ProviderEvent.OUTPUT_SENT)
        body = ReceiptBody(
            provider=self._desk.identity.peer_id,
            client=self.client,
            job_id=job_id,
            model_id=job.quote.model_id,
            tier=job.quote.tier,
            quote_hash=job.quote_hash,
            price=job.price,
            items=job.items,
            input_hash=job.input_hash,
            output_hash=output_hash,
            queue_us=job.queue_us,
            execute_us=job.execute_us,
            finished_at_ms=unix_ms,
        )
        raw = body.encode()
        receipt = Receipt(job_id, raw, self._desk.identity.sign(RECEIPT_DOMAIN, raw), b"")
        self._await_signature(receipt)
        return [Earn(job_id, receipt, body), Send(receipt), *self._close(job_id, None)]

    def lost(self, error: str) -> list[ProviderEffect]:
        """The stream ended: whatever is unfinished earns nothing."""
        effects: list[ProviderEffect] = []
        for job_id, job in list(self._jobs.items()):
            job.machine.local(ProviderEvent.LOST)
            effects += self._close(job_id, error)
        return effects

    def shut_down(self) -> list[ProviderEffect]:
        """This node stops: jobs that are not done yet are told so."""
        effects: list[ProviderEffect] = []
        for job_id, job in list(self._jobs.items()):
            effects.append(Send(Failure(job_id, FailureCode.SHUTTING_DOWN, "this provider is shutting down")))
            job.machine.local(ProviderEvent.LOST)
            effects += self._close(job_id, "shut down")
        return effects

    # --- time ---

    def handle_timer(self, now: float) -> list[ProviderEffect]:
        effects: list[ProviderEffect] = []
        for job_id, job in list(self._jobs.items()):
            if job.deadline > now:
                continue
            state = job.machine.state
            job.machine.local(ProviderEvent.EXPIRED)
            if state is not ProviderState.QUOTED:
                detail = f"the time for this job ran out while it was {state.value}"
                effects.append(Send(Failure(job_id, FailureCode.DEADLINE, detail)))
            effects += self._close(job_id, "deadline")
        return effects

    # --- endings ---

    def _close(self, job_id: JobId, error: str | None) -> list[ProviderEffect]:
        job = self._jobs.pop(job_id)
        accepted = job.header is not None
        if job.holds_slot:
            self._desk.end(job.quote.model_id, job.quote.items, job.quote.input_bytes)
        closed = Closed(job_id, job.quote.model_id, self.client, job.quote.tier, job.quote.items, error)
        return [ReleasePayment(job_id), closed] if accepted and error is not None else [closed]

    def _await_signature(self, receipt: Receipt) -> None:
        self._unsigned[receipt.job_id] = receipt.body
        if len(self._unsigned) > limits.JOBS_PER_PEER_MAX:
            self._unsigned.popitem(last=False)  # it stays on disk, and is sent again at the next session
