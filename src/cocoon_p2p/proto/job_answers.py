"""job/1, the client's end: what the signed answers of a provider must say before they count. Pure checks.

All raise RemoteProtocolError: SIGNATURE for somebody else's, QUOTE and RECEIPT for what does not fit the job.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.sealing.signing import IdentityKey, verify_signature
from cocoon_p2p.wire.job import (
    QUOTE_DOMAIN,
    RECEIPT_DOMAIN,
    REFUSAL_DOMAIN,
    Quote,
    QuoteBody,
    Receipt,
    ReceiptBody,
    Refusal,
    RefusalBody,
    decode_quote_body,
    decode_receipt_body,
    decode_refusal_body,
    quoted_total,
)
from cocoon_p2p.wire.seal import (
    SEAL_KEY_DOMAIN,
    SealKeyRecord,
    decode_seal_key_record,
    decode_signed_seal_key_record,
)

_SEAL_KEYS_REMEMBERED_MAX = 256
"""Of one provider each, at about 3 KB."""


@dataclass(frozen=True, slots=True)
class JobTerms:
    """What the client wants; the same for every provider it asks."""

    model_id: ModelId
    tier: Tier
    items: int
    payload_bytes: int
    max_total: int | None
    """nanogram; None for no limit."""
    timeout_s: float
    settlement_network: int


@dataclass(frozen=True, slots=True)
class Owed:
    """What a receipt must agree with: the job as it was agreed on, and what passed."""

    quote: QuoteBody
    quote_hash: bytes
    input_hash: bytes
    output_hash: bytes


def check_quote(message: Quote, terms: JobTerms, job_id: JobId, *, client: PeerId, provider: PeerId) -> QuoteBody:
    """A quote for just the job that was asked for."""
    # SPEC job/1 §3.4
    if not verify_signature(provider, QUOTE_DOMAIN, message.body, message.signature):
        raise RemoteProtocolError("the quote's signature is not the provider's", code="SIGNATURE")
    quote = decode_quote_body(message.body)
    asked = (provider, client, job_id, terms.model_id, terms.tier, terms.items)
    quoted = (quote.provider, quote.client, quote.job_id, quote.model_id, quote.tier, quote.items)
    if asked != quoted or quote.input_bytes != terms.payload_bytes:
        raise RemoteProtocolError("the quote is for another job than was asked for", code="QUOTE")
    if quote.settlement_network != terms.settlement_network:
        raise RemoteProtocolError("the quote wants payment on another network", code="QUOTE")
    if quote.max_total != quoted_total(quote.price_base, quote.price_per_item, quote.items):
        raise RemoteProtocolError("the quote's total is not what its prices add up to", code="QUOTE")
    if terms.max_total is not None and quote.max_total > terms.max_total:
        raise RemoteProtocolError("the quote is above the limit that the client stated", code="QUOTE")
    return quote


@lru_cache(_SEAL_KEYS_REMEMBERED_MAX)
def verified_seal_key(provider: PeerId, encoded: bytes) -> SealKeyRecord:
    """A seal key record, signed by `provider`. Remembered, since every quote of ten minutes brings the same: checking it
    each time was a third of what a quote cost. Its time is checked by the caller."""
    # SPEC seal/1 §3.3
    signed = decode_signed_seal_key_record(encoded)
    if not verify_signature(provider, SEAL_KEY_DOMAIN, signed.body, signed.signature):
        raise RemoteProtocolError("the seal key's signature is not the provider's", code="SIGNATURE")
    return decode_seal_key_record(signed.body)


def check_refusal(message: Refusal, job_id: JobId, *, client: PeerId, provider: PeerId) -> RefusalBody:
    """A "no" to this very job."""
    # SPEC job/1 §3.11
    if not verify_signature(provider, REFUSAL_DOMAIN, message.body, message.signature):
        raise RemoteProtocolError("the refusal's signature is not the provider's", code="SIGNATURE")
    refusal = decode_refusal_body(message.body)
    if (refusal.provider, refusal.client, refusal.job_id) != (provider, client, job_id):
        raise RemoteProtocolError("the refusal is of another job", code="QUOTE")
    return refusal


def check_receipt(body: ReceiptBody, owed: Owed) -> None:
    """A receipt for the job that was agreed on, and for what passed."""
    # SPEC job/1 §3.7
    quote = owed.quote
    job = (quote.provider, quote.client, quote.job_id, quote.model_id, quote.tier, owed.quote_hash)
    if job != (body.provider, body.client, body.job_id, body.model_id, body.tier, body.quote_hash):
        raise RemoteProtocolError("the receipt is for another job", code="RECEIPT")
    if body.items > quote.items or body.price != quoted_total(quote.price_base, quote.price_per_item, body.items):
        raise RemoteProtocolError("the receipt's price is not the quoted one", code="RECEIPT")
    if (body.input_hash, body.output_hash) != (owed.input_hash, owed.output_hash):
        raise RemoteProtocolError("the receipt is for another input or output than passed", code="RECEIPT")


def read_receipt(provider: PeerId, message: Receipt) -> ReceiptBody:
    """The body, if `provider` signed it."""
    # SPEC job/1 §3.7
    if not verify_signature(provider, RECEIPT_DOMAIN, message.body, message.provider_signature):
        raise RemoteProtocolError("the receipt's signature is not the provider's", code="SIGNATURE")
    return decode_receipt_body(message.body)


def countersign(identity: IdentityKey, message: Receipt) -> Receipt:
    """The receipt with the client's signature: the job is owed, and paid."""
    signature = identity.sign(RECEIPT_DOMAIN, message.body)
    return Receipt(message.job_id, message.body, message.provider_signature, signature)


def check_stray_receipt(identity: IdentityKey, provider: PeerId, message: Receipt) -> tuple[Receipt, ReceiptBody]:
    """A receipt that a provider sends again, after a break, for a job that is over here: verified and countersigned.
    Whether there was such a job, and whether its output came, the caller knows; only then may the signature go out."""
    # SPEC job/1 §3.8
    body = read_receipt(provider, message)
    if (body.provider, body.client, body.job_id) != (provider, identity.peer_id, message.job_id):
        raise RemoteProtocolError("the receipt is for another job", code="RECEIPT")
    return countersign(identity, message), body
