"""job/1, the client's end of one attempt: ask one provider, and, if its quote is chosen, carry the job through.

Call order: `start`; then `handle_message` for what the provider sends. After the effect `Quoted` the owner may call
`accept` (with a payment) or `cancel`. Or, where the provider's announced price is taken as a firm offer: `offer` in place of
`start`, and `accept` at once. The driver answers `SendInput` with `input_sent` and the final `WriteOutput` with
`output_complete` or `output_bad`; it calls `heard` for each message, before `handle_message`. `handle_timer` at
`next_deadline`. Every job ends with exactly one `Finished`.

Who owes what, and what the provider is told. A job is owed when its whole output is here, and not before (job/1 §3.7, §3.9):

| ends in …                   | by …                             | CANCEL | the reservation                                     |
| --------------------------- | -------------------------------- | ------ | --------------------------------------------------- |
| asking, quoted              | anything                         | yes ¹  | there is none; one made meanwhile is released       |
| sending, waiting, receiving | REFUSAL, FAILURE                 | no     | released: nothing was earned                        |
| sending, waiting, receiving | cancel, deadline, silence, fault | yes    | unknown; FAILURE(CANCELLED) releases it             |
| sending, waiting, receiving | stream lost                      | no ²   | unknown; on the next stream CANCEL asks             |
| received                    | RECEIPT                          | no     | paid, and acknowledged                              |
| received                    | cancel, deadline, silence, lost  | no     | unknown, and owed: the RECEIPT that is sent (again) |
|                             |                                  |        | is paid and acknowledged                            |
| received                    | a RECEIPT that is wrong          | yes    | unknown; FAILURE(CANCELLED) releases it             |

| RECEIPT for a job that is over | answer      | the reservation                                                       |
| ------------------------------ | ----------- | --------------------------------------------------------------------- |
| its whole output was here      | RECEIPT_ACK | paid; paying again what was paid changes nothing                      |
| it was not                     | CANCEL      | stays unknown until FAILURE(CANCELLED) releases it; it is never paid  |

¹ Where anything was sent. ² Its stream is gone. The second table is `drivers.job_outcomes`'.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cocoon_p2p import limits
from cocoon_p2p.errors import (
    CocoonError,
    ExecutionError,
    PeerRefused,
    RefusalReason,
    RemoteProtocolError,
    TransportError,
)
from cocoon_p2p.ids import JobId, PeerId, Tier
from cocoon_p2p.policy.reputation import fault_of_code
from cocoon_p2p.proto.announced_price import AnnouncedPrice, announced_terms
from cocoon_p2p.proto.job_answers import (
    JobTerms,
    Owed,
    check_quote,
    check_receipt,
    check_refusal,
    check_stray_receipt,
    countersign,
    read_receipt,
    verified_seal_key,
)
from cocoon_p2p.proto.job_effects import (
    BeginOutput,
    ClientEffect,
    EndReservation,
    Finished,
    MarkPaid,
    Penalise,
    Quoted,
    Send,
    SendInput,
    WriteOutput,
)
from cocoon_p2p.proto.job_states import CLIENT_TRANSITIONS, STREAM_FAULTS, ClientEvent, ClientState, Machine
from cocoon_p2p.sealing.envelope import RequestSecrets, SealedRequest, plain_request, seal_request
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.wire.job import (
    Accept,
    Ask,
    Cancel,
    Failure,
    FailureCode,
    JobMessage,
    Output,
    OutputHead,
    Progress,
    Quote,
    QuoteBody,
    Receipt,
    ReceiptAck,
    ReceiptBody,
    Refusal,
    Submit,
    quote_hash,
)
from cocoon_p2p.wire.seal import (
    NO_COMMITMENT,
    NO_KEY_ID,
    SUITE_PLAIN,
    SUITE_XWING,
    EnvelopeHeader,
    SealKeyRecord,
    decode_response_header,
)

__all__ = ["AnnouncedPrice", "ClientJob", "JobTerms", "Transcript", "check_stray_receipt"]

_RETRYABLE_FAILURES = {
    FailureCode.WORKER,
    FailureCode.LIMITS,
    FailureCode.SHUTTING_DOWN,
    FailureCode.BUSY,
    FailureCode.DEADLINE,
    FailureCode.PAYMENT,
    FailureCode.MODEL,
    FailureCode.ENVELOPE,
    FailureCode.IDLE_POLICY,
}
"""What another provider may do better; a wrong input stays wrong everywhere."""
_NOTHING_SENT = (ClientState.ASKING, ClientState.QUOTED)
"""Nothing that a provider could earn anything with."""
_ASLEEP_S = 1.0
"""Whoever finds a silence so much later than it was due was not listening itself: a suspended laptop, a busy machine. What
came meanwhile is read first."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """What shows input and output of one finished job to others, if its client wants to (evidence/1). Never logged."""

    envelope_header: bytes
    secrets: RequestSecrets | None = field(repr=False)
    """None for tier open."""
    response_header: bytes
    receipt: Receipt


class ClientJob:
    """One job at one provider."""

    def __init__(self, identity: IdentityKey, provider: PeerId, job_id: JobId, terms: JobTerms, *, deadline: float):
        self._identity = identity
        self.provider = provider
        self.job_id = job_id
        self.terms = terms
        self._deadline = deadline
        self._machine = Machine(CLIENT_TRANSITIONS, ClientState.ASKING)
        self.quote: QuoteBody | None = None
        self._quote_hash = b""
        self.seal_key: SealKeyRecord | None = None
        """Verified; None before a quote, and for tier open."""
        self._offered = b""
        """The terms that SUBMIT will carry; empty where a quote was asked for."""
        self._header = b""
        self._request: SealedRequest | None = None
        self._input_hash = b""
        self._output_hash = b""
        self._paid_up_front = False
        self._heard = 0.0
        self._silence_s = limits.PROGRESS_SILENCE_S
        self.head: OutputHead | None = None
        self.receipt: Receipt | None = None
        self.receipt_body: ReceiptBody | None = None

    # --- getters ---

    @property
    def state(self) -> ClientState:
        return self._machine.state

    @property
    def over(self) -> bool:
        return self._machine.state in (ClientState.DONE, ClientState.FAILED)

    @property
    def firm(self) -> bool:
        """Whether it takes an announced price, so that nobody was asked."""
        return bool(self._offered)

    @property
    def moves_bulk(self) -> bool:
        """Whether so much of it is on its way that short messages of other jobs may be late."""
        if self.state is ClientState.SENDING:
            return self.terms.payload_bytes > limits.FIRM_INPUT_BYTES_MAX
        return (
            self.state is ClientState.RECEIVING
            and self.head is not None
            and self.head.payload_bytes > limits.FIRM_INPUT_BYTES_MAX
        )

    @property
    def owed(self) -> Owed | None:
        """What its receipt must agree with; None while its whole output is not here."""
        if self.quote is None or not self._output_hash:
            return None
        return Owed(self.quote, self._quote_hash, self._input_hash, self._output_hash)

    def next_deadline(self) -> float | None:
        state = self._machine.state
        if state in (ClientState.DONE, ClientState.FAILED):
            return None
        if state in _NOTHING_SENT:
            return self._deadline
        return min(self._deadline, self._heard + self._silence_limit_s())

    def transcript(self) -> Transcript | None:
        """Of a job that is done; else None."""
        if self.receipt is None or self.head is None or self._request is None:
            return None
        return Transcript(self._header, self._request.secrets, bytes(self.head.response_header), self.receipt)

    # --- commands ---

    def start(self, now: float) -> list[ClientEffect]:
        terms = self.terms
        ask = Ask(
            job_id=self.job_id,
            model_id=terms.model_id,
            tier=terms.tier,
            items=terms.items,
            input_bytes=terms.payload_bytes,
            max_total=terms.max_total or 0,
            timeout_ms=self._timeout_ms(now),
            settlement_network=terms.settlement_network,
        )
        return [Send(ask)]

    def offer(self, announced: AnnouncedPrice, seal_key: SealKeyRecord | None) -> None:
        """In place of `start` and a quote: the provider's announced price is one. Nothing is sent before `accept`.
        `seal_key` is its verified, current key; None for tier open."""
        self.quote = announced_terms(self._identity.peer_id, self.provider, self.job_id, self.terms, announced)
        self._offered = self.quote.encode()
        self._quote_hash = quote_hash(self._offered)
        self.seal_key = seal_key

    def accept(self, payment: bytes, *, now: float, unix_ms: int) -> list[ClientEffect]:
        """The quote is chosen and `payment` is on disk: send it with the sealed input."""
        assert self.quote is not None, "accept before a quote"
        self._paid_up_front = True
        if self.over:
            return [EndReservation(outcome_known=True)]  # the stream broke while the payment was made
        try:
            request = self._sealed_request(self.quote, unix_ms)
        except RemoteProtocolError as error:
            return self.fault(error)
        self._request = request
        self._heard = now
        message: Accept | Submit
        if self._offered:
            self._machine.local(ClientEvent.SUBMIT_SENT)
            message = Submit(self.job_id, self._offered, self._timeout_ms(now), payment, self._header, request.box)
        else:
            self._machine.local(ClientEvent.ACCEPT_SENT)
            message = Accept(self.job_id, self._quote_hash, payment, self._header, request.box)
        return [Send(message), SendInput(request.sealer, self._header)]

    def input_sent(self, input_hash: bytes) -> list[ClientEffect]:
        """The last piece of input is sealed and about to go out; `input_hash` is that of `SendInput`. To be called
        before that piece is given to the network, since the provider may answer before the sending task runs again."""
        if self.over:
            return []
        self._machine.local(ClientEvent.INPUT_SENT)
        self._input_hash = input_hash
        return []

    def output_complete(self, output_hash: bytes) -> list[ClientEffect]:
        """The final piece of output is authenticated; `output_hash` is that of `BeginOutput`. The job is owed now."""
        if self.over:
            return []
        self._machine.local(ClientEvent.OUTPUT_COMPLETE)
        self._output_hash = output_hash
        return []

    def output_bad(self, error: RemoteProtocolError) -> list[ClientEffect]:
        """A piece of output did not open."""
        return self.fault(error)

    def fault(self, error: RemoteProtocolError) -> list[ClientEffect]:
        """The provider broke a rule of this job."""
        if self.over:
            return []
        self._output_hash = b""  # what comes with a receipt that cannot be signed is not paid
        return [Penalise(fault_of_code(error.code)), Send(Cancel(self.job_id)), *self._fail(ClientEvent.LOST, error)]

    def cancel(self, reason: str = "cancelled") -> list[ClientEffect]:
        """Stop wherever it is; the provider is told, unless the whole output is here."""
        if self.over:
            return []
        error = CocoonError(f"the job was {reason}", code="CANCELLED")
        return [*self._tell_cancel(), *self._fail(ClientEvent.CANCEL, error)]

    def lost(self, error: CocoonError) -> list[ClientEffect]:
        """The stream to the provider broke."""
        if self.over:
            return []
        return self._fail(ClientEvent.LOST, error)

    # --- input from outside ---

    def heard(self, now: float) -> None:
        """A message of this job came: the provider is at it."""
        self._heard = now

    def handle_timer(self, now: float, *, line_busy: bool = False) -> list[ClientEffect]:
        """`line_busy`: other jobs move so much over the same line that short messages may be late."""
        if self.over:
            return []
        if now >= self._deadline:
            return self._give_up(
                f"provider {self.provider} did not finish within {self.terms.timeout_s:g} s "
                f"(this client was {self.state.value})",
                code="TIMEOUT",
                hint="allow more time with --timeout, or choose another provider",
            )
        if self.state in _NOTHING_SENT:
            return []
        limit_s = self._silence_limit_s()
        late_s = now - (self._heard + limit_s)  # as next_deadline: a rounding apart, and the timer would fire for ever
        if late_s < 0:
            return []
        if line_busy and limit_s < limits.OUTPUT_SILENCE_S:
            self._silence_s = limits.OUTPUT_SILENCE_S
            return []
        if late_s > _ASLEEP_S:
            self._heard = now
            return []
        # SPEC job/1 §3.13
        return self._give_up(
            f"provider {self.provider} went silent for {limit_s:g} s (this client was {self.state.value})",
            code="SILENT",
            hint="ask again: another provider may do it",
        )

    def handle_message(self, message: JobMessage, *, unix_ms: int) -> list[ClientEffect]:
        """A message of this job. Raises RemoteProtocolError with one of STREAM_FAULTS; other faults end this job."""
        if self.over:
            return []  # what was under way when we cancelled
        try:
            return self._handle(message, unix_ms)
        except RemoteProtocolError as error:
            if error.code in STREAM_FAULTS:
                raise
            return self.fault(error)

    def _handle(self, message: JobMessage, unix_ms: int) -> list[ClientEffect]:
        match message:
            case Quote():
                return self._on_quote(message, unix_ms)
            case Refusal():
                return self._on_refusal(message)
            case Failure():
                return self._on_failure(message)
            case OutputHead():
                return self._on_output_head(message)
            case Output():
                self._machine.remote(ClientEvent.OUTPUT)
                return [WriteOutput(message.ciphertext, message.final)]
            case Receipt():
                return self._on_receipt(message)
            case Progress():
                self._machine.remote(ClientEvent.PROGRESS)
                return []
            case _:
                raise RemoteProtocolError(f"a provider does not send {type(message).__name__}", code="UNEXPECTED")

    # --- messages ---

    def _on_quote(self, message: Quote, unix_ms: int) -> list[ClientEffect]:
        self._machine.remote(ClientEvent.QUOTE)
        quote = check_quote(message, self.terms, self.job_id, client=self._identity.peer_id, provider=self.provider)
        self.seal_key = self._read_seal_key(quote, unix_ms)
        self.quote = quote
        self._quote_hash = quote_hash(message.body)
        return [Quoted(message)]

    def _read_seal_key(self, quote: QuoteBody, unix_ms: int) -> SealKeyRecord | None:
        """The provider's signed seal key; None for tier `open`. Raises RemoteProtocolError."""
        if self.terms.tier is Tier.OPEN:
            return None
        record = verified_seal_key(self.provider, quote.seal_key_record)
        record.require_current(self.provider, unix_ms)
        return record

    def _on_refusal(self, message: Refusal) -> list[ClientEffect]:
        self._machine.expect(ClientEvent.REFUSAL)
        refusal = check_refusal(message, self.job_id, client=self._identity.peer_id, provider=self.provider)
        self._machine.remote(ClientEvent.REFUSAL)
        error = PeerRefused(
            refusal.reason, refusal.detail, needed=refusal.needed, signed=(bytes(message.body), message.signature)
        )
        if not self._paid_up_front:
            return [Finished(error)]
        return [EndReservation(True, payment_refused=refusal.reason is RefusalReason.PAYMENT), Finished(error)]

    def _on_failure(self, message: Failure) -> list[ClientEffect]:
        self._machine.remote(ClientEvent.FAILURE)
        retryable = message.code in _RETRYABLE_FAILURES
        error = ExecutionError(message.detail, code=message.code.name, retryable=retryable)
        return [EndReservation(True, job_failed=True), Finished(error)] if self._paid_up_front else [Finished(error)]

    def _on_output_head(self, message: OutputHead) -> list[ClientEffect]:
        self._machine.remote(ClientEvent.OUTPUT_HEAD)
        if message.payload_bytes > limits.JOB_BYTES_MAX:
            raise RemoteProtocolError(f"an output of {message.payload_bytes} bytes is over the bound", code="BOUND")
        # SPEC seal/1 §5.1
        if decode_response_header(message.response_header).job_id != self.job_id:
            raise RemoteProtocolError("the response is for another job", code="ENVELOPE")
        assert self._request is not None
        self.head = message
        opener = self._request.response_opener(message.response_header)
        return [BeginOutput(opener, message.payload_bytes, message.response_header)]

    def _on_receipt(self, message: Receipt) -> list[ClientEffect]:
        self._machine.expect(ClientEvent.RECEIPT)
        body = read_receipt(self.provider, message)
        owed = self.owed
        assert owed is not None
        check_receipt(body, owed)
        self._machine.remote(ClientEvent.RECEIPT)
        self.receipt = countersign(self._identity, message)
        self.receipt_body = body
        ack = ReceiptAck(job_id=self.job_id, client_signature=self.receipt.client_signature)
        return [MarkPaid(self.receipt, body), Send(ack), Finished(None)]

    # --- the envelope ---

    def _timeout_ms(self, now: float) -> int:
        return max(1, int((self._deadline - now) * 1000))

    def _sealed_request(self, quote: QuoteBody, unix_ms: int) -> SealedRequest:
        """New secrets each time. Raises RemoteProtocolError(code="ENVELOPE") for a seal key that is none."""
        secrets = None if self.seal_key is None else RequestSecrets.draw()
        self._header = self._envelope_header(quote, secrets, unix_ms).encode()
        if self.seal_key is None or secrets is None:
            return plain_request(self._header)
        return seal_request(self.seal_key.public_key, self._header, secrets)

    def _envelope_header(self, quote: QuoteBody, secrets: RequestSecrets | None, unix_ms: int) -> EnvelopeHeader:
        lifetime_ms = int(min(self.terms.timeout_s + limits.QUOTE_LIFETIME_S, limits.ENVELOPE_LIFETIME_MAX_S) * 1000)
        return EnvelopeHeader(
            suite=SUITE_PLAIN if self.seal_key is None else SUITE_XWING,
            key_id=NO_KEY_ID if self.seal_key is None else self.seal_key.key_id,
            job_id=self.job_id,
            model_id=quote.model_id,
            provider=self.provider,
            max_total=quote.max_total,
            expires_at_ms=unix_ms + lifetime_ms,
            payload_bytes=quote.input_bytes,
            items=quote.items,
            commitment=NO_COMMITMENT if secrets is None else secrets.commitment,
        )

    # --- endings ---

    def _silence_limit_s(self) -> float:
        return self._silence_s if self._machine.state is ClientState.WAITING else limits.OUTPUT_SILENCE_S

    def _give_up(self, message: str, *, code: str, hint: str) -> list[ClientEffect]:
        known = self.state in _NOTHING_SENT
        error = TransportError(message, outcome_known=known, code=code, hint=hint)
        return [*self._tell_cancel(), *self._fail(ClientEvent.DEADLINE, error)]

    def _tell_cancel(self) -> list[ClientEffect]:
        """Nothing to tell where nothing was asked; nothing to take back where the whole output is here."""
        unasked = self.firm and self.state is ClientState.ASKING
        # SPEC job/1 §3.9
        return [] if unasked or self.state is ClientState.RECEIVED else [Send(Cancel(job_id=self.job_id))]

    def _fail(self, event: ClientEvent, error: CocoonError) -> list[ClientEffect]:
        # Once the accept was sent the provider may have worked, and earned, whatever we know of it.
        outcome_known = self.state in _NOTHING_SENT
        self._machine.local(event)
        return [EndReservation(outcome_known), Finished(error)] if self._paid_up_front else [Finished(error)]
