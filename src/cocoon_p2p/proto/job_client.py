"""job/1, the client's end of one attempt: ask one provider, and, if its quote is chosen, carry the job through.

Call order: `start`; then `handle_message` for what the provider sends. After the effect `Quoted` the owner may call
`accept` (with a payment) or `cancel`. Or, where the provider's announced price is taken as a firm offer: `offer` in place of
`start`, and `accept` at once. The driver answers `SendInput` with `input_sent` and the final `WriteOutput` with
`output_complete` or `output_bad`; it calls `heard` for each message, before `handle_message`. `handle_timer` at
`next_deadline`. Every job ends with exactly one `Finished`. Of an answer in frames the driver answers `ReserveMore` with
`more_reserved` or `more_failed`, and hands on what `Received` brings; `stop` ends it in order.

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

Of an answer in frames (`proto.stream_client`), what was acknowledged is owed, and nothing else (job/1 §3.8, §3.16):

| ends in …            | by …                                      | CANCEL | the reservation                                           |
| -------------------- | ----------------------------------------- | ------ | --------------------------------------------------------- |
| streaming            | FAILURE, and nothing was acknowledged     | no     | released                                                  |
| streaming            | FAILURE                                   | yes    | unknown: the RECEIPT behind it is paid and acknowledged;  |
| streaming            | cancel, deadline, silence, fault          | yes    | FAILURE(CANCELLED) releases it, where the provider never  |
| streaming            | stream lost                               | no ²   | got what was acknowledged                                 |
| received             | as above; FAILURE                         | yes    | likewise                                                  |

¹ Where anything was sent. ² Its stream is gone. The second table is `drivers.job_outcomes`'.
"""

from __future__ import annotations

from cocoon_p2p import limits
from cocoon_p2p.errors import ExecutionError, PeerRefused, RefusalReason, RemoteProtocolError
from cocoon_p2p.ids import Tier
from cocoon_p2p.proto.announced_price import AnnouncedPrice, announced_terms
from cocoon_p2p.proto.client_attempt import Transcript
from cocoon_p2p.proto.client_envelope import make_envelope
from cocoon_p2p.proto.client_streams import StreamedJob
from cocoon_p2p.proto.job_answers import (
    JobTerms,
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
    Quoted,
    Send,
    SendInput,
    WriteOutput,
)
from cocoon_p2p.proto.job_states import STREAM_FAULTS, ClientEvent, ClientState
from cocoon_p2p.proto.stream_client import ClientStream
from cocoon_p2p.wire.job import (
    Accept,
    Ask,
    Cancel,
    Failure,
    FailureCode,
    Frame,
    JobMessage,
    Output,
    OutputHead,
    Progress,
    Quote,
    QuoteBody,
    Receipt,
    ReceiptAck,
    Refusal,
    StreamHead,
    Submit,
    quote_hash,
)
from cocoon_p2p.wire.seal import SealKeyRecord

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


class ClientJob(StreamedJob):
    """One job at one provider."""

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
            instalment=terms.instalment,
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
            self._header, request = make_envelope(
                self.quote, self.seal_key, timeout_s=self.terms.timeout_s, unix_ms=unix_ms
            )
        except RemoteProtocolError as error:
            return self.fault(error)
        self._request = request
        paid = self.terms.first_paid
        if self.is_stream:
            self.stream = ClientStream(self.quote, paid)
        self._heard = now
        message: Accept | Submit
        if self._offered:
            self._machine.local(ClientEvent.SUBMIT_SENT)
            message = Submit(
                self.job_id, self._offered, self._timeout_ms(now), payment, self._header, request.box, paid
            )
        else:
            self._machine.local(ClientEvent.ACCEPT_SENT)
            message = Accept(self.job_id, self._quote_hash, payment, self._header, request.box, paid)
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

    # --- input from outside ---

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
            case StreamHead():
                return self._on_stream_head(message)
            case Frame():
                return self._on_frame(message)
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
        if self.is_stream and self.state is ClientState.RECEIVED:
            self._machine.local(ClientEvent.LOST)  # it was given up before our last PAY came
        else:
            self._machine.remote(ClientEvent.FAILURE)
        retryable = message.code in _RETRYABLE_FAILURES
        error = ExecutionError(message.detail, code=message.code.name, retryable=retryable)
        if self.stream is not None and self.stream.marks:
            # SPEC job/1 §3.9
            return [Send(Cancel(self.job_id)), EndReservation(outcome_known=False), Finished(error)]
        return [EndReservation(True, job_failed=True), Finished(error)] if self._paid_up_front else [Finished(error)]

    def _on_output_head(self, message: OutputHead) -> list[ClientEffect]:
        self._machine.remote(ClientEvent.OUTPUT_HEAD)
        if self.is_stream:
            raise RemoteProtocolError("OUTPUT_HEAD for an answer that was to come in frames", code="UNEXPECTED")
        if message.payload_bytes > limits.JOB_BYTES_MAX:
            raise RemoteProtocolError(f"an output of {message.payload_bytes} bytes is over the bound", code="BOUND")
        self._check_response(message.response_header)
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

    def _timeout_ms(self, now: float) -> int:
        return max(1, int((self._deadline - now) * 1000))
