"""job/1, the provider's end: all jobs of one client, on one stream.

Call order: `handle_message` for what the client sends; the driver answers `TakePayment` with `payment_taken` or
`payment_refused`, the final `WriteInput` with `input_complete` (or any with `input_bad`), `Execute` with `executed` or
`execution_failed`, `SendOutput` with `output_sent`, `GiveBack` with `not_earned`. Of an answer in frames it answers `Generate` with
`stream_begun`, `produced` for each piece, or `execution_failed`; `TakeMore` with `more_taken`, `more_refused` or `more_bad`. `handle_timer` at `next_deadline`. `lost`
when the stream ends.
Answers for a job that ended meanwhile are ignored. Messages that break the protocol raise RemoteProtocolError: the
session is then over.
"""

from __future__ import annotations

from math import inf

from cocoon_p2p import limits
from cocoon_p2p.errors import ExecutionError, RefusalReason, RemoteProtocolError
from cocoon_p2p.ids import JobId
from cocoon_p2p.policy.admission import Refused
from cocoon_p2p.policy.late_cancels import CANCELLED_LATE, UNPAID_LATE
from cocoon_p2p.policy.reputation import fault_of_code
from cocoon_p2p.proto.firm_offers import read_terms
from cocoon_p2p.proto.job_effects import (
    BeginInput,
    Earn,
    Execute,
    Generate,
    GiveBack,
    KeepSignature,
    Penalise,
    ProviderEffect,
    ReleasePayment,
    Send,
    SendOutput,
    TakePayment,
    WriteInput,
)
from cocoon_p2p.proto.job_states import PROVIDER_TRANSITIONS, STREAM_FAULTS, Machine, ProviderEvent, ProviderState
from cocoon_p2p.proto.provider_answers import sign_quote
from cocoon_p2p.proto.provider_job import PROGRESS_STATES, ProviderJob, check_header, open_box
from cocoon_p2p.proto.provider_streams import StreamAnswers
from cocoon_p2p.proto.stream_provider import ProviderStream, check_first_paid, first_amount
from cocoon_p2p.sealing.signing import verify_signature
from cocoon_p2p.wire.job import (
    RECEIPT_DOMAIN,
    Accept,
    Ask,
    Cancel,
    Failure,
    FailureCode,
    Input,
    JobMessage,
    OutputHead,
    Pay,
    Phase,
    Progress,
    QuoteBody,
    Receipt,
    ReceiptAck,
    Stop,
    Submit,
    decode_receipt_body,
    quote_hash,
)
from cocoon_p2p.wire.seal import RESPONSE_NONCE_BYTES, SUITE_XWING, EnvelopeHeader, ResponseHeader


class ProviderSession(StreamAnswers):
    """The jobs of one client. `entropy` draws so many random bytes, for the nonces of responses."""

    # --- messages ---

    def handle_message(self, message: JobMessage, *, now: float, unix_ms: int) -> list[ProviderEffect]:
        """Raises RemoteProtocolError with one of STREAM_FAULTS; any other fault ends the one job that it is in."""
        try:
            return self._handle(message, now, unix_ms)
        except RemoteProtocolError as error:
            if error.code in STREAM_FAULTS:
                raise
            return self._fault(message.job_id, error, submitted=isinstance(message, Submit))

    def _handle(self, message: JobMessage, now: float, unix_ms: int) -> list[ProviderEffect]:
        match message:
            case Ask():
                return self._on_ask(message, now, unix_ms)
            case Accept():
                return self._on_accept(message, now, unix_ms)
            case Submit():
                return self._on_submit(message, now, unix_ms)
            case Input():
                return self._on_input(message, now)
            case Cancel():
                return self._on_cancel(message)
            case ReceiptAck():
                return self._on_receipt_ack(message)
            case Pay():
                return self._on_pay(message, now, unix_ms)
            case Stop():
                return self._on_stop(message)
            case _:
                raise RemoteProtocolError(f"a client does not send {type(message).__name__}", code="UNEXPECTED")

    def _on_ask(self, ask: Ask, now: float, unix_ms: int) -> list[ProviderEffect]:
        # SPEC job/1 §3.3
        self._check_new(ask)
        self._count_answer(now)
        decision = (
            _too_short(ask.input_bytes)
            or self._elsewhere(ask.job_id)
            or self._desk.decide(
                ask, client=self.client, jobs_of_client=self._desk.clients.count(self.client), unix_ms=unix_ms
            )
        )
        if isinstance(decision, Refused):
            return [self._refuse(ask.job_id, ask.model_id, decision, unix_ms)]
        body, quote = sign_quote(self._desk, self.client, ask, decision, unix_ms)
        self._add(ProviderState.QUOTED, body, quote.body, ask.timeout_ms, now).deadline = now + limits.QUOTE_LIFETIME_S
        return [Send(quote)]

    def _on_submit(self, submit: Submit, now: float, unix_ms: int) -> list[ProviderEffect]:
        # SPEC job/1 §3.12
        self._check_new(submit)
        self._count_answer(now)
        job_id = submit.job_id
        terms = read_terms(submit.terms, provider=self._desk.identity.peer_id, client=self.client, job_id=job_id)
        check_first_paid(terms, submit.paid)
        header = check_header(submit.envelope_header, terms, unix_ms)
        refused = (
            _too_short(terms.input_bytes)
            or self._elsewhere(job_id)
            or self._desk.decide_firm(
                terms, client=self.client, jobs_of_client=self._desk.clients.count(self.client), unix_ms=unix_ms
            )
        )
        sealed = header.suite == SUITE_XWING
        if refused is None and sealed and self._desk.seal_keys.find(header.key_id, unix_ms) is None:
            # An honest client's clock may be behind ours: it is told, and loses no standing.
            refused = Refused(RefusalReason.QUOTE_EXPIRED, "this seal key is not in use any more; ask for a quote")
        if refused is not None:
            return [self._refuse(job_id, terms.model_id, refused, unix_ms)]
        return self._take(
            self._add(ProviderState.PAYING, terms, submit.terms, submit.timeout_ms, now), submit, header, now
        )

    def _check_new(self, message: Ask | Submit) -> None:
        if message.job_id in self._jobs or self._desk.is_done(self.client, message.job_id):
            name = type(message).__name__.upper()
            raise RemoteProtocolError(f"{name} for a job id that is in use", code="UNEXPECTED")

    def _elsewhere(self, job_id: JobId) -> Refused | None:
        """Two streams may carry questions about one id, and then only one of them the job: it is paid for once."""
        # SPEC job/1 §2
        if not self._desk.clients.is_accepted(self.client, job_id):
            return None
        return Refused(RefusalReason.BUSY, "this job goes on on another stream of this client")

    def _count_answer(self, now: float) -> None:
        """A client may have so many answers signed of which no job comes. Raises RemoteProtocolError(code="FLOOD")."""
        if not self._desk.answers.take(self.client, now):
            raise RemoteProtocolError("this client asks without end, and gives no jobs", code="FLOOD")

    def _add(self, state: ProviderState, terms: QuoteBody, raw: bytes, timeout_ms: int, now: float) -> ProviderJob:
        job = self._jobs[terms.job_id] = ProviderJob(
            machine=Machine(PROVIDER_TRANSITIONS, state),
            quote=terms,
            quote_hash=quote_hash(raw),
            deadline=now + limits.JOB_INPUT_IDLE_TIMEOUT_S,
            job_deadline=now + min(timeout_ms / 1000, limits.JOB_TIMEOUT_MAX_S),
        )
        self._desk.clients.opened(self.client)
        return job

    def _on_accept(self, accept: Accept, now: float, unix_ms: int) -> list[ProviderEffect]:
        job = self._jobs.get(accept.job_id)
        if job is None:
            # Expired, or never quoted: a late client is told so, and loses no standing.
            self._count_answer(now)
            detail = "there is no quote for this job: it expired, or was never given; ask again"
            return [self._refuse(accept.job_id, None, Refused(RefusalReason.QUOTE_EXPIRED, detail), unix_ms)]
        job.machine.expect(ProviderEvent.ACCEPT)
        refused = self._desk.rests or self._elsewhere(accept.job_id)
        if refused is not None:
            job.machine.local(ProviderEvent.REFUSED)
            refusal = self._refuse(accept.job_id, job.quote.model_id, refused, unix_ms)
            return [refusal, *self._close(accept.job_id, refused.detail)]
        job.machine.remote(ProviderEvent.ACCEPT)
        if accept.quote_hash != job.quote_hash:
            raise RemoteProtocolError("ACCEPT names another quote than was given", code="QUOTE")
        check_first_paid(job.quote, accept.paid)
        return self._take(job, accept, check_header(accept.envelope_header, job.quote, unix_ms), now)

    def _take(
        self, job: ProviderJob, taken: Accept | Submit, header: EnvelopeHeader, now: float
    ) -> list[ProviderEffect]:
        job.taken = taken
        job.header = header
        job.deadline = now + limits.JOB_INPUT_IDLE_TIMEOUT_S
        job.progress_at = now + limits.PROGRESS_INTERVAL_S
        if job.quote.instalment:
            job.stream = ProviderStream(job.quote, taken.paid)
        self._desk.begin(job.quote.model_id, job.queued_items, job.quote.input_bytes)
        self._desk.clients.accepted(self.client, taken.job_id)
        job.holds_slot = True
        return [TakePayment(taken.job_id, taken.payment, first_amount(job.quote, taken.paid))]

    def _on_input(self, message: Input, now: float) -> list[ProviderEffect]:
        job = self._jobs.get(message.job_id)
        if job is None:
            return []  # under way when the job ended
        job.machine.remote(ProviderEvent.INPUT)
        job.deadline = now + limits.JOB_INPUT_IDLE_TIMEOUT_S
        return [WriteInput(message.job_id, message.ciphertext, message.final)]

    def _on_cancel(self, message: Cancel) -> list[ProviderEffect]:
        # SPEC job/1 §3.9
        job = self._jobs.get(message.job_id)
        if job is None:
            sent = self._unsigned.get(message.job_id)
            if sent is not None and decode_receipt_body(sent).frames:
                return []  # what was acknowledged stays owed, and the answer, its receipt, is under way
            self._unsigned.pop(message.job_id, None)
            return [GiveBack(message.job_id)]
        wasted = job.wasted
        job.machine.remote(ProviderEvent.CANCEL)
        # so that the client knows that nothing was earned
        answer: list[ProviderEffect] = []
        if job.receipt is None:
            answer.append(Send(Failure(message.job_id, FailureCode.CANCELLED, "cancelled by the client")))
        error = CANCELLED_LATE if wasted else "cancelled by the client"
        return [*answer, *self._close(message.job_id, error, wasted=wasted)]

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
        """The answer to GiveBack: there is no receipt (any more), and the job goes on nowhere."""
        return [Send(Failure(job_id, FailureCode.CANCELLED, "nothing was earned with this job"))]

    def resend_receipts(self, receipts: list[Receipt]) -> list[ProviderEffect]:
        """At the start of a session, and when these are settled: receipts of earlier jobs that this client has not signed."""
        # SPEC job/1 §3.8
        effects: list[ProviderEffect] = []
        for receipt in receipts[: limits.RECEIPTS_RESENT_MAX]:
            if receipt.job_id in self._unsigned:
                continue  # it is on its way on this stream
            self._await_signature(receipt)
            effects.append(Send(receipt))
        return effects

    def payment_taken(self, job_id: JobId, *, unix_ms: int) -> list[ProviderEffect]:
        job = self._jobs.get(job_id)
        if job is None:
            return [ReleasePayment(job_id)]
        job.machine.local(ProviderEvent.PAYMENT_TAKEN)
        assert job.taken is not None
        assert job.header is not None
        taken, job.taken = job.taken, None
        try:
            job.opened = open_box(taken, job.header, self._desk.seal_keys, unix_ms)
        except RemoteProtocolError as error:
            return self.input_bad(job_id, error)
        return [BeginInput(job_id, job.opened.opener, job.quote.input_bytes, taken.envelope_header)]

    def payment_refused(self, job_id: JobId, detail: str, needed: int | None, *, unix_ms: int) -> list[ProviderEffect]:
        """The credit does not cover the job: an honest "no"."""
        job = self._jobs.get(job_id)
        if job is None:
            return []
        job.machine.local(ProviderEvent.PAYMENT_REFUSED)
        refused = Refused(RefusalReason.PAYMENT, detail[: limits.DETAIL_CHARS_MAX], needed)
        return [self._refuse(job_id, job.quote.model_id, refused, unix_ms), *self._close(job_id, detail)]

    def payment_bad(self, job_id: JobId, error: RemoteProtocolError, *, unix_ms: int) -> list[ProviderEffect]:
        """The payment is none, or not this channel's: a fault."""
        refused = self.payment_refused(job_id, error.message, None, unix_ms=unix_ms)
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
        self._desk.answers.give_back(self.client)
        if job.stream is not None:
            return [Generate(job_id, job.quote.model_id, job.quote.items, job.stream.allowed)]
        self._desk.work_begins(self.client, job_id, job.quote.model_id, job.quote.items)
        return [Execute(job_id, job.quote.model_id, job.quote.items)]

    def input_bad(self, job_id: JobId, error: RemoteProtocolError) -> list[ProviderEffect]:
        """The box or a chunk did not open: this job ends, the session and the job id live."""
        return self._fault(job_id, error) if job_id in self._jobs else []

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
        job.worked(items=items, queue_us=queue_us, execute_us=execute_us)
        self._desk.work_ended(self.client, job_id, job.quote.model_id)
        header = ResponseHeader(job_id=job_id, nonce=self._entropy(RESPONSE_NONCE_BYTES)).encode()
        head = OutputHead(
            job_id=job_id,
            response_header=header,
            payload_bytes=payload_bytes,
            queue_us=queue_us,
            execute_us=execute_us,
        )
        # From here on only a broken stream ends the job early; a slow reader is the stream's concern.
        job.deadline = job.progress_at = inf
        return [Send(head), SendOutput(job_id, job.opened.response_sealer(header), header)]

    def execution_failed(self, job_id: JobId, error: ExecutionError) -> list[ProviderEffect]:
        return self._fail(job_id, ProviderEvent.EXECUTION_FAILED, error)

    def output_sent(self, job_id: JobId, output_hash: bytes, *, unix_ms: int) -> list[ProviderEffect]:
        """The final piece of output is given to the network: the price is earned."""
        job = self._jobs.get(job_id)
        if job is None:
            return []
        job.machine.local(ProviderEvent.OUTPUT_SENT)
        body = job.receipt_body(output_hash, unix_ms)
        raw = body.encode()
        receipt = Receipt(job_id, raw, self._desk.identity.sign(RECEIPT_DOMAIN, raw), b"")
        self._await_signature(receipt)
        return [Earn(job_id, receipt, body), Send(receipt), *self._close(job_id, None)]

    # --- time ---

    def handle_timer(self, now: float) -> list[ProviderEffect]:
        effects: list[ProviderEffect] = []
        for job_id, job in list(self._jobs.items()):
            state = job.machine.state
            if job.deadline <= now:
                # what was sent and not acknowledged: of what was not, nobody knows whose fault it is that it took so long
                wasted = job.wasted if job.stream is not None and job.stream.items else 0
                job.machine.local(ProviderEvent.EXPIRED)
                if state is not ProviderState.QUOTED:
                    detail = f"the time for this job ran out while it was {state.value}"
                    effects.append(Send(Failure(job_id, FailureCode.DEADLINE, detail)))
                effects += self._close(job_id, "deadline", wasted=wasted)
            elif job.unpaid_at <= now:
                # SPEC job/1 §3.16
                wasted = job.wasted
                job.machine.local(ProviderEvent.EXPIRED)
                detail = f"no PAY came for {limits.STREAM_UNPAID_S:g} s"
                effects.append(Send(Failure(job_id, FailureCode.PAYMENT, detail)))
                effects += self._close(job_id, UNPAID_LATE if wasted else detail, wasted=wasted)
            elif job.progress_at <= now and state in PROGRESS_STATES:
                # SPEC job/1 §3.13
                job.progress_at = now + limits.PROGRESS_INTERVAL_S
                at = self._desk.progress(self.client, job_id, job.quote.model_id)
                if state is ProviderState.STREAMING:
                    at = Phase.RUNNING, None
                effects.append(Send(Progress(job_id, *at)))
        return effects


def _too_short(input_bytes: int) -> Refused | None:
    if input_bytes >= limits.PAYLOAD_ALIGNMENT:
        return None
    return Refused(
        RefusalReason.LIMITS, f"a payload has at least {limits.PAYLOAD_ALIGNMENT} bytes", limits.PAYLOAD_ALIGNMENT
    )
