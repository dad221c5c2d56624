"""job/1: what the machines of a job want done. The drivers carry these out, in order, and decide nothing."""

from __future__ import annotations

from dataclasses import dataclass

from cocoon_p2p.errors import CocoonError
from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.policy.reputation import Fault
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


ClientEffect = Send | Penalise | Quoted | SendInput | BeginOutput | WriteOutput | MarkPaid | EndReservation | Finished

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
class Earn:
    """The output is out: write the receipt and the earning to disk before the receipt is sent."""

    job_id: JobId
    receipt: Receipt
    body: ReceiptBody


@dataclass(frozen=True, slots=True)
class GiveBack:
    """The client cancels a job that goes on nowhere on this stream. End it where it still goes on; take back what was earned
    with it, unless the client has signed its receipt; then call `not_earned`."""

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
    late: bool = False
    """The client cancelled it after the work was done."""


ProviderEffect = (
    Send
    | Penalise
    | TakePayment
    | BeginInput
    | WriteInput
    | Execute
    | SendOutput
    | Earn
    | GiveBack
    | KeepSignature
    | ReleasePayment
    | Closed
)
