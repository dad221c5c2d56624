"""Evidence of wrong answers: made by the client, examined by a third that trusts nobody."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cocoon_p2p.drivers.comparing import compare
from cocoon_p2p.drivers.evidence import (
    Answered,
    EvidenceFolder,
    EvidenceShelf,
    Examined,
    accuse,
    examine,
    read_evidence,
)
from cocoon_p2p.errors import CocoonError, RemoteProtocolError
from cocoon_p2p.execution.arrays import to_payload
from cocoon_p2p.ids import JobId, ModelId, Tier
from cocoon_p2p.limits import EVIDENCE_BYTES_MAX, EVIDENCE_FILES_MAX
from cocoon_p2p.policy.agreement import Precision
from cocoon_p2p.proto.evidence import EVIDENCE_STEPS, check_evidence, sign_evidence
from cocoon_p2p.proto.job_client import Transcript
from cocoon_p2p.sealing.envelope import RequestSecrets
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.tensors import Payload, encode_payload
from cocoon_p2p.wire.evidence import Evidence, EvidenceKind, SignedEvidence
from cocoon_p2p.wire.job import RECEIPT_DOMAIN, Receipt, ReceiptBody
from cocoon_p2p.wire.seal import (
    NO_COMMITMENT,
    NO_KEY_ID,
    SUITE_PLAIN,
    SUITE_XWING,
    EnvelopeHeader,
    ResponseHeader,
)

CLIENT, PROVIDER, OTHER = (IdentityKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
MODEL, JOB = ModelId("ab" * 32), JobId(b"j" * 16)
X = to_payload({"x": np.float32([1, 2, 3])})
RIGHT = to_payload({"y": np.float32([2, 4, 6])})
WRONG = to_payload({"y": np.float32([2, 4, 5])})


def container(payload: Payload) -> bytes:
    return b"".join(bytes(piece) for piece in encode_payload(payload))


def done(answer: Payload, *, tier: Tier = Tier.SEALED) -> Transcript:
    """A job as it would have passed between the two."""
    secrets = RequestSecrets.draw() if tier is Tier.SEALED else None
    given = container(X)
    header = EnvelopeHeader(
        suite=SUITE_PLAIN if secrets is None else SUITE_XWING,
        key_id=NO_KEY_ID,
        job_id=JOB,
        model_id=MODEL,
        provider=PROVIDER.peer_id,
        max_total=10,
        expires_at_ms=1,
        payload_bytes=len(given),
        items=1,
        commitment=NO_COMMITMENT if secrets is None else secrets.commitment,
    ).encode()
    response_header = ResponseHeader(JOB, os.urandom(32)).encode()
    sent, received = given, container(answer)
    if secrets is not None:
        sent = bytes(secrets.payload_sealer(header).seal(sent, True))
        received = bytes(secrets.response_sealer(header, response_header).seal(received, True))
    body = ReceiptBody(
        provider=PROVIDER.peer_id,
        client=CLIENT.peer_id,
        job_id=JOB,
        model_id=MODEL,
        tier=tier,
        quote_hash=bytes(32),
        price=10,
        items=1,
        input_hash=hashlib.sha256(header + sent).digest(),
        output_hash=hashlib.sha256(response_header + received).digest(),
        queue_us=0,
        execute_us=1,
        finished_at_ms=1,
    ).encode()
    receipt = Receipt(JOB, body, PROVIDER.sign(RECEIPT_DOMAIN, body), CLIENT.sign(RECEIPT_DOMAIN, body))
    return Transcript(header, secrets, response_header, receipt)


def accusation(answer: Payload = WRONG, expected: Payload = RIGHT, *, tier: Tier = Tier.SEALED) -> bytes:
    evidence = accuse(
        CLIENT,
        Answered(MODEL, X, answer, done(answer, tier=tier)),
        expected,
        kind=EvidenceKind.OWN_RUN,
        tolerance_millionths=5000,
        made_at_ms=1_800_000_000_000,
    )
    assert evidence is not None
    return evidence


async def examined(data: bytes, *, truth: Payload | None = RIGHT, precision: Precision | None = None) -> Examined:
    async def rerun(model_id: ModelId, given: Payload) -> tuple[Payload, Precision] | None:
        assert (model_id, container(given)) == (MODEL, container(X))
        return None if truth is None else (truth, precision or Precision.FLOAT32)

    return await examine(SignedEvidence.decode(data), rerun, compare)


@pytest.mark.parametrize("tier", [Tier.SEALED, Tier.OPEN])
async def test_a_wrong_answer_is_proven_to_a_third(tier: Tier) -> None:
    found = await examined(accusation(tier=tier))
    assert found.verdict == "wrong"
    assert found.deviation == pytest.approx(1 / 6)
    assert found.summary == "the answer is wrong: deviation 0.17 of 0.005 allowed"
    assert [finding.holds for finding in found.findings] == [True] * (len(EVIDENCE_STEPS) + 2)


async def test_a_right_answer_is_not_made_wrong_by_an_accusation() -> None:
    found = await examined(accusation(RIGHT, WRONG))
    assert found.verdict == "right"
    assert [finding.holds for finding in found.findings][-2:] == [False, False]


async def test_the_accusers_tolerance_counts_for_nothing() -> None:
    quantised = await examined(accusation(to_payload({"y": np.float32([2, 4, 5.5])})), precision=Precision.INT8)
    assert quantised.verdict == "right"
    assert quantised.allowed == 0.15


async def test_without_the_model_nobody_can_say() -> None:
    found = await examined(accusation(), truth=None)
    assert found.verdict == "unknown"
    assert "model is not here" in found.summary
    assert [finding.holds for finding in found.findings] == [True] * len(EVIDENCE_STEPS) + [None]


def test_an_answer_that_is_the_expected_one_accuses_nobody() -> None:
    with pytest.raises(RemoteProtocolError):
        check_evidence(SignedEvidence.decode(accusation(RIGHT, RIGHT)))


async def test_every_altered_byte_is_noticed() -> None:
    data = accusation()
    await examined(data)
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 1 << position % 8
        try:
            found = await examined(bytes(altered))
        except RemoteProtocolError:
            continue
        assert found.verdict == "void", f"byte {position} of {len(data)} can be altered"


def test_no_shortened_or_longer_file_is_evidence() -> None:
    data = accusation()
    for length in range(0, len(data), 7):
        with pytest.raises(RemoteProtocolError):
            SignedEvidence.decode(data[:length])
    with pytest.raises(RemoteProtocolError):
        SignedEvidence.decode(data + b"\0")


Change = Callable[[Evidence], Evidence]


def with_receipt(key: IdentityKey, **changes: object) -> Change:
    def change(evidence: Evidence) -> Evidence:
        from cocoon_p2p.wire.job import decode_receipt_body

        body = dataclasses.replace(decode_receipt_body(evidence.receipt_body), **changes).encode()  # type: ignore[arg-type]
        return dataclasses.replace(evidence, receipt_body=body, provider_signature=key.sign(RECEIPT_DOMAIN, body))

    return change


def changed(**changes: object) -> Change:
    return lambda evidence: dataclasses.replace(evidence, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        pytest.param(changed(input=container(RIGHT)), 4, id="another input"),
        pytest.param(changed(output=container(X)), 5, id="another output"),
        pytest.param(changed(payload_secret=b"p" * 32), 3, id="another payload secret"),
        pytest.param(changed(response_secret=b"r" * 32), 3, id="another response secret"),
        pytest.param(changed(payload_secret=b"", response_secret=b""), 3, id="no secrets"),
        pytest.param(changed(model_id=ModelId("cd" * 32)), 2, id="another model"),
        pytest.param(changed(response_header=ResponseHeader(JOB, bytes(32)).encode()), 5, id="another nonce"),
        pytest.param(
            changed(response_header=ResponseHeader(JobId(bytes(16)), bytes(32)).encode()), 2, id="another job"
        ),
        pytest.param(changed(provider_signature=bytes(64)), 1, id="no provider's signature"),
        pytest.param(with_receipt(CLIENT), 1, id="a receipt signed by the accuser"),
        pytest.param(with_receipt(OTHER, provider=OTHER.peer_id), 2, id="the receipt of another provider"),
        pytest.param(with_receipt(PROVIDER, client=OTHER.peer_id), 2, id="the receipt of another client"),
        pytest.param(with_receipt(PROVIDER, input_hash=bytes(32)), 4, id="a receipt for another input"),
        pytest.param(with_receipt(PROVIDER, output_hash=bytes(32)), 5, id="a receipt for another output"),
        pytest.param(with_receipt(PROVIDER, tier=Tier.OPEN), 3, id="a receipt of another tier"),
        pytest.param(with_receipt(PROVIDER, job_id=JobId(bytes(16))), 2, id="a receipt of another job"),
    ],
)
async def test_a_forger_who_signs_anew_gets_nowhere(change: Change, failing: int) -> None:
    evidence = SignedEvidence.decode(accusation()).evidence
    found = await examined(sign_evidence(CLIENT, change(evidence)).encode())
    assert found.verdict == "void"
    holds = [finding.holds for finding in found.findings]
    assert holds == [True] * failing + [False] + [None] * (len(EVIDENCE_STEPS) - failing - 1)
    assert found.findings[failing].detail in found.summary


async def test_an_accusation_signed_by_another_is_void() -> None:
    evidence = SignedEvidence.decode(accusation()).evidence
    assert (await examined(sign_evidence(OTHER, evidence).encode())).findings[0].holds is False


def test_no_receipt_or_too_much_content_no_evidence() -> None:
    large = to_payload({"y": np.zeros(EVIDENCE_BYTES_MAX // 8 + 1, np.float32)})
    for job in (Answered(MODEL, X, WRONG, None), Answered(MODEL, large, large, done(WRONG))):
        made = accuse(CLIENT, job, RIGHT, kind=EvidenceKind.QUORUM, tolerance_millionths=5000, made_at_ms=0)
        assert made is None


def test_secrets_and_content_show_in_no_text() -> None:
    signed = SignedEvidence.decode(accusation())
    assert signed.evidence.payload_secret.hex() not in repr(signed)
    assert repr(signed.evidence.payload_secret) not in repr(signed)
    assert repr(signed.evidence.input) not in repr(signed)


def test_the_folder_keeps_the_newest(tmp_path: Path) -> None:
    folder = EvidenceFolder(tmp_path / "evidence")
    assert folder.files() == []
    data = accusation()
    paths = []
    for number in range(EVIDENCE_FILES_MAX + 3):
        path = folder.keep(JobId(number.to_bytes(16)), data)
        os.utime(path, ns=(number, number))
        paths.append(path)
    assert folder.files() == paths[3:]
    assert read_evidence(paths[-1]).encode() == data
    assert paths[-1].stat().st_mode & 0o777 == 0o600
    assert folder.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("content", [b"", b"x", bytes(100)])
def test_a_file_that_is_no_evidence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.evidence"
    path.write_bytes(content)
    with pytest.raises(CocoonError) as caught:
        read_evidence(path)
    assert caught.value.code == "EVIDENCE_FILE"
    with pytest.raises(CocoonError):
        read_evidence(tmp_path / "missing")


def test_the_shelf_is_bounded() -> None:
    shelf = EvidenceShelf()
    for number in range(EVIDENCE_FILES_MAX + 1):
        shelf.put(JobId(number.to_bytes(16)), b"e")
    assert shelf.get(JobId(bytes(16))) is None
    assert len(shelf.jobs()) == EVIDENCE_FILES_MAX
    for number in range(6):
        shelf.put(JobId(number.to_bytes(16, "little")), bytes(EVIDENCE_BYTES_MAX))
    assert len(shelf.jobs()) == 4
