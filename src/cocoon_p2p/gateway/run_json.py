"""The JSON heads of /v1/run: what is asked for, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.gateway.fields import integer, known_keys, seconds, text
from cocoon_p2p.ids import parse_peer_id
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, JOB_TIMEOUT_MAX_S, NAME_CHARS_MAX

if TYPE_CHECKING:
    from cocoon_p2p.node import RunRequest, RunResult

REQUEST_KEYS = ("model", "tier", "max_price", "provider", "timeout_s")
TIERS = ("sealed", "open")


def run_request(head: dict[str, Any]) -> RunRequest:
    """The JSON head of a request, checked; what is left out is the configuration's. Raises ConfigError that names the
    field."""
    from cocoon_p2p.node import RunRequest

    known_keys(head, REQUEST_KEYS)
    model = text(head, "model", chars_max=NAME_CHARS_MAX)
    if model is None:
        raise ConfigError("model: the name or id of a model is needed")
    tier = text(head, "tier", chars_max=NAME_CHARS_MAX)
    if tier is not None and tier not in TIERS:
        raise ConfigError(f"tier: {tier!r} is none of {', '.join(TIERS)}")
    provider = text(head, "provider", chars_max=NAME_CHARS_MAX)
    if provider is not None:
        try:
            provider = parse_peer_id(provider)
        except ValueError as error:
            raise ConfigError(f"provider: {error}") from error
    return RunRequest(
        model,
        tier=tier,
        max_price=integer(head, "max_price", high=AMOUNT_NANOGRAM_MAX),
        provider=provider,
        timeout_s=seconds(head, "timeout_s", high=JOB_TIMEOUT_MAX_S),
    )


def result_to_json(result: RunResult) -> dict[str, Any]:
    """What a job came to, without its outputs."""
    return {
        "job_id": result.job_id,
        "model_id": result.model_id,
        "provider": result.provider,
        "price_nanogram": result.price_nanogram,
        "timeline_ms": result.timeline_ms,
        "receipt": result.receipt,
        "attempts": result.attempts,
    }
