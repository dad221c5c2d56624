"""job/1, the provider's end: what it signs in answer to a question: a price, or a "no" (protocols/job/1 §3.4, §3.11). Pure."""

from __future__ import annotations

from cocoon_p2p import limits
from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.policy.admission import Refused
from cocoon_p2p.policy.pricing import Price
from cocoon_p2p.proto.provider_desk import ProviderDesk
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.wire.job import QUOTE_DOMAIN, REFUSAL_DOMAIN, Ask, Quote, QuoteBody, Refusal, RefusalBody


def sign_quote(desk: ProviderDesk, client: PeerId, ask: Ask, price: Price, unix_ms: int) -> tuple[QuoteBody, Quote]:
    """A price that holds for limits.QUOTE_LIFETIME_S, with the seal key that the input is to be sealed to."""
    # SPEC job/1 §3.4
    record = b""
    if ask.tier is not Tier.OPEN:
        desk.seal_keys.rotate(unix_ms)
        record = desk.seal_keys.current()[1]
    body = QuoteBody(
        provider=desk.identity.peer_id,
        client=client,
        job_id=ask.job_id,
        model_id=ask.model_id,
        tier=ask.tier,
        items=ask.items,
        input_bytes=ask.input_bytes,
        price_base=price.base,
        price_per_item=price.per_item,
        max_total=price.max_total,
        expires_at_ms=unix_ms + int(limits.QUOTE_LIFETIME_S * 1000),
        queue_ms=desk.queue_ms(ask.model_id),
        settlement_network=desk.settlement_network,
        payee_key=b"",
        seal_key_record=record,
        instalment=ask.instalment,
    )
    raw = body.encode()
    return body, Quote(ask.job_id, raw, desk.identity.sign(QUOTE_DOMAIN, raw))


def sign_refusal(
    identity: IdentityKey, client: PeerId, job_id: JobId, model_id: ModelId | None, refused: Refused, *, unix_ms: int
) -> Refusal:
    """A signed "no", so that the client can show it."""
    # SPEC job/1 §3.11
    body = RefusalBody(
        provider=identity.peer_id,
        client=client,
        job_id=job_id,
        model_id=model_id,
        reason=refused.reason,
        detail=refused.detail,
        needed=refused.needed,
        issued_at_ms=unix_ms,
    ).encode()
    return Refusal(job_id, body, identity.sign(REFUSAL_DOMAIN, body))
