"""Strict reading of a manifest's JSON: exact keys, types and bounds. Whatever is wrong is a ManifestError."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

MANIFEST_NAME, OFFER_NAME, PIECES_NAME = "manifest.json", "offer.json", "pieces.bin"
PATH_CHARS_MAX = 200
_T = TypeVar("_T")


class ManifestError(ValueError):
    """The bytes are no manifest of this format; the message says what is wrong."""


def read_json(data: bytes) -> Any:
    """JSON without fractions and without a key that stands twice."""
    try:
        return json.loads(data, parse_float=_no_float, parse_constant=_no_float, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"not JSON: {error}"[:200]) from error


def canonical(tree: Any) -> bytes:
    """JSON in UTF-8, keys sorted, no spaces. Raises UnicodeEncodeError for a text that is no Unicode."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def check_path(path: str) -> None:
    """Raises ManifestError unless `path` is a relative path that stays within the model's folder everywhere."""
    parts = path.split("/")
    plain = all(part and not part.startswith(".") and not part.endswith((" ", ".")) for part in parts)
    if not plain or len(path) > PATH_CHARS_MAX or any(c in '\\:*?"<>|' or not c.isprintable() for c in path):
        raise ManifestError(f"{path[:80]!r} is not allowed as the path of a model's file")
    if path.casefold() in (MANIFEST_NAME, OFFER_NAME, PIECES_NAME):
        raise ManifestError(f"a model's file cannot be called {path}")


def read_object(tree: Any, what: str, keys: set[str], *, optional: frozenset[str] = frozenset()) -> dict[str, Any]:
    """An object with exactly `keys`, and any of `optional`."""
    if not isinstance(tree, dict) or set(tree) - optional != keys:
        raise ManifestError(f"{what} must be an object with the keys {', '.join(sorted(keys))}")
    return tree


def read_list(tree: Any, what: str, length_max: int, entry: Callable[[Any], _T]) -> tuple[_T, ...]:
    """A list, each entry read by `entry`."""
    if not isinstance(tree, list) or len(tree) > length_max:
        raise ManifestError(f"{what} must be a list of at most {length_max}")
    return tuple(entry(item) for item in tree)


def read_text(tree: Any, what: str, length_max: int) -> str:
    """A text of at most so many characters."""
    if not isinstance(tree, str) or len(tree) > length_max:
        raise ManifestError(f"{what} must be a text of at most {length_max} characters")
    return tree


def read_text_or_none(tree: Any, what: str, length_max: int) -> str | None:
    """The same, or null."""
    return None if tree is None else read_text(tree, what, length_max)


def read_integer(tree: Any, what: str, least: int, most: int) -> int:
    """An integer, never a boolean."""
    if not isinstance(tree, int) or isinstance(tree, bool) or not least <= tree <= most:
        raise ManifestError(f"{what} must be an integer from {least} to {most}")
    return tree


def read_boolean(tree: Any, what: str) -> bool:
    """True or false."""
    if not isinstance(tree, bool):
        raise ManifestError(f"{what} must be true or false")
    return tree


def read_choice(tree: Any, what: str, choices: tuple[str, ...]) -> str:
    """One of a closed set of texts."""
    if not isinstance(tree, str) or tree not in choices:
        raise ManifestError(f"{what} must be one of {', '.join(choices)}")
    return tree


def _no_float(text: str) -> Any:
    raise ManifestError(f"{text[:20]!r}: only integers stand in a manifest")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ManifestError("a key stands twice in the manifest")
    return fields
