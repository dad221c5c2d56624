"""The JSON heads of /v1/run: what is asked for, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.gateway.fields import integer, known_keys, seconds, text
from cocoon_p2p.ids import parse_peer_id
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, HEDGE_MAX, JOB_TIMEOUT_MAX_S, NAME_CHARS_MAX, QUORUM_MAX
from cocoon_p2p.policy.preference import PREFERENCES

if TYPE_CHECKING:
    from cocoon_p2p.node import RunRequest, RunResult

REQUEST_KEYS = (
    "model",
    "tier",
    "max_price",
    "provider",
    "timeout_s",
    "min_reliability",
    "prefer",
    "hedge",
    "quorum",
    "dry_run",
)
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
        min_reliability=_share(head, "min_reliability"),
        prefer=_preference(head),
        hedge=_count(head, "hedge", HEDGE_MAX),
        quorum=_count(head, "quorum", QUORUM_MAX),
    )


def is_dry_run(head: dict[str, Any]) -> bool:
    """Whether nothing is to be run, and only said who would. Raises ConfigError."""
    given = head.get("dry_run")
    if given is not None and not isinstance(given, bool):
        raise ConfigError("dry_run: true or false is needed")
    return bool(given)


def _preference(head: dict[str, Any]) -> str | None:
    given = text(head, "prefer", chars_max=NAME_CHARS_MAX)
    if given is not None and given not in PREFERENCES:
        raise ConfigError(f"prefer: {given!r} is none of {', '.join(PREFERENCES)}")
    return given


def _count(head: dict[str, Any], name: str, high: int) -> int:
    given = integer(head, name, high=high)
    if given is not None and given < 1:
        raise ConfigError(f"{name}: a whole number from 1 to {high} is needed")
    return 1 if given is None else given


def _share(head: dict[str, Any], name: str) -> float | None:
    given = head.get(name)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 1:
        raise ConfigError(f"{name}: a number from 0 to 1 is needed")
    return float(given)


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
        "agreement": result.agreement,
        "labels": list(result.labels),
        "texts_cut": result.texts_cut,
        "tokens_max": result.tokens_max,
    }
