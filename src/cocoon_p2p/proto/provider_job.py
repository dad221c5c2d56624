"""One job at the provider's end of job/1: what is known of it, and the checks that need nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from cocoon_p2p import limits
from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import Tier
from cocoon_p2p.proto.job_states import Machine, ProviderEvent, ProviderState
from cocoon_p2p.proto.stream_provider import ProviderStream
from cocoon_p2p.sealing.envelope import OpenedRequest, plain_opened
from cocoon_p2p.sealing.seal_keys import SealKeyRing
from cocoon_p2p.wire.job import Accept, QuoteBody, Receipt, ReceiptBody, Submit, quoted_total
from cocoon_p2p.wire.seal import NO_COMMITMENT, SUITE_PLAIN, SUITE_XWING, EnvelopeHeader, decode_envelope_header

PROGRESS_STATES = frozenset(
    {ProviderState.PAYING, ProviderState.RECEIVING, ProviderState.EXECUTING, ProviderState.STREAMING}
)
STREAM_STATES = frozenset({ProviderState.STREAMING, ProviderState.ENDING})


@dataclass(slots=True)
class ProviderJob:
    """Times are those of the driver's clock, seconds."""

    machine: Machine[ProviderState, ProviderEvent]
    quote: QuoteBody
    """What was quoted, or the terms that the client submitted."""
    quote_hash: bytes
    deadline: float
    """When the present state ends at the latest."""
    job_deadline: float
    """When the client has no more use for the answer."""
    progress_at: float = inf
    """When the client is to hear next that it goes on."""
    taken: Accept | Submit | None = None
    """Until its box is opened."""
    header: EnvelopeHeader | None = None
    opened: OpenedRequest | None = None
    input_hash: bytes = b""
    stream: ProviderStream | None = None
    """Of an answer in frames."""
    price: int = 0
    items: int = 0
    queue_us: int = 0
    execute_us: int = 0
    holds_slot: bool = False

    @property
    def queued_items(self) -> int:
        """How much it makes those behind it wait: answers in frames are made beside each other."""
        return 0 if self.quote.instalment else self.quote.items

    @property
    def unpaid_at(self) -> float:
        """When a client that owes us a word about an answer in frames has been waited for long enough."""
        unpaid = None if self.stream is None else self.stream.next_deadline()
        return inf if unpaid is None else unpaid

    @property
    def receipt(self) -> tuple[Receipt, ReceiptBody] | None:
        """Over what the client acknowledged last of an answer in frames."""
        return None if self.stream is None else self.stream.receipt

    @property
    def wasted(self) -> int:
        """Nanogram that the work would cost which was done for nothing, if the client left now; at least 1 where any was."""
        # SPEC job/1 §3.9
        if self.stream is not None:
            return self.stream.wasted
        return max(1, self.price) if self.machine.state is ProviderState.RETURNING else 0

    def next_deadline(self) -> float:
        return min(self.deadline, self.progress_at, self.unpaid_at)

    def worked(self, *, items: int, queue_us: int, execute_us: int) -> None:
        """The work is done, and what it costs is known."""
        self.items, self.queue_us, self.execute_us = max(1, items), queue_us, execute_us
        self.price = quoted_total(self.quote.price_base, self.quote.price_per_item, self.items)

    def receipt_body(self, output_hash: bytes, finished_at_ms: int, *, frames: int = 0) -> ReceiptBody:
        # SPEC job/1 §3.7
        return ReceiptBody(
            provider=self.quote.provider,
            client=self.quote.client,
            job_id=self.quote.job_id,
            model_id=self.quote.model_id,
            tier=self.quote.tier,
            quote_hash=self.quote_hash,
            price=self.price,
            items=self.items,
            input_hash=self.input_hash,
            output_hash=output_hash,
            queue_us=self.queue_us,
            execute_us=self.execute_us,
            finished_at_ms=finished_at_ms,
            frames=frames,
        )

    def acknowledged_body(self, finished_at_ms: int) -> ReceiptBody:
        """Of an answer in frames, as far as the client has acknowledged it."""
        assert self.stream is not None
        acked = self.stream.acked
        self.worked(items=acked.items, queue_us=self.stream.queue_us, execute_us=self.stream.execute_us)
        return self.receipt_body(acked.output_hash, finished_at_ms, frames=acked.frames)


def check_header(raw: bytes, quote: QuoteBody, unix_ms: int) -> EnvelopeHeader:
    """The envelope's header, which must be of the job on these terms. Raises RemoteProtocolError: ENVELOPE, EXPIRED."""
    # SPEC seal/1 §4.3
    header = decode_envelope_header(raw)
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


def open_box(taken: Accept | Submit, header: EnvelopeHeader, keys: SealKeyRing, unix_ms: int) -> OpenedRequest:
    """Raises RemoteProtocolError(code="ENVELOPE")."""
    if header.suite == SUITE_PLAIN:
        if header.commitment != NO_COMMITMENT:
            raise RemoteProtocolError("an envelope of tier open commits to secrets", code="ENVELOPE")
        return plain_opened(taken.envelope_header)
    key = keys.find(header.key_id, unix_ms)
    if key is None:
        raise RemoteProtocolError("the envelope is sealed to a key that is not in use", code="ENVELOPE")
    opened = key.open_request(taken.envelope_header, taken.box)
    # SPEC seal/1 §4.5
    if opened.commitment != header.commitment:
        raise RemoteProtocolError("the envelope's header commits to other secrets than the box has", code="ENVELOPE")
    return opened
