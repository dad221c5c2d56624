"""job/1, the client's end of one attempt: ask one provider, and, if its quote is chosen, carry the job through.

Call order: `start`; then `handle_message` for what the provider sends. After the effect `Quoted` the owner may call
`accept` (with a payment) or `cancel`. The driver answers `SendInput` with `input_sent` and the final `WriteOutput` with
`output_complete` or `output_bad`. `handle_timer` at `next_deadline`. Every job ends with exactly one `Finished`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cocoon_p2p import limits
from cocoon_p2p.errors import (
    CocoonError,
    ExecutionError,
    PeerRefused,
    RefusalReason,
    RemoteProtocolError,
    TransportError,
)
from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.policy.reputation import fault_of_code
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
from cocoon_p2p.sealing.envelope import SealedRequest, plain_request, seal_request
from cocoon_p2p.sealing.signing import IdentityKey, verify_signature
from cocoon_p2p.wire.job import (
    QUOTE_DOMAIN,
    RECEIPT_DOMAIN,
    Accept,
    Ask,
    Cancel,
    Failure,
    FailureCode,
    JobMessage,
    Output,
    OutputHead,
    Quote,
    QuoteBody,
    Receipt,
    ReceiptAck,
    ReceiptBody,
    Refusal,
    decode_quote_body,
    decode_receipt_body,
    quote_hash,
    quoted_total,
)
from cocoon_p2p.wire.seal import (
    NO_KEY_ID,
    SEAL_KEY_DOMAIN,
    SUITE_PLAIN,
    SUITE_XWING,
    EnvelopeHeader,
    SealKeyRecord,
    decode_response_header,
    decode_seal_key_record,
    decode_signed_seal_key_record,
)

_SEAL_KEYS_REMEMBERED_MAX = 256
"""Of one provider each, at about 3 KB."""
_RETRYABLE_FAILURES = {
    FailureCode.WORKER,
    FailureCode.LIMITS,
    FailureCode.SHUTTING_DOWN,
    FailureCode.BUSY,
    FailureCode.DEADLINE,
    FailureCode.PAYMENT,
    FailureCode.MODEL,
    FailureCode.ENVELOPE,
}
"""What another provider may do better; a wrong input stays wrong everywhere."""


@dataclass(frozen=True, slots=True)
class JobTerms:
    """What the client wants; the same for every provider it asks."""

    model_id: ModelId
    tier: Tier
    items: int
    payload_bytes: int
    max_total: int | None
    """nanogram; None for no limit."""
    timeout_s: float
    settlement_network: int


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
        self._seal_key: SealKeyRecord | None = None
        self._request: SealedRequest | None = None
        self._input_hash = b""
        self._output_hash = b""
        self._paid_up_front = False
        self.head: OutputHead | None = None
        self.receipt: Receipt | None = None
        self.receipt_body: ReceiptBody | None = None

    # --- getters ---

    @property
    def state(self) -> ClientState:
        return self._machine.state

    @property
    def over(self) -> bool:
        return self.state in (ClientState.DONE, ClientState.FAILED)

    def next_deadline(self) -> float | None:
        return None if self.over else self._deadline

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
            timeout_ms=max(1, int((self._deadline - now) * 1000)),
            settlement_network=terms.settlement_network,
        )
        return [Send(ask)]

    def accept(self, payment: bytes, *, unix_ms: int) -> list[ClientEffect]:
        """The quote is chosen and `payment` is on disk: send it with the sealed input."""
        assert self.quote is not None, "accept before a quote"
        self._machine.local(ClientEvent.ACCEPT_SENT)
        self._paid_up_front = True
        header = self._envelope_header(self.quote, unix_ms).encode()
        if self._seal_key is not None:
            self._request = seal_request(self._seal_key.public_key, header)
        else:
            self._request = plain_request(header)
        message = Accept(
            job_id=self.job_id,
            quote_hash=self._quote_hash,
            payment=payment,
            envelope_header=header,
            box=self._request.box,
        )
        return [Send(message), SendInput(self._request.sealer)]

    def input_sent(self, input_hash: bytes) -> list[ClientEffect]:
        """The last piece of input is sealed and about to go out; `input_hash` is SHA-256 of all ciphertext. To be called
        before that piece is given to the network, since the provider may answer before the sending task runs again."""
        if self.over:
            return []
        self._machine.local(ClientEvent.INPUT_SENT)
        self._input_hash = input_hash
        return []

    def output_complete(self, output_hash: bytes) -> list[ClientEffect]:
        """The final piece of output is authenticated; `output_hash` is SHA-256 of all ciphertext."""
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
        return [Penalise(fault_of_code(error.code)), *self._tell_cancel(), *self._fail(ClientEvent.LOST, error)]

    def cancel(self, reason: str = "cancelled") -> list[ClientEffect]:
        """Stop wherever it is; the provider is told."""
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

    def handle_timer(self, now: float) -> list[ClientEffect]:
        if self.over or now < self._deadline:
            return []
        error = TransportError(
            f"provider {self.provider} did not finish within {self.terms.timeout_s:g} s (the job was {self.state.value})",
            outcome_known=not self._paid_up_front,
            code="TIMEOUT",
            hint="allow more time with --timeout, or choose another provider",
        )
        return [*self._tell_cancel(), *self._fail(ClientEvent.DEADLINE, error)]

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
                self._machine.remote(ClientEvent.REFUSAL)
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
            case _:
                raise RemoteProtocolError(f"a provider does not send {type(message).__name__}", code="UNEXPECTED")

    # --- messages ---

    def _on_quote(self, message: Quote, unix_ms: int) -> list[ClientEffect]:
        self._machine.remote(ClientEvent.QUOTE)
        # SPEC job/1 §3.4
        if not verify_signature(self.provider, QUOTE_DOMAIN, message.body, message.signature):
            raise RemoteProtocolError("the quote's signature is not the provider's", code="SIGNATURE")
        quote = decode_quote_body(message.body)
        self._check_quote(quote)
        self.quote = quote
        self._quote_hash = quote_hash(message.body)
        self._seal_key = self._read_seal_key(quote, unix_ms)
        return [Quoted(message)]

    def _check_quote(self, quote: QuoteBody) -> None:
        terms = self.terms
        asked = (self.provider, self._identity.peer_id, self.job_id, terms.model_id, terms.tier, terms.items)
        quoted = (quote.provider, quote.client, quote.job_id, quote.model_id, quote.tier, quote.items)
        if asked != quoted or quote.input_bytes != terms.payload_bytes:
            raise RemoteProtocolError("the quote is for another job than was asked for", code="QUOTE")
        if quote.settlement_network != terms.settlement_network:
            raise RemoteProtocolError("the quote wants payment on another network", code="QUOTE")
        if quote.max_total != quoted_total(quote.price_base, quote.price_per_item, quote.items):
            raise RemoteProtocolError("the quote's total is not what its prices add up to", code="QUOTE")
        if terms.max_total is not None and quote.max_total > terms.max_total:
            raise RemoteProtocolError("the quote is above the limit that the client stated", code="QUOTE")

    def _read_seal_key(self, quote: QuoteBody, unix_ms: int) -> SealKeyRecord | None:
        """The provider's signed seal key; None for tier `open`. Raises RemoteProtocolError."""
        if self.terms.tier is Tier.OPEN:
            return None
        record = _verified_seal_key(self.provider, quote.seal_key_record)
        record.require_current(self.provider, unix_ms)
        return record

    def _on_refusal(self, message: Refusal) -> list[ClientEffect]:
        error = PeerRefused(message.reason, message.detail, needed=message.needed)
        if not self._paid_up_front:
            return [Finished(error)]
        return [EndReservation(True, payment_refused=message.reason is RefusalReason.PAYMENT), Finished(error)]

    def _on_failure(self, message: Failure) -> list[ClientEffect]:
        self._machine.remote(ClientEvent.FAILURE)
        retryable = message.code in _RETRYABLE_FAILURES
        error = ExecutionError(message.detail, code=message.code.name, retryable=retryable)
        return self._finish_failed(error, outcome_known=True)

    def _on_output_head(self, message: OutputHead) -> list[ClientEffect]:
        self._machine.remote(ClientEvent.OUTPUT_HEAD)
        if message.payload_bytes > limits.JOB_BYTES_MAX:
            raise RemoteProtocolError(f"an output of {message.payload_bytes} bytes is over the bound", code="BOUND")
        # SPEC seal/1 §5.1
        if decode_response_header(message.response_header).job_id != self.job_id:
            raise RemoteProtocolError("the response is for another job", code="ENVELOPE")
        assert self._request is not None
        self.head = message
        return [BeginOutput(self._request.response_opener(message.response_header), message.payload_bytes)]

    def _on_receipt(self, message: Receipt) -> list[ClientEffect]:
        self._machine.expect(ClientEvent.RECEIPT)
        # SPEC job/1 §3.7
        if not verify_signature(self.provider, RECEIPT_DOMAIN, message.body, message.provider_signature):
            raise RemoteProtocolError("the receipt's signature is not the provider's", code="SIGNATURE")
        body = decode_receipt_body(message.body)
        self._check_receipt(body)
        self._machine.remote(ClientEvent.RECEIPT)
        signature = self._identity.sign(RECEIPT_DOMAIN, message.body)
        self.receipt = Receipt(self.job_id, message.body, message.provider_signature, signature)
        self.receipt_body = body
        ack = ReceiptAck(job_id=self.job_id, client_signature=signature)
        return [MarkPaid(self.receipt, body), Send(ack), Finished(None)]

    def _check_receipt(self, body: ReceiptBody) -> None:
        quote = self.quote
        assert quote is not None
        job = (self.provider, self._identity.peer_id, self.job_id, quote.model_id, quote.tier, self._quote_hash)
        if job != (body.provider, body.client, body.job_id, body.model_id, body.tier, body.quote_hash):
            raise RemoteProtocolError("the receipt is for another job", code="RECEIPT")
        if body.items > quote.items or body.price != quoted_total(quote.price_base, quote.price_per_item, body.items):
            raise RemoteProtocolError("the receipt's price is not the quoted one", code="RECEIPT")
        if (body.input_hash, body.output_hash) != (self._input_hash, self._output_hash):
            raise RemoteProtocolError("the receipt is for another input or output than passed", code="RECEIPT")

    # --- endings ---

    def _envelope_header(self, quote: QuoteBody, unix_ms: int) -> EnvelopeHeader:
        lifetime_ms = int(min(self.terms.timeout_s + limits.QUOTE_LIFETIME_S, limits.ENVELOPE_LIFETIME_MAX_S) * 1000)
        return EnvelopeHeader(
            suite=SUITE_PLAIN if self._seal_key is None else SUITE_XWING,
            key_id=NO_KEY_ID if self._seal_key is None else self._seal_key.key_id,
            job_id=self.job_id,
            model_id=quote.model_id,
            provider=self.provider,
            max_total=quote.max_total,
            expires_at_ms=unix_ms + lifetime_ms,
            payload_bytes=quote.input_bytes,
            items=quote.items,
        )

    def _tell_cancel(self) -> list[ClientEffect]:
        return [Send(Cancel(job_id=self.job_id))]

    def _fail(self, event: ClientEvent, error: CocoonError) -> list[ClientEffect]:
        # Once the accept was sent the provider may have worked, and earned, whatever we know of it.
        outcome_known = not self._paid_up_front
        self._machine.local(event)
        return self._finish_failed(error, outcome_known=outcome_known)

    def _finish_failed(self, error: CocoonError, *, outcome_known: bool) -> list[ClientEffect]:
        ended: list[ClientEffect] = [EndReservation(outcome_known)] if self._paid_up_front else []
        return [*ended, Finished(error)]


@lru_cache(_SEAL_KEYS_REMEMBERED_MAX)
def _verified_seal_key(provider: PeerId, encoded: bytes) -> SealKeyRecord:
    """A seal key record, signed by `provider`. Remembered, since every quote of ten minutes brings the same: checking it
    each time was a third of what a quote cost. Its time is checked by the caller. Raises RemoteProtocolError."""
    # SPEC seal/1 §3.3
    signed = decode_signed_seal_key_record(encoded)
    if not verify_signature(provider, SEAL_KEY_DOMAIN, signed.body, signed.signature):
        raise RemoteProtocolError("the seal key's signature is not the provider's", code="SIGNATURE")
    return decode_seal_key_record(signed.body)


def check_stray_receipt(identity: IdentityKey, provider: PeerId, message: Receipt) -> tuple[Receipt, ReceiptBody]:
    """A receipt that a provider sends again, after a break, for a job that is over here: verified and countersigned.
    Whether there was such a job, and for what price at most, the caller knows. Raises RemoteProtocolError."""
    # SPEC job/1 §3.8
    if not verify_signature(provider, RECEIPT_DOMAIN, message.body, message.provider_signature):
        raise RemoteProtocolError("the receipt's signature is not the provider's", code="SIGNATURE")
    body = decode_receipt_body(message.body)
    if (body.provider, body.client, body.job_id) != (provider, identity.peer_id, message.job_id):
        raise RemoteProtocolError("the receipt is for another job", code="RECEIPT")
    signature = identity.sign(RECEIPT_DOMAIN, message.body)
    return Receipt(message.job_id, message.body, message.provider_signature, signature), body
