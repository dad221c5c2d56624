"""Reading the fields of a JSON object that another program of this user sent; every error names the field."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from cocoon_p2p.errors import ConfigError


def known_keys(head: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises ConfigError for a key that is not in `known`, naming the nearest."""
    for key in head:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(known)}"
            raise ConfigError(f"{key[:40]}: there is no such key", hint=hint)


def text(head: Mapping[str, Any], key: str, *, chars_max: int) -> str | None:
    """A text or None. Raises ConfigError, also for half a character: JSON can name one, and no message can carry it."""
    value = head.get(key)
    if value is None or (isinstance(value, str) and 0 < len(value) <= chars_max and _is_whole(value)):
        return value
    raise ConfigError(f"{key}: must be a text of 1 to {chars_max} characters")


def _is_whole(value: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in value)


def integer(head: Mapping[str, Any], key: str, *, high: int) -> int | None:
    """A whole number from 0 to `high`, or None. Raises ConfigError."""
    value = head.get(key)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= high):
        return value
    raise ConfigError(f"{key}: must be a whole number from 0 to {high:,}")


def seconds(head: Mapping[str, Any], key: str, *, high: float) -> float | None:
    """A number of seconds above 0 and up to `high`, or None. Raises ConfigError."""
    value = head.get(key)
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= high:  # false for nan
        return float(value)
    raise ConfigError(f"{key}: must be a number of seconds above 0 and up to {high:,.0f}")
