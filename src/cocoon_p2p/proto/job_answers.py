"""job/1, the client's end: what the signed answers of a provider must say before they count. Pure checks.

All raise RemoteProtocolError: SIGNATURE for somebody else's, QUOTE and RECEIPT for what does not fit the job.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cocoon_p2p import limits
from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.sealing.signing import IdentityKey, verify_signature
from cocoon_p2p.wire import codec
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
    instalment: int = 0
    """Items that are paid for ahead of an answer in frames; 0: the output comes whole."""
    prepaid: int = 0
    """Of an answer in frames, items that the first payment is to cover: what the prompt probably has, and one instalment."""

    @property
    def first_paid(self) -> int:
        """Items that the first payment covers; 0 where it covers them all."""
        # SPEC job/1 §3.5
        if not self.instalment:
            return 0
        return max(min(self.items, self.instalment), min(self.items, self.prepaid))


@dataclass(frozen=True, slots=True)
class StreamMark:
    """How far an answer in frames had come when the client said so."""

    frames: int
    items: int
    output_hash: bytes
    """SHA-256 of the response header and all ciphertext of these frames."""


@dataclass(frozen=True, slots=True)
class Owed:
    """What a receipt must agree with: the job as it was agreed on, and what passed."""

    quote: QuoteBody
    quote_hash: bytes
    input_hash: bytes
    output_hash: bytes
    """Empty for an answer in frames."""
    marks: tuple[StreamMark, ...] = ()
    """Of an answer in frames: what was acknowledged last. A receipt is about one of these."""

    def encode(self) -> bytes:
        """For our own disk: what `decode_owed` reads."""
        marks = [[mark.frames, mark.items, mark.output_hash] for mark in self.marks]
        return codec.pack([1, self.quote.encode(), self.quote_hash, self.input_hash, self.output_hash, marks])


def decode_owed(record: bytes) -> Owed:
    """Raises RemoteProtocolError for what is none."""
    fields = codec.unpack_tagged(record, 1, 6, "what is owed")
    marks = [codec.array(each, "mark", 3) for each in codec.array(fields[5], "marks", limits.STREAM_MARKS_KEPT)]
    if any(len(each) != 3 for each in marks):
        codec.fail("MALFORMED", "a mark has frames, items and a hash")
    return Owed(
        decode_quote_body(codec.blob(fields[1], "terms", limits.FRAME_BYTES_MAX)),
        codec.fixed(fields[2], "quote hash", codec.HASH_BYTES),
        codec.fixed(fields[3], "input hash", codec.HASH_BYTES),
        codec.fixed_or_empty(fields[4], "output hash", codec.HASH_BYTES),
        tuple(
            StreamMark(
                codec.uint(frames, "frames", limits.GENERATION_TOKENS_MAX + 1),
                codec.uint(items, "items", limits.GENERATION_TOKENS_MAX),
                codec.fixed(output_hash, "output hash", codec.HASH_BYTES),
            )
            for frames, items, output_hash in marks
        ),
    )


def check_quote(message: Quote, terms: JobTerms, job_id: JobId, *, client: PeerId, provider: PeerId) -> QuoteBody:
    """A quote for just the job that was asked for."""
    # SPEC job/1 §3.4
    if not verify_signature(provider, QUOTE_DOMAIN, message.body, message.signature):
        raise RemoteProtocolError("the quote's signature is not the provider's", code="SIGNATURE")
    quote = decode_quote_body(message.body)
    asked = (provider, client, job_id, terms.model_id, terms.tier, terms.items)
    quoted = (quote.provider, quote.client, quote.job_id, quote.model_id, quote.tier, quote.items)
    if asked != quoted or (quote.input_bytes, quote.instalment) != (terms.payload_bytes, terms.instalment):
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
    passed = [(0, body.items, owed.output_hash)]
    if quote.instalment:
        passed = [(mark.frames, mark.items, mark.output_hash) for mark in owed.marks]
    if body.input_hash != owed.input_hash or (body.frames, body.items, body.output_hash) not in passed:
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
