"""job/1: what the machines of a job want done. The drivers carry these out, in order, and decide nothing."""

from __future__ import annotations

from dataclasses import dataclass

from cocoon_p2p.errors import CocoonError
from cocoon_p2p.generation import Piece
from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.policy.reputation import Fault
from cocoon_p2p.proto.job_answers import Owed
from cocoon_p2p.sealing.envelope import ChunkOpener, ChunkSealer
from cocoon_p2p.wire.job import JobMessage, Quote, Receipt, ReceiptBody


@dataclass(frozen=True, slots=True)
class Send:
    message: JobMessage


@dataclass(frozen=True, slots=True)
class Penalise:
    """The peer broke a rule: it loses standing."""

    fault: Fault


# --- the client's ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quoted:
    """The provider answered with a firm price."""

    quote: Quote


@dataclass(frozen=True, slots=True)
class SendInput:
    """Seal the input piece by piece and send it as INPUT messages; then call `input_sent`, with SHA-256 of `header`, the
    envelope's, and all ciphertext behind it."""

    sealer: ChunkSealer
    header: bytes


@dataclass(frozen=True, slots=True)
class BeginOutput:
    """Make room for an output of `payload_bytes`, to be filled through `opener`. `header` is the response's: the hash that
    `output_complete` is called with begins with it."""

    opener: ChunkOpener
    payload_bytes: int
    header: bytes


@dataclass(frozen=True, slots=True)
class WriteOutput:
    ciphertext: bytes | bytearray | memoryview
    final: bool


@dataclass(frozen=True, slots=True)
class MarkPaid:
    """The receipt is verified: keep it, and count its price as spent."""

    receipt: Receipt
    body: ReceiptBody


@dataclass(frozen=True, slots=True)
class EndReservation:
    """No receipt came. `outcome_known` is False when the provider may have earned the payment; `payment_refused` is True
    when it said that our payment does not reach, `job_failed` when it took the job and failed it."""

    outcome_known: bool
    payment_refused: bool = False
    job_failed: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """The job is over; `error` is None when output and receipt are complete."""

    error: CocoonError | None


@dataclass(frozen=True, slots=True)
class StreamBegun:
    """The answer will come in frames."""

    prompt_items: int
    queue_us: int


@dataclass(frozen=True, slots=True)
class Received:
    """A piece of the answer, the next one: hand it to who asked."""

    piece: Piece
    items: int
    """Worked on until now, those of the prompt among them."""


@dataclass(frozen=True, slots=True)
class ReserveMore:
    """Raise what is set aside for the job to `total` nanogram; then call `more_reserved` or `more_failed`."""

    total: int


@dataclass(frozen=True, slots=True)
class KeepMarks:
    """Write to disk what is about to be acknowledged, in place of what was kept of this job before: a receipt about it is owed
    whatever happens here."""

    owed: Owed


ClientEffect = (
    Send
    | Penalise
    | Quoted
    | SendInput
    | BeginOutput
    | WriteOutput
    | StreamBegun
    | Received
    | ReserveMore
    | KeepMarks
    | MarkPaid
    | EndReservation
    | Finished
)

# --- the provider's -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TakePayment:
    """Verify the payment and write it to disk; then call `payment_taken` or `payment_refused`."""

    job_id: JobId
    payment: bytes
    max_total: int


@dataclass(frozen=True, slots=True)
class BeginInput:
    """Make room for an input of `payload_bytes`, to be filled through `opener`. The input's hash begins with `header`."""

    job_id: JobId
    opener: ChunkOpener
    payload_bytes: int
    header: bytes


@dataclass(frozen=True, slots=True)
class WriteInput:
    """Open a piece of input into its place; after the final one call `input_complete`, on a fault `input_bad`."""

    job_id: JobId
    ciphertext: bytes | bytearray | memoryview
    final: bool


@dataclass(frozen=True, slots=True)
class Execute:
    """Run the model on the complete input; then call `executed` or `execution_failed`."""

    job_id: JobId
    model_id: ModelId
    items_max: int


@dataclass(frozen=True, slots=True)
class SendOutput:
    """Send OUTPUT messages sealed by `sealer`; then call `output_sent`. The output's hash begins with `header`."""

    job_id: JobId
    sealer: ChunkSealer
    header: bytes


@dataclass(frozen=True, slots=True)
class Generate:
    """Begin an answer in frames on the complete input; then call `stream_begun`, and `produced` with each piece, or
    `execution_failed`. `items_allowed`: as in `execution.port.TokenStream.allow`."""

    job_id: JobId
    model_id: ModelId
    items_max: int
    items_allowed: int


@dataclass(frozen=True, slots=True)
class Allow:
    """Let the answer go on to so many items in all."""

    job_id: JobId
    items: int


@dataclass(frozen=True, slots=True)
class EndWork:
    """The client wants no more: let the model come to an end, which gives a final piece."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class TakeMore:
    """Verify the further payment and write it to disk; then call `more_taken` with `paid`, or `more_refused`, or `more_bad`."""

    job_id: JobId
    payment: bytes
    total: int
    """Nanogram that is reserved with it in all."""
    paid: int
    """Items that it covers in all."""


@dataclass(frozen=True, slots=True)
class KeepReceipt:
    """The client acknowledged so much of the answer, which is owed whatever happens now: write the receipt to disk, in place
    of an earlier one of the job. It is not sent, and nothing is booked as earned, before `Earn`."""

    job_id: JobId
    receipt: Receipt
    body: ReceiptBody


@dataclass(frozen=True, slots=True)
class Earn:
    """The output is out: write the receipt and the earning to disk before the receipt is sent. Of an answer in frames it may be
    the receipt that was kept last."""

    job_id: JobId
    receipt: Receipt
    body: ReceiptBody


@dataclass(frozen=True, slots=True)
class GiveBack:
    """The client cancels a job that goes on nowhere on this stream. End it where it still goes on; take back what was earned
    with it, unless the client has signed its receipt; then call `not_earned`. But a receipt for frames is about what the client
    has acknowledged: it is not taken back, and `resend_receipts` is called with it."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class KeepSignature:
    """The client signed the receipt too."""

    job_id: JobId
    client_signature: bytes


@dataclass(frozen=True, slots=True)
class ReleasePayment:
    """The job earned nothing: its reservation ends."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class Closed:
    """Free what the job holds (input, execution). `client` and the rest are for the list of jobs."""

    job_id: JobId
    model_id: ModelId
    client: PeerId
    tier: Tier
    items: int
    error: str | None
    """None when it was done."""
    wasted: int = 0
    """Nanogram that the work would have cost which the client let be done, and left; of work without a price 1. 0: nothing was."""
    earned: bool = False
    """An answer in frames of which a part is owed, however it ended: `Earn` came before."""


ProviderEffect = (
    Send
    | Penalise
    | TakePayment
    | BeginInput
    | WriteInput
    | Execute
    | SendOutput
    | Generate
    | Allow
    | EndWork
    | TakeMore
    | KeepReceipt
    | Earn
    | GiveBack
    | KeepSignature
    | ReleasePayment
    | Closed
)
