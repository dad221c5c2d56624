"""Wrong answers: canary jobs, answers by quorum, and evidence. Part of `Node`; what it returns as rows is JSON as it stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from pathlib import Path

from cocoon_p2p.assembly import Parts
from cocoon_p2p.drivers.auditing import Audited, AuditTerms
from cocoon_p2p.drivers.evidence import Examined, read_evidence
from cocoon_p2p.drivers.quorum import Judged
from cocoon_p2p.errors import CocoonError, ConfigError, RemoteProtocolError
from cocoon_p2p.ids import JOB_ID_BYTES, JobId, PeerId, Tier, parse_peer_id
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, AUDIT_COUNT_MAX
from cocoon_p2p.proto.evidence import check_evidence
from cocoon_p2p.rows import Row
from cocoon_p2p.wire.evidence import SignedEvidence
from cocoon_p2p.wire.job import decode_receipt_body


class NodeAudit:
    """The part of `Node` that finds out who answers wrongly."""

    _parts: Parts

    async def audit(
        self,
        model: str,
        providers: Sequence[str] | None = None,
        count: int = 1,
        *,
        max_price: int | None = None,
        tier: str | None = None,
    ) -> list[Row]:
        """Give each of `providers` (peer ids; None: up to nine that offer the model) `count` jobs whose answer is known:
        from our own run where the model is installed here, else from what most of the providers say. Each is paid as any
        job is, at most `max_price` nanogram, and cannot tell it from one. What comes out counts in their reliability;
        evidence of wrong answers is kept in the home.

        A row each: provider, verdict ("right", "wrong", "failed", "unknown"), deviation (None: not comparable), allowed,
        price_nanogram, job_id, evidence (a file), error. Raises CocoonError: NO_MODEL, PROVIDERS (too few to know the answer
        by), CANARY (nothing can be made up for this model), ConfigError."""
        client = self._parts.config.client
        if not 1 <= count <= AUDIT_COUNT_MAX:
            raise ConfigError(f"count must be from 1 to {AUDIT_COUNT_MAX}, not {count}")
        if max_price is not None and not 0 <= max_price <= AMOUNT_NANOGRAM_MAX:
            raise ConfigError(f"max_price must be from 0 to {AMOUNT_NANOGRAM_MAX} nanogram, not {max_price}")
        terms = AuditTerms(
            tier=_tier(tier or client.tier),
            max_total=(client.max_price or None) if max_price is None else max_price,
            timeout_s=client.timeout_s,
        )
        peers = None if providers is None else [_peer(each) for each in providers]
        return [audit_row(each) for each in await self._parts.checks.auditor.audit(model, peers, count, terms)]

    def evidence(self, job_id: str) -> bytes | None:
        """Evidence of a wrong answer to this job (a hexadecimal id), from disk or, of people's own jobs, from memory."""
        checks = self._parts.checks
        job = _job(job_id)
        held = checks.shelf.get(job)
        if held is not None:
            return held
        path = next((path for path in checks.folder.files() if path.stem == job.hex()), None)
        return None if path is None else read_evidence(path).encode()

    def evidence_list(self) -> list[Row]:
        """What evidence this node has, the oldest first; "file" is None for what is in memory only."""
        checks = self._parts.checks
        rows = [evidence_row(read_evidence(path), path) for path in checks.folder.files()]
        held = (checks.shelf.get(job_id) for job_id in checks.shelf.jobs())
        return rows + [evidence_row(SignedEvidence.decode(each), None) for each in held if each is not None]

    async def check_evidence(self, evidence: bytes) -> Row:
        """What evidence proves: {"verdict", "summary", "deviation", "allowed", "findings"}. The model is run when it is
        installed here. Raises CocoonError (EVIDENCE_FILE) for bytes that are none."""
        try:
            signed = SignedEvidence.decode(evidence)
        except RemoteProtocolError as error:
            raise CocoonError(f"this is no evidence: {error}", code="EVIDENCE_FILE") from error
        return examined_row(signed, await self._parts.checks.examine(signed))


def audit_row(audited: Audited) -> Row:
    """One canary job at one provider."""
    return {
        "provider": audited.provider,
        "verdict": audited.verdict,
        "deviation": finite(audited.deviation),
        "price_nanogram": audited.price,
        "job_id": audited.job_id,
        "evidence": None if audited.evidence is None else str(audited.evidence),
        "error": audited.error or None,
    }


def agreement_row(judged: Iterable[Judged], asked: int) -> Row:
    """What a quorum said: everybody's answer, and what all of them cost."""
    each = list(judged)
    return {
        "asked": asked,
        "answers": sum(one.job_id is not None for one in each),
        "agreed": sum(one.agrees is True for one in each),
        "price_nanogram": sum(one.price for one in each),
        "providers": [
            {
                "provider": one.provider,
                "agrees": one.agrees,
                "deviation": finite(one.deviation),
                "price_nanogram": one.price,
                "job_id": None if one.job_id is None else one.job_id.hex(),
                "has_evidence": one.evidence is not None,
                "error": one.error or None,
            }
            for one in each
        ],
    }


def evidence_row(signed: SignedEvidence, path: Path | None) -> Row:
    """What an evidence says of itself, its content left out; nothing of it is checked but `holds`."""
    evidence = signed.evidence
    holds = True
    try:
        receipt = check_evidence(signed)
    except RemoteProtocolError:
        holds = False
        receipt = decode_receipt_body(evidence.receipt_body)
    return {
        "job_id": receipt.job_id.hex(),
        "provider": receipt.provider,
        "accuser": evidence.accuser,
        "model_id": evidence.model_id,
        "made_at_ms": evidence.made_at_ms,
        "kind": evidence.kind.name.lower(),
        "tolerance": evidence.tolerance / 1_000_000,
        "price_nanogram": receipt.price,
        "input_bytes": len(evidence.input),
        "holds": holds,
        "file": None if path is None else str(path),
    }


def examined_row(signed: SignedEvidence, found: Examined) -> Row:
    """What an examination found."""
    return {
        "verdict": found.verdict,
        "summary": found.summary,
        "deviation": finite(found.deviation),
        "allowed": found.allowed,
        "findings": [
            {"what": each.what, "holds": each.holds, "detail": each.detail or None} for each in found.findings
        ],
        "accuser": signed.evidence.accuser,
        "model_id": signed.evidence.model_id,
    }


def finite(deviation: float | None) -> float | None:
    """JSON has no infinity: None where answers cannot be compared at all."""
    return deviation if deviation is not None and isfinite(deviation) else None


def _tier(text: str) -> Tier:
    if text not in ("sealed", "open"):
        raise ConfigError(f"there is no tier {text!r}", hint="sealed or open")
    return Tier[text.upper()]


def _peer(text: str) -> PeerId:
    try:
        return parse_peer_id(text)
    except ValueError as error:
        raise ConfigError(f"provider: {error}") from error


def _job(text: str) -> JobId:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != JOB_ID_BYTES:
        raise ConfigError(f"{text[:40]!r} is no job id: {2 * JOB_ID_BYTES} hexadecimal digits")
    return JobId(raw)
