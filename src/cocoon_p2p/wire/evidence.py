"""evidence/1: a signed accusation that anybody can check: this provider gave this answer to this input
(protocols/evidence/1/spec.md). `proto.evidence` checks it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.limits import EVIDENCE_BYTES_MAX, HEADER_BYTES_MAX
from cocoon_p2p.wire import codec
from cocoon_p2p.wire.codec import Bytes

EVIDENCE_DOMAIN = b"cocoon-p2p/evidence/1"
"""Signature domain of an accusation's body."""
TOLERANCE_MAX = 1_000_000
"""Millionths: an answer that is off by its own size agrees with anything."""
_SECRET_BYTES = 32


class EvidenceKind(IntEnum):
    """How the accuser knows the right answer. The numbers are on the wire and never change."""

    OWN_RUN = 1
    """It ran the model itself."""
    QUORUM = 2
    """Most of several providers gave that answer."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the accuser signs. It holds the job's input and its secrets: for canaries, or for jobs whose owner gives up
    their secrecy for this."""

    accuser: PeerId
    """The job's client."""
    made_at_ms: int
    model_id: ModelId
    kind: EvidenceKind
    tolerance: int
    """Millionths, relative: answers that differ by more do not agree."""
    receipt_body: bytes
    """An encoded ReceiptBody (job/1 §3.7)."""
    provider_signature: bytes
    """The provider's, of the receipt."""
    envelope_header: bytes
    response_header: bytes
    payload_secret: bytes = field(repr=False)
    """32 bytes; empty for tier open, as the next."""
    response_secret: bytes = field(repr=False)
    input: bytes = field(repr=False)
    """Payload container, as it was sealed; the next two, too."""
    output: bytes = field(repr=False)
    """What the provider answered."""
    expected: bytes = field(repr=False)
    """What the accuser holds for right."""

    def encode(self) -> bytes:
        return codec.pack(
            [
                1,
                codec.peer_bytes(self.accuser),
                self.made_at_ms,
                codec.model_bytes(self.model_id),
                int(self.kind),
                self.tolerance,
                self.receipt_body,
                self.provider_signature,
                self.envelope_header,
                self.response_header,
                self.payload_secret,
                self.response_secret,
                self.input,
                self.output,
                self.expected,
            ]
        )


@dataclass(frozen=True, slots=True)
class SignedEvidence:
    """The exact bytes that were signed, and the signature (domain EVIDENCE_DOMAIN, key of `evidence.accuser`).

    Making one parses the body, once: RemoteProtocolError when it is none. The signature is the caller's to check."""

    body: bytes = field(repr=False)
    signature: bytes
    evidence: Evidence = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "evidence", decode_evidence(self.body))

    def encode(self) -> bytes:
        return codec.pack([1, self.body, self.signature])

    @classmethod
    def decode(cls, data: Bytes) -> SignedEvidence:
        """Raises RemoteProtocolError."""
        # SPEC evidence/1 §2.1
        fields = codec.unpack_tagged(data, 1, 3, "signed evidence", bytes_max=EVIDENCE_BYTES_MAX)
        return cls(
            codec.blob(fields[1], "evidence", EVIDENCE_BYTES_MAX),
            codec.fixed(fields[2], "signature", codec.SIGNATURE_BYTES),
        )


def decode_evidence(body: Bytes) -> Evidence:
    """An accusation's signed body. Raises RemoteProtocolError."""
    # SPEC evidence/1 §2.2
    fields = codec.unpack_tagged(body, 1, 15, "evidence", bytes_max=EVIDENCE_BYTES_MAX)
    return Evidence(
        accuser=codec.peer_id(fields[1], "accuser"),
        made_at_ms=codec.time_ms(fields[2], "made_at_ms"),
        model_id=codec.model_id(fields[3]),
        kind=EvidenceKind(codec.uint(fields[4], "kind", EvidenceKind.QUORUM, EvidenceKind.OWN_RUN)),
        tolerance=codec.uint(fields[5], "tolerance", TOLERANCE_MAX),
        receipt_body=codec.blob(fields[6], "receipt body", HEADER_BYTES_MAX),
        provider_signature=codec.fixed(fields[7], "provider's signature", codec.SIGNATURE_BYTES),
        envelope_header=codec.blob(fields[8], "envelope header", HEADER_BYTES_MAX),
        response_header=codec.blob(fields[9], "response header", HEADER_BYTES_MAX),
        payload_secret=codec.fixed_or_empty(fields[10], "payload secret", _SECRET_BYTES),
        response_secret=codec.fixed_or_empty(fields[11], "response secret", _SECRET_BYTES),
        input=codec.blob(fields[12], "input", EVIDENCE_BYTES_MAX),
        output=codec.blob(fields[13], "output", EVIDENCE_BYTES_MAX),
        expected=codec.blob(fields[14], "expected", EVIDENCE_BYTES_MAX),
    )
