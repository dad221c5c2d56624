"""Whether an accusation holds together: the provider signed this very answer to this very input
(protocols/evidence/1/spec.md §3). What is left to do is to run the model on the input and compare."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NoReturn

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import Tier
from cocoon_p2p.limits import CHUNK_BYTES, CHUNKS_PER_FRAME_MAX
from cocoon_p2p.sealing.envelope import ChunkSealer, RequestSecrets
from cocoon_p2p.sealing.signing import IdentityKey, verify_signature
from cocoon_p2p.wire.evidence import EVIDENCE_DOMAIN, Evidence, SignedEvidence
from cocoon_p2p.wire.job import RECEIPT_DOMAIN, ReceiptBody, decode_receipt_body
from cocoon_p2p.wire.seal import (
    NO_COMMITMENT,
    SUITE_PLAIN,
    SUITE_XWING,
    EnvelopeHeader,
    decode_envelope_header,
    decode_response_header,
)

EVIDENCE_STEPS = (
    "the accuser signed it",
    "the provider signed the receipt",
    "all parts are of one job: client, provider, model",
    "the secrets are those that the envelope commits to",
    "the provider signed for this input",
    "the provider signed for this output",
)
"""What `check_evidence` finds out, in its order."""
_FRAME_BYTES = CHUNKS_PER_FRAME_MAX * CHUNK_BYTES


def sign_evidence(identity: IdentityKey, evidence: Evidence) -> SignedEvidence:
    """Signed by the accuser, whose key `identity` must be. Raises RemoteProtocolError when it is over a bound."""
    body = evidence.encode()
    return SignedEvidence(body, identity.sign(EVIDENCE_DOMAIN, body))


def check_evidence(signed: SignedEvidence, *, passed: Callable[[str], object] = lambda step: None) -> ReceiptBody:
    """The receipt by which the provider stands for `output`. It does not prove `expected`: run the model for that.
    `passed` is told each of EVIDENCE_STEPS that holds.

    Raises RemoteProtocolError: SIGNATURE where one is not that of the accuser or the provider, EVIDENCE where the parts
    do not belong together or accuse nobody, and what the parts' own decoders raise."""
    # SPEC evidence/1 §3
    evidence = signed.evidence
    if not verify_signature(evidence.accuser, EVIDENCE_DOMAIN, signed.body, signed.signature):
        raise RemoteProtocolError("the evidence is not signed by its accuser", code="SIGNATURE")
    passed(EVIDENCE_STEPS[0])
    receipt = decode_receipt_body(evidence.receipt_body)
    if not verify_signature(receipt.provider, RECEIPT_DOMAIN, evidence.receipt_body, evidence.provider_signature):
        raise RemoteProtocolError("the receipt is not signed by its provider", code="SIGNATURE")
    passed(EVIDENCE_STEPS[1])
    if receipt.frames:
        _fail("the receipt is for an answer in frames, which evidence does not cover")
    header = decode_envelope_header(evidence.envelope_header)
    _check_ids(evidence, receipt, header)
    if evidence.output == evidence.expected:
        _fail("the answer is the expected one")
    passed(EVIDENCE_STEPS[2])
    request, response = _sealers(evidence, receipt, header)
    passed(EVIDENCE_STEPS[3])
    if _hash(evidence.envelope_header, request, evidence.input) != receipt.input_hash:
        _fail("the provider did not sign for this input")
    passed(EVIDENCE_STEPS[4])
    if _hash(evidence.response_header, response, evidence.output) != receipt.output_hash:
        _fail("the provider did not sign for this output")
    passed(EVIDENCE_STEPS[5])
    return receipt


def _check_ids(evidence: Evidence, receipt: ReceiptBody, header: EnvelopeHeader) -> None:
    if receipt.client != evidence.accuser:
        _fail("the receipt is for another client than the accuser")
    if not evidence.model_id == receipt.model_id == header.model_id:
        _fail("the parts name different models")
    response = decode_response_header(evidence.response_header)
    if not receipt.job_id == header.job_id == response.job_id:
        _fail("the parts are of different jobs")
    if header.provider != receipt.provider:
        _fail("the envelope is for another provider than the receipt's")
    if header.payload_bytes != len(evidence.input):
        _fail("the input is not as long as the envelope says")


def _sealers(evidence: Evidence, receipt: ReceiptBody, header: EnvelopeHeader) -> tuple[ChunkSealer, ChunkSealer]:
    """Of the input and of the output, as they were sealed."""
    plain = receipt.tier is Tier.OPEN
    if header.suite != (SUITE_PLAIN if plain else SUITE_XWING):
        _fail("the envelope's suite is not the tier's")
    secrets = RequestSecrets(evidence.payload_secret, evidence.response_secret)
    if plain:
        if secrets.payload or secrets.response or header.commitment != NO_COMMITMENT:
            _fail("secrets in a job of tier open")
        return ChunkSealer(None), ChunkSealer(None)
    if not (secrets.payload and secrets.response) or header.commitment != secrets.commitment:
        _fail("the secrets are not those that the envelope commits to")
    header_bytes = evidence.envelope_header
    return secrets.payload_sealer(header_bytes), secrets.response_sealer(header_bytes, evidence.response_header)


def _hash(header: bytes, sealer: ChunkSealer, payload: bytes) -> bytes:
    """As job/1 §3.7 has it: SHA-256 of the header and all chunks."""
    digest, view = hashlib.sha256(header), memoryview(payload)
    for start in range(0, max(len(view), 1), _FRAME_BYTES):
        piece = view[start : start + _FRAME_BYTES]
        digest.update(sealer.seal(piece, start + _FRAME_BYTES >= len(view)))
    return digest.digest()


def _fail(why: str) -> NoReturn:
    raise RemoteProtocolError(f"evidence: {why}", code="EVIDENCE")
