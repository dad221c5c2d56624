"""job/1, the client's end: a provider's announced price taken as its quote. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cocoon_p2p import limits
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.proto.job_answers import JobTerms
from cocoon_p2p.wire.job import QuoteBody, quoted_total


@dataclass(frozen=True, slots=True)
class AnnouncedPrice:
    """A provider's announced price for one model and tier, nanogram; good until then (Unix ms)."""

    base: int
    per_item: int
    expires_at_ms: int


def why_not_firm(terms: JobTerms, announced: AnnouncedPrice, *, unix_ms: int) -> str | None:
    """What keeps this job from being submitted unasked; None where nothing does."""
    # SPEC job/1 §3.12
    if terms.payload_bytes > limits.FIRM_INPUT_BYTES_MAX:
        return f"an input of {terms.payload_bytes} bytes is not sent before the provider has said yes"
    if announced.expires_at_ms < unix_ms + limits.FIRM_TIME_LEFT_S * 1000:
        return "its announced price expires before a submission would arrive"
    total = quoted_total(announced.base, announced.per_item, terms.items)
    if total > (limits.AMOUNT_NANOGRAM_MAX if terms.max_total is None else terms.max_total):
        return "its announced price is above the limit"
    return None


def announced_terms(
    client: PeerId, provider: PeerId, job_id: JobId, terms: JobTerms, announced: AnnouncedPrice
) -> QuoteBody:
    """The body that the client writes in the provider's place, for SUBMIT."""
    # SPEC job/1 §3.12
    return QuoteBody(
        provider=provider,
        client=client,
        job_id=job_id,
        model_id=terms.model_id,
        tier=terms.tier,
        items=terms.items,
        input_bytes=terms.payload_bytes,
        price_base=announced.base,
        price_per_item=announced.per_item,
        max_total=quoted_total(announced.base, announced.per_item, terms.items),
        expires_at_ms=announced.expires_at_ms,
        queue_ms=0,
        settlement_network=terms.settlement_network,
        payee_key=b"",
        seal_key_record=b"",
        instalment=terms.instalment,
    )
