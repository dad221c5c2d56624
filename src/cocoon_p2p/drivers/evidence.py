"""Evidence of wrong answers: made, kept and examined (protocols/evidence/1/spec.md).

Evidence shows a job's input. So only that of canary jobs, whose inputs are made up, is ever written to disk here; that of
people's own jobs stays in memory until they take it.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from cocoon_p2p.errors import CocoonError, RemoteProtocolError, StoreError
from cocoon_p2p.ids import JobId, ModelId
from cocoon_p2p.limits import EVIDENCE_BYTES_MAX, EVIDENCE_FILES_MAX, EVIDENCE_HELD_BYTES_MAX
from cocoon_p2p.policy.agreement import Agreement, Precision, Tolerance, tolerance
from cocoon_p2p.proto.evidence import EVIDENCE_STEPS, check_evidence, sign_evidence
from cocoon_p2p.proto.job_client import Transcript
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.tensors import Payload, PayloadError, decode_payload, encode_payload, payload_bytes
from cocoon_p2p.wire.evidence import Evidence, EvidenceKind, SignedEvidence

log = logging.getLogger(__name__)

SUFFIX = ".evidence"
_ROOM_BYTES = 8192
"""For all of an evidence but input and answers: signatures, headers, names of fields."""

Verdict = Literal["wrong", "right", "unknown", "void"]


@dataclass(frozen=True, slots=True)
class Answered:
    """A job that was given away and answered."""

    model_id: ModelId
    given: Payload
    answer: Payload
    transcript: Transcript | None
    """None for a job whose receipt never came: nothing proves its answer."""


def accuse(
    identity: IdentityKey,
    job: Answered,
    expected: Payload,
    *,
    kind: EvidenceKind,
    tolerance_millionths: int,
    made_at_ms: int,
) -> bytes | None:
    """Encoded evidence that this answer is not `expected`; None where there is no receipt, or it would be too large."""
    transcript = job.transcript
    if transcript is None:
        return None
    size = payload_bytes(job.given) + payload_bytes(job.answer) + payload_bytes(expected)
    if size + _ROOM_BYTES > EVIDENCE_BYTES_MAX:
        log.info("no evidence of a wrong answer: input and answers have %d bytes", size)
        return None
    secrets = transcript.secrets
    evidence = Evidence(
        accuser=identity.peer_id,
        made_at_ms=made_at_ms,
        model_id=job.model_id,
        kind=kind,
        tolerance=tolerance_millionths,
        receipt_body=transcript.receipt.body,
        provider_signature=transcript.receipt.provider_signature,
        envelope_header=transcript.envelope_header,
        response_header=transcript.response_header,
        payload_secret=b"" if secrets is None else secrets.payload,
        response_secret=b"" if secrets is None else secrets.response,
        input=_container(job.given),
        output=_container(job.answer),
        expected=_container(expected),
    )
    return sign_evidence(identity, evidence).encode()


def _container(payload: Payload) -> bytes:
    """There is one encoding of a payload, so this is what was sealed."""
    return b"".join(bytes(piece) for piece in encode_payload(payload))


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of an examination. `holds` is None for what could not be looked at."""

    what: str
    holds: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Examined:
    """What came of evidence. `void`: it proves nothing, whoever made it; `unknown`: it holds together, but nobody here
    can say what the right answer is."""

    findings: tuple[Finding, ...]
    verdict: Verdict
    summary: str
    deviation: float | None = None
    allowed: float | None = None


Rerun = Callable[[ModelId, Payload], Awaitable[tuple[Payload, Precision] | None]]
"""Runs a model that is here; None when it is not."""
Compare = Callable[[Payload, Payload, bool], Awaitable[Agreement]]


async def examine(signed: SignedEvidence, rerun: Rerun, compare: Compare) -> Examined:
    """Everything that can be said about evidence here. The accuser's word counts for nothing: neither its tolerance nor
    the answer that it expects. Raises CocoonError when the model is here and does not run."""
    passed: list[str] = []
    try:
        receipt = check_evidence(signed, passed=passed.append)
        given, answer = decode_payload(signed.evidence.input), decode_payload(signed.evidence.output)
    except (RemoteProtocolError, PayloadError) as error:
        return _void(passed, str(error))
    findings = [Finding(step, True) for step in EVIDENCE_STEPS]
    ran = await rerun(receipt.model_id, given)
    if ran is None:
        findings.append(Finding("the model gives another answer", None, f"model {receipt.model_id} is not here"))
        return Examined(tuple(findings), "unknown", "cannot say: the model is not here; add it, or give --model PATH")
    truth, precision = ran
    bound = tolerance(precision)
    found = await compare(truth, answer, bound.quantised)
    wrong = not found.within(bound.bound)
    measured = f"deviation {found.deviation:.2g} of {bound.bound:g} allowed"
    where = f"in {found.tensor!r}" if found.tensor else ""
    findings.append(Finding("the model gives another answer", wrong, f"{measured} {where}".strip()))
    findings.append(await _about_expected(signed, truth, bound, compare))
    verdict: Verdict = "wrong" if wrong else "right"
    return Examined(tuple(findings), verdict, f"the answer is {verdict}: {measured}", found.deviation, bound.bound)


def _void(passed: list[str], why: str) -> Examined:
    findings = [Finding(step, True) for step in passed]
    missing = EVIDENCE_STEPS[len(passed) :]
    findings += [Finding(step, None if n else False, "" if n else why) for n, step in enumerate(missing)]
    if not missing:
        findings.append(Finding("input and answer are payloads", False, why))
    return Examined(tuple(findings), "void", f"this proves nothing: {why}")


async def _about_expected(signed: SignedEvidence, truth: Payload, bound: Tolerance, compare: Compare) -> Finding:
    what = "the answer that the accuser expects is the model's"
    try:
        expected = decode_payload(signed.evidence.expected)
    except PayloadError as error:
        return Finding(what, False, str(error))
    return Finding(what, (await compare(truth, expected, bound.quantised)).within(bound.bound))


class Accused(Protocol):
    """An answer that was judged, as `drivers.quorum` does."""

    @property
    def job_id(self) -> JobId | None: ...

    @property
    def evidence(self) -> bytes | None: ...


class EvidenceShelf:
    """Evidence of people's own jobs, in memory: the newest, within EVIDENCE_HELD_BYTES_MAX."""

    def __init__(self) -> None:
        self._held: OrderedDict[JobId, bytes] = OrderedDict()

    def put(self, job_id: JobId, evidence: bytes) -> None:
        self._held[job_id] = evidence
        while sum(map(len, self._held.values())) > EVIDENCE_HELD_BYTES_MAX or len(self._held) > EVIDENCE_FILES_MAX:
            self._held.popitem(last=False)

    def put_all(self, judged: Iterable[Accused]) -> None:
        """What there is of several."""
        for each in judged:
            if each.evidence is not None and each.job_id is not None:
                self.put(each.job_id, each.evidence)

    def get(self, job_id: JobId) -> bytes | None:
        return self._held.get(job_id)

    def jobs(self) -> tuple[JobId, ...]:
        """The oldest first."""
        return tuple(self._held)


class EvidenceFolder:
    """Evidence of canary jobs, on disk: <home>/evidence/<job id>.evidence, the newest `files_max` (None: all)."""

    def __init__(self, folder: Path, *, files_max: int | None = EVIDENCE_FILES_MAX) -> None:
        self.folder = folder
        self._files_max = files_max

    def keep(self, job_id: JobId, evidence: bytes) -> Path:
        """Write it, whole or not at all, for nobody else to read. Raises StoreError."""
        path = self.folder / f"{job_id.hex()}{SUFFIX}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=".", dir=self.folder)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(evidence)
            os.replace(temporary, path)
            for old in self.files()[: -self._files_max] if self._files_max else ():
                old.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot keep evidence in {self.folder}: {error.strerror or error}") from error
        return path

    def files(self) -> list[Path]:
        """The oldest first."""
        found = [path for path in self.folder.glob(f"*{SUFFIX}") if path.is_file()] if self.folder.is_dir() else []
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def read_evidence(path: Path) -> SignedEvidence:
    """Raises CocoonError (EVIDENCE_FILE) for what cannot be read or is none."""
    try:
        with path.open("rb") as file:
            data = file.read(EVIDENCE_BYTES_MAX + 1)
        return SignedEvidence.decode(data)
    except OSError as error:
        raise CocoonError(f"cannot read {path}: {error.strerror or error}", code="EVIDENCE_FILE") from error
    except RemoteProtocolError as error:
        raise CocoonError(f"{path} holds no evidence: {error}", code="EVIDENCE_FILE") from error
