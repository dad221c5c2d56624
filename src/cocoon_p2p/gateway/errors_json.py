"""Errors as the local API sends them: {"error": {"code", "message", "hint", "retryable"}} and a status."""

from __future__ import annotations

from typing import Any

from cocoon_p2p.errors import (
    CocoonError,
    ConfigError,
    ExecutionError,
    PeerRefused,
    SettlementError,
    TransportError,
)

CONFIG_STATUS = 400
"""Only ConfigError has this status, so that the client at the other end can tell whose mistake it was."""
_STATUS: tuple[tuple[type[CocoonError], int], ...] = (
    (ConfigError, CONFIG_STATUS),
    (SettlementError, 402),
    (PeerRefused, 409),
    (ExecutionError, 422),
    (TransportError, 502),
)


def status_of(error: CocoonError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def error_to_json(error: CocoonError) -> dict[str, Any]:
    """The body."""
    details = {"code": error.code, "message": error.message, "hint": error.hint, "retryable": error.retryable}
    return {"error": details}


def error_from_json(status: int, body: dict[str, Any]) -> CocoonError:
    """The exception a client raises for an answer that is an error."""
    details = body.get("error")
    if not isinstance(details, dict):
        return CocoonError(f"the node answered with status {status}", code="INTERNAL")
    kind = ConfigError if status == CONFIG_STATUS else CocoonError
    return kind(
        str(details.get("message")),
        code=str(details.get("code")),
        hint=details.get("hint"),
        retryable=bool(details.get("retryable")),
    )
