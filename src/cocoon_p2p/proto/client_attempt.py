"""job/1, the client's end: what is known of one job at one provider, and the ways in which it ends early (`proto.job_client`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from cocoon_p2p import limits
from cocoon_p2p.errors import CocoonError, RemoteProtocolError, TransportError
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.policy.reputation import fault_of_code
from cocoon_p2p.proto.job_answers import JobTerms, Owed
from cocoon_p2p.proto.job_effects import ClientEffect, EndReservation, Finished, Penalise, Send
from cocoon_p2p.proto.job_states import CLIENT_TRANSITIONS, ClientEvent, ClientState, Machine
from cocoon_p2p.proto.stream_client import ClientStream
from cocoon_p2p.proto.stream_provider import first_amount
from cocoon_p2p.sealing.envelope import RequestSecrets, SealedRequest
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.wire.job import Cancel, OutputHead, QuoteBody, Receipt, ReceiptBody
from cocoon_p2p.wire.seal import SealKeyRecord

NOTHING_SENT = (ClientState.ASKING, ClientState.QUOTED)
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


class ClientAttempt:
    """What `ClientJob` and its answers in frames share."""

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
        self._frame_at = 0.0
        """When the last frame came, or the provider could go on again."""
        self._silence_s = limits.PROGRESS_SILENCE_S
        self.head: OutputHead | None = None
        self.stream: ClientStream | None = None
        """Of an answer in frames, once it was paid for."""
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
    def is_stream(self) -> bool:
        """Whether its answer comes in frames."""
        return self.terms.instalment > 0

    @property
    def first_total(self) -> int:
        """Nanogram that the payment of `accept` is to cover, once the job is quoted."""
        assert self.quote is not None, "a payment before a quote"
        return first_amount(self.quote, self.terms.first_paid)

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
        """What its receipt must agree with; None while its whole output is not here, or nothing of an answer in frames was
        acknowledged."""
        if self.quote is not None and self.stream is not None and self.stream.marks:
            return Owed(self.quote, self._quote_hash, self._input_hash, b"", self.stream.marks)
        if self.quote is None or not self._output_hash:
            return None
        return Owed(self.quote, self._quote_hash, self._input_hash, self._output_hash)

    def next_deadline(self) -> float | None:
        state = self._machine.state
        if state in (ClientState.DONE, ClientState.FAILED):
            return None
        if state in NOTHING_SENT:
            return self._deadline
        return min(self._deadline, self._heard + self._silence_limit_s(), self._frame_by())

    def transcript(self) -> Transcript | None:
        """Of a job that is done; else None."""
        if self.receipt is None or self.head is None or self._request is None:
            return None
        return Transcript(self._header, self._request.secrets, bytes(self.head.response_header), self.receipt)

    # --- endings that come from here ---

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

    # --- time ---

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
        if self.state in NOTHING_SENT:
            return []
        limit_s = self._silence_limit_s()
        # as next_deadline: a rounding apart, and the timer would fire for ever
        late_s = now - min(self._heard + limit_s, self._frame_by())
        stalled = self._frame_by() < self._heard + limit_s
        if late_s < 0:
            return []
        if line_busy and limit_s < limits.OUTPUT_SILENCE_S:
            self._silence_s = limits.OUTPUT_SILENCE_S
            return []
        if late_s > _ASLEEP_S:
            self._heard = self._frame_at = now
            return []
        # SPEC job/1 §3.13
        silence = "sent no more of the answer" if stalled else f"went silent for {limit_s:g} s"
        return self._give_up(
            f"provider {self.provider} {silence} (this client was {self.state.value})",
            code="SILENT",
            hint="ask again: another provider may do it",
        )

    def _frame_by(self) -> float:
        """When the next frame is due at the latest, of an answer that is paid for."""
        if self.stream is None or self.state is not ClientState.STREAMING:
            return inf
        if self.stream.stopping:
            return self._frame_at + limits.GENERATION_STOP_GRACE_S
        return self._frame_at + limits.STREAM_STALL_S if self.stream.frames else inf

    def _silence_limit_s(self) -> float:
        quiet = self._machine.state in (ClientState.WAITING, ClientState.STREAMING)
        return self._silence_s if quiet else limits.OUTPUT_SILENCE_S

    def _give_up(self, message: str, *, code: str, hint: str) -> list[ClientEffect]:
        known = self.state in NOTHING_SENT
        error = TransportError(message, outcome_known=known, code=code, hint=hint)
        return [*self._tell_cancel(), *self._fail(ClientEvent.DEADLINE, error)]

    def _tell_cancel(self) -> list[ClientEffect]:
        """Nothing to tell where nothing was asked; nothing to take back where the whole output is here."""
        unasked = self.firm and self.state is ClientState.ASKING
        # SPEC job/1 §3.9
        return [] if unasked or self.state is ClientState.RECEIVED else [Send(Cancel(job_id=self.job_id))]

    def _fail(self, event: ClientEvent, error: CocoonError) -> list[ClientEffect]:
        # Once the accept was sent the provider may have worked, and earned, whatever we know of it.
        outcome_known = self.state in NOTHING_SENT
        self._machine.local(event)
        return [EndReservation(outcome_known), Finished(error)] if self._paid_up_front else [Finished(error)]
