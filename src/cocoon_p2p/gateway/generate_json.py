"""`POST /v1/generate` as JSON: what is asked for, and the lines of the answer::

    {"start": {"job_id"}}                                          with the first piece
    {"piece": {"text", "tokens": [{"id", "logprob", "top"}]}}      as they come; logprob and top where they were asked for
    {"result": {"text", "finish", "usage", "price_nanogram", …}}   the last one, or
    {"error": {"code", "message", "hint", "retryable"}, "result": {…}}   with what came before

Both ends use this file; it imports no web framework.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.gateway.errors_json import error_to_json
from cocoon_p2p.gateway.run_json import run_request
from cocoon_p2p.generation import MICRO, GenerationRequest, Piece

if TYPE_CHECKING:
    from cocoon_p2p.node import Generation, RunRequest

LIMIT_KEYS = ("model", "tier", "max_price", "provider", "timeout_s", "min_reliability", "prefer")
REQUEST_KEYS = tuple(each.name for each in fields(GenerationRequest) if each.name != "resume")


def generate_request(head: dict[str, Any]) -> tuple[RunRequest, GenerationRequest, bool]:
    """What is asked for: limits, request, and whether a prompt is taken as it is ("raw"). Raises ConfigError."""
    from cocoon_p2p.gateway.fields import known_keys
    from cocoon_p2p.node_generate import generation_request

    known_keys(head, (*LIMIT_KEYS, *REQUEST_KEYS, "raw"))
    raw = head.get("raw", False)
    if not isinstance(raw, bool):
        raise ConfigError("raw: true or false is needed")
    limits = run_request({key: value for key, value in head.items() if key in LIMIT_KEYS})
    given = {key: value for key, value in head.items() if key in REQUEST_KEYS and value is not None}
    return limits, generation_request(**given), raw


def start_line(generation: Generation) -> dict[str, Any]:
    return {"start": {"job_id": generation.job_id}}


def piece_line(piece: Piece) -> dict[str, Any]:
    tokens: list[dict[str, Any]] = []
    for token in piece.tokens:
        row: dict[str, Any] = {"id": token.id}
        if token.logprob is not None:
            row["logprob"] = token.logprob / MICRO
            row["top"] = [{"id": each, "text": text, "logprob": value / MICRO} for each, text, value in token.top]
        tokens.append(row)
    return {"piece": {"text": piece.text, "tokens": tokens}}


def result_row(generation: Generation) -> dict[str, Any]:
    """What it came to."""
    return {
        "job_id": generation.job_id,
        "model_id": generation.model_id,
        "provider": generation.provider,
        "text": generation.text,
        "finish": generation.finish,
        "usage": asdict(generation.usage),
        "price_nanogram": generation.price_nanogram,
        "attempts": generation.attempts,
        "first_token_s": _rounded(generation.first_token_s),
        "tokens_s": _rounded(generation.tokens_s),
    }


def end_line(generation: Generation, error: CocoonError | None) -> dict[str, Any]:
    """The last line."""
    line = {"result": result_row(generation)}
    return line if error is None else error_to_json(error) | line


def encode_line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
