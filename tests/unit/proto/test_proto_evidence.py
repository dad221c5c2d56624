"""Evidence made with the package's own sealing, as a client makes it. What must be refused: protocols/evidence/1/vectors."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import pytest

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import JobId, ModelId, Tier
from cocoon_p2p.limits import CHUNK_BYTES, CHUNKS_PER_FRAME_MAX
from cocoon_p2p.proto.evidence import check_evidence, sign_evidence
from cocoon_p2p.sealing.envelope import ChunkSealer, RequestSecrets, SealKey, plain_opened, plain_request, seal_request
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.wire.evidence import Evidence, EvidenceKind, SignedEvidence
from cocoon_p2p.wire.job import RECEIPT_DOMAIN, ReceiptBody
from cocoon_p2p.wire.seal import NO_COMMITMENT, NO_KEY_ID, SUITE_PLAIN, SUITE_XWING, EnvelopeHeader, ResponseHeader

CLIENT = IdentityKey.generate()
PROVIDER = IdentityKey.generate()
JOB = JobId(bytes(range(16)))
MODEL = ModelId("ab" * 32)
FRAME_BYTES = CHUNKS_PER_FRAME_MAX * CHUNK_BYTES


def ciphertext(sealer: ChunkSealer, payload: bytes, piece_bytes: int) -> bytes:
    starts = range(0, max(len(payload), 1), piece_bytes)
    return b"".join(bytes(sealer.seal(payload[i : i + piece_bytes], i + piece_bytes >= len(payload))) for i in starts)


def job_done(
    given: bytes, answer: bytes, *, plain: bool = False, piece_bytes: int = FRAME_BYTES, job_id: JobId = JOB
) -> Evidence:
    """One job as it goes over the wire between CLIENT and PROVIDER, and what the client then puts down about it."""
    key, secrets = SealKey.generate(), RequestSecrets.draw()
    header = EnvelopeHeader(
        SUITE_PLAIN if plain else SUITE_XWING, NO_KEY_ID if plain else key.key_id, job_id, MODEL, PROVIDER.peer_id, 1750, 1,
        len(given), 1, NO_COMMITMENT if plain else secrets.commitment,
    ).encode()  # fmt: skip
    if plain:
        request, opened = plain_request(header), plain_opened(header)
    else:
        request = seal_request(key.public_key, header, secrets)
        opened = key.open_request(header, request.box)
    response_header = ResponseHeader(job_id, os.urandom(32)).encode()
    sent = ciphertext(request.sealer, given, piece_bytes)
    got = ciphertext(opened.response_sealer(response_header), answer, piece_bytes)
    receipt = ReceiptBody(
        PROVIDER.peer_id, CLIENT.peer_id, job_id, MODEL, Tier.OPEN if plain else Tier.SEALED, bytes(32), 1750, 1,
        hashlib.sha256(header + sent).digest(), hashlib.sha256(response_header + got).digest(), 0, 0, 0,
    ).encode()  # fmt: skip
    return Evidence(
        accuser=CLIENT.peer_id,
        made_at_ms=1,
        model_id=MODEL,
        kind=EvidenceKind.OWN_RUN,
        tolerance=1000,
        receipt_body=receipt,
        provider_signature=PROVIDER.sign(RECEIPT_DOMAIN, receipt),
        envelope_header=header,
        response_header=response_header,
        payload_secret=b"" if plain else secrets.payload,
        response_secret=b"" if plain else secrets.response,
        input=given,
        output=answer,
        expected=b"something else",
    )


def refused(evidence: Evidence, code: str = "EVIDENCE", signer: IdentityKey = CLIENT) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        check_evidence(sign_evidence(signer, evidence))
    assert caught.value.code == code


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("size", [64, CHUNK_BYTES, FRAME_BYTES, FRAME_BYTES + 3 * CHUNK_BYTES + 64])
def test_a_job_as_it_was_done(plain: bool, size: int) -> None:
    evidence = job_done(os.urandom(size), os.urandom(size), plain=plain)
    signed = SignedEvidence.decode(sign_evidence(CLIENT, evidence).encode())
    receipt = check_evidence(signed)
    assert (receipt.provider, receipt.client, receipt.job_id) == (PROVIDER.peer_id, CLIENT.peer_id, JOB)


@pytest.mark.parametrize("piece_bytes", [CHUNK_BYTES, 3 * CHUNK_BYTES])
def test_how_the_chunks_were_framed_does_not_matter(piece_bytes: int) -> None:
    evidence = job_done(os.urandom(5 * CHUNK_BYTES + 64), os.urandom(2 * CHUNK_BYTES), piece_bytes=piece_bytes)
    check_evidence(sign_evidence(CLIENT, evidence))


@pytest.mark.parametrize("plain", [False, True])
def test_nothing_of_the_job_can_be_exchanged(plain: bool) -> None:
    """With the parts of two jobs of the same parties, neither makes evidence with a part of the other."""
    one = job_done(b"one input".ljust(64), b"one answer".ljust(64), plain=plain)
    other = job_done(b"another".ljust(64), b"another answer".ljust(64), plain=plain, job_id=JobId(bytes(16)))
    for name in ("receipt_body", "provider_signature", "envelope_header", "response_header", "input", "output"):
        changed = replace(one, **{name: getattr(other, name)})
        refused(changed, "SIGNATURE" if name in ("receipt_body", "provider_signature") else "EVIDENCE")
    if not plain:
        for name in ("payload_secret", "response_secret"):
            refused(replace(one, **{name: getattr(other, name)}))


def test_the_client_cannot_bring_other_secrets() -> None:
    """Though the header and box were its own to make: the provider signed a header that commits."""
    evidence = job_done(b"input".ljust(64), b"answer".ljust(64))
    drawn = RequestSecrets.draw()
    refused(replace(evidence, payload_secret=drawn.payload, response_secret=drawn.response))


def test_only_the_client_accuses() -> None:
    evidence = job_done(b"input".ljust(64), b"answer".ljust(64))
    stranger = IdentityKey.generate()
    refused(evidence, "SIGNATURE", signer=stranger)
    refused(replace(evidence, accuser=stranger.peer_id), signer=stranger)


def test_a_right_answer_accuses_nobody() -> None:
    evidence = job_done(b"input".ljust(64), b"answer".ljust(64))
    refused(replace(evidence, expected=evidence.output))


def test_errors_show_nothing_of_the_job() -> None:
    evidence = job_done(b"a very private thing".ljust(64), b"answer".ljust(64))
    with pytest.raises(RemoteProtocolError) as caught:
        check_evidence(sign_evidence(CLIENT, replace(evidence, input=b"another private thing".ljust(64))))
    assert "private" not in str(caught.value)
