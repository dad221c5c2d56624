from __future__ import annotations

import msgpack
import pytest

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import ModelId, peer_id_from_public_key
from cocoon_p2p.limits import EVIDENCE_BYTES_MAX, FRAME_BYTES_MAX
from cocoon_p2p.wire.evidence import Evidence, EvidenceKind, SignedEvidence, decode_evidence


def evidence(*, given: bytes = b"the input", secret: bytes = bytes(32)) -> Evidence:
    return Evidence(
        accuser=peer_id_from_public_key(bytes(32)),
        made_at_ms=1,
        model_id=ModelId("ab" * 32),
        kind=EvidenceKind.OWN_RUN,
        tolerance=1000,
        receipt_body=b"receipt",
        provider_signature=bytes(64),
        envelope_header=b"header",
        response_header=b"response header",
        payload_secret=secret,
        response_secret=secret,
        input=given,
        output=b"the answer",
        expected=b"the right one",
    )


def test_evidence_may_be_longer_than_a_frame() -> None:
    """It is no message of a stream."""
    long = evidence(given=bytes(2 * FRAME_BYTES_MAX))
    signed = SignedEvidence(long.encode(), bytes(64))
    assert SignedEvidence.decode(signed.encode()) == signed
    assert SignedEvidence.decode(signed.encode()).evidence == long


def test_the_whole_is_bounded() -> None:
    signed = SignedEvidence(evidence().encode(), bytes(64))
    room = EVIDENCE_BYTES_MAX - len(signed.encode()) - 16
    fits = SignedEvidence(evidence(given=bytes(room)).encode(), bytes(64)).encode()
    assert EVIDENCE_BYTES_MAX - 32 <= len(fits) <= EVIDENCE_BYTES_MAX
    SignedEvidence.decode(fits)
    for data in (msgpack.packb([1, fits, bytes(64)]), msgpack.packb([*msgpack.unpackb(fits), bytes(64)])):
        with pytest.raises(RemoteProtocolError) as caught:
            SignedEvidence.decode(data)
        assert caught.value.code == "BOUND"
    with pytest.raises(RemoteProtocolError) as caught:
        decode_evidence(evidence(given=bytes(EVIDENCE_BYTES_MAX)).encode())
    assert caught.value.code == "BOUND"


def test_no_text_shows_what_the_job_was() -> None:
    secret = bytes(range(32))
    signed = SignedEvidence(evidence(given=b"a very private thing", secret=secret).encode(), bytes(64))
    text = repr(signed) + str(signed) + repr(signed.evidence)
    assert "private" not in text
    assert "the answer" not in text
    assert repr(secret)[2:-1] not in text


def test_what_is_no_evidence_cannot_be_wrapped() -> None:
    with pytest.raises(RemoteProtocolError):
        SignedEvidence(b"garbage", bytes(64))
