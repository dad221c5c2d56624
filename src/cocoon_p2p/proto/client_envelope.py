"""job/1, the client's end: the envelope that its input travels in (seal/1 §4). Pure."""

from __future__ import annotations

from cocoon_p2p import limits
from cocoon_p2p.sealing.envelope import RequestSecrets, SealedRequest, plain_request, seal_request
from cocoon_p2p.wire.job import QuoteBody
from cocoon_p2p.wire.seal import (
    NO_COMMITMENT,
    NO_KEY_ID,
    SUITE_PLAIN,
    SUITE_XWING,
    EnvelopeHeader,
    SealKeyRecord,
)


def make_envelope(
    quote: QuoteBody, seal_key: SealKeyRecord | None, *, timeout_s: float, unix_ms: int
) -> tuple[bytes, SealedRequest]:
    """The header, and what is sealed under it, with new secrets each time; `seal_key` is None for tier open. Raises
    RemoteProtocolError(code="ENVELOPE") for a seal key that is none."""
    # SPEC seal/1 §4.2
    secrets = None if seal_key is None else RequestSecrets.draw()
    lifetime_ms = int(min(timeout_s + limits.QUOTE_LIFETIME_S, limits.ENVELOPE_LIFETIME_MAX_S) * 1000)
    header = EnvelopeHeader(
        suite=SUITE_PLAIN if seal_key is None else SUITE_XWING,
        key_id=NO_KEY_ID if seal_key is None else seal_key.key_id,
        job_id=quote.job_id,
        model_id=quote.model_id,
        provider=quote.provider,
        max_total=quote.max_total,
        expires_at_ms=unix_ms + lifetime_ms,
        payload_bytes=quote.input_bytes,
        items=quote.items,
        commitment=NO_COMMITMENT if secrets is None else secrets.commitment,
    ).encode()
    if seal_key is None or secrets is None:
        return header, plain_request(header)
    return header, seal_request(seal_key.public_key, header, secrets)
