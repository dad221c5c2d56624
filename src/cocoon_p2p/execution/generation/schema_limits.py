"""What is read of a JSON schema or a regular expression, looked at before llguidance compiles it: it has bounds of its own, but reaches
some only after seconds, in which no answer of the worker gets a token, and a long chain of $ref overflows its stack.

The numbers are of llguidance 1.9, measured on one core in 2026: what is within all of them compiled in less than 0.3 s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import prod
from typing import Any
from urllib.parse import unquote

OPTIONAL_MAX = 500
"""Properties of one object that are not required: time grows with the square of it (4000: 0.8 s), and more than about 498 overflow a
row of the parser (LIMITS.max_items_in_row, four items each) as soon as the object begins."""
PARTS_MAX = 4000
"""Schemas within it: 0.2 s where they are 8 objects of 500 optional properties."""
VALUES_MAX = 16_000
"""Of all enum and const: 0.03 s."""
PATTERNS_MAX = 500
"""pattern, format, lengths and ranges: 1000 formats take 0.3 s."""
MEETING_MAX = 8
"""Patterns that one text must follow at once (allOf, $ref, anyOf): time doubles with each; 16: 0.07 s, 24: more than 10 s."""
COMBINATIONS_MAX = 400
"""Of alternatives (anyOf, enum) that are to hold together: 1024 take 0.3 to 0.6 s."""
PATTERN_PROPERTIES_MAX = 64
"""Each is compared with every other: 200 and 200 take 1.2 s."""
MULTIPLES_MAX = 10_000
"""Product of all different multipleOf, which is the number of remainders: 100,003 takes 0.15 s, 10⁸ seconds."""
LEVELS_MAX = 400
"""Of all that $ref names, one within the other: 1000 objects overflow a stack of 8 MiB, which ends the worker."""
PATTERN_CHARS_MAX = 100_000
"""Of a regular expression, or of all in a schema: 0.07 to 0.14 s; a million take 0.6 s."""

_MAPS = ("properties", "patternProperties", "dependentSchemas")
_ONE = ("items", "additionalProperties", "additionalItems", "not", "if", "then", "else", "contains", "propertyNames")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_LENGTHS = ("minLength", "maxLength")
_RANGES = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")

_Schema = Mapping[str, Any]
_ANNOTATIONS = frozenset(
    [
        "$ref",
        "allOf",
        "anyOf",
        "oneOf",
        "enum",
        "type",
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$schema",
        "$id",
        "$comment",
        "$defs",
        "definitions",
    ]
)
"""One of the first five with any of the others (but $ref with type) is made into no other schema than itself."""
_PARTS = "it has {} parts or more, those counted again that $ref, allOf or anyOf put together with others; {} are read"
_PATTERNS = "it has {} patterns, formats, lengths and ranges or more; {} are read"
_FEW_OPTIONAL = "have fewer, or make some of them required"
_OPTIONAL = "one object has {} properties that are not required; {} are read"


class TooLarge(ValueError):
    """For people: which bound was exceeded, and what to change."""


def check_regex(regex: str) -> None:
    """Raises TooLarge."""
    _bound(len(regex), PATTERN_CHARS_MAX, "it has {} characters; {} are read", "have fewer alternatives")


def check_schema(schema: _Schema) -> None:
    """Raises TooLarge, and RecursionError for one that is nested deeper than any that llguidance reads."""
    _Look(schema).look()


@dataclass(frozen=True, slots=True)
class _Meeting:
    """What holds at once in one place."""

    alternatives: int = 1
    patterns: int = 0
    optional: int = 0
    parts: int = 0


class _Look:
    """One walk through a schema: all that is reached from its root, each part once."""

    def __init__(self, root: _Schema) -> None:
        self._root = root
        self._waiting: list[_Schema] = [root]
        self._known: dict[str, _Schema] = {}
        self._seen: list[_Schema] = []
        self._met: dict[int, _Meeting] = {}
        self._multiples: set[int] = set()
        self._counts = dict.fromkeys(("parts", "values", "patterns", "chars", "named", "levels", "combinations"), 0)

    def look(self) -> None:
        while self._waiting:
            levels = self._walk(self._waiting.pop())
            self._count("levels", levels, LEVELS_MAX, "its $refs lead through {} levels or more; {} are followed")
        for schema in self._seen:  # now that they are few enough to be followed from one to the next
            meeting = self._meeting(schema)
            _bound(meeting.optional, OPTIONAL_MAX, _OPTIONAL, _FEW_OPTIONAL)
            said = "{} patterns must hold for one text at once; {} may"
            _bound(meeting.patterns, MEETING_MAX, said, "write one pattern instead")

    def _walk(self, schema: _Schema) -> int:
        """Of one schema and all in it; how many levels those are."""
        self._count("parts", 1, PARTS_MAX, _PARTS)
        self._count_words(schema)
        if "$id" in schema and schema is not self._root:  # its $refs would begin there
            raise TooLarge("a part of it has an $id of its own; write $refs to it as #/$defs/NAME, without $id")
        if isinstance(schema.get("$ref"), str):
            self._target(schema["$ref"])
        self._seen.append(schema)
        return 1 + max((self._walk(child) for child in _children(schema)), default=0)

    def _count_words(self, schema: _Schema) -> None:
        _bound(_own_optional(schema), OPTIONAL_MAX, _OPTIONAL, _FEW_OPTIONAL)
        values = _values(schema.get("enum")) + _values(schema.get("const"))
        self._count("values", values, VALUES_MAX, "it has {} values or more in enum and const; {} are read")
        patterns = _own_patterns(schema) + any(key in schema for key in _RANGES)
        self._count(
            "patterns", patterns, PATTERNS_MAX, "it has {} patterns, formats, lengths and ranges or more; {} are read"
        )
        named = schema.get("patternProperties")
        names = list(named) if isinstance(named, dict) else []
        self._count("named", len(names), PATTERN_PROPERTIES_MAX, "it has {} patternProperties or more; {} are read")
        chars = sum(len(text) for text in (*names, schema.get("pattern")) if isinstance(text, str))
        self._count("chars", chars, PATTERN_CHARS_MAX, "its patterns have {} characters or more; {} are read")
        multiple = schema.get("multipleOf")
        if isinstance(multiple, int | float) and multiple > 0:
            self._multiples.add(_digits(multiple))
            said = "its multipleOf have a product of {}, without their decimal points; {} is the largest"
            _bound(prod(self._multiples), MULTIPLES_MAX, said, "have fewer, or smaller ones")

    def _meeting(self, schema: _Schema) -> _Meeting:
        if id(schema) in self._met:
            return self._met[id(schema)]
        self._met[id(schema)] = _Meeting()  # of one that leads back to itself
        together = [self._meeting(each) for each in _schemas(schema.get("allOf"))]
        if isinstance(schema.get("$ref"), str):
            together.append(self._meeting(self._target(schema["$ref"])))
        for key in ("anyOf", "oneOf"):
            if choices := [self._meeting(each) for each in _schemas(schema.get(key))]:
                together.append(
                    _Meeting(
                        sum(each.alternatives for each in choices),
                        max(each.patterns for each in choices),
                        max(each.optional for each in choices),
                    )
                )
        if isinstance(schema.get("enum"), list):
            together.append(_Meeting(len(schema["enum"])))
        several = [each.alternatives for each in together if each.alternatives > 1]
        if len(several) > 1 or (several and _own_patterns(schema)):
            said = "its alternatives have {} combinations or more that are to hold together; {} are read"
            self._count("combinations", prod(several), COMBINATIONS_MAX, said)
        own = sum(1 for _ in _children(schema, _MAPS)) + 1
        if len(together) > 1 or (together and not _ANNOTATIONS.issuperset(schema)) or {"$ref", "type"} <= schema.keys():
            self._count_copies(prod(several), own, together)
        found = _Meeting(
            min(prod(several), COMBINATIONS_MAX + 1) if len(several) > 1 else prod(several),
            _own_patterns(schema) + sum(each.patterns for each in together),
            _own_optional(schema) + sum(each.optional for each in together),
            own + sum(each.parts for each in together),
        )
        self._met[id(schema)] = found
        return found

    def _count_copies(self, alternatives: int, own: int, together: list[_Meeting]) -> None:
        """What llguidance makes one schema of is as much work as if it stood there, and for each alternative once."""
        fixed = own + sum(each.parts for each in together if each.alternatives == 1)
        parts = alternatives * fixed + sum(each.parts for each in together if each.alternatives > 1)
        self._count("parts", parts, PARTS_MAX, _PARTS)
        self._count("patterns", sum(each.patterns for each in together), PATTERNS_MAX, _PATTERNS)

    def _target(self, reference: str) -> _Schema:
        """Raises TooLarge for one that names no schema in here: it would be followed past these bounds."""
        if reference in self._known:
            return self._known[reference]
        found: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list):
                found = found[int(name)] if name.isdecimal() and int(name) < len(found) else None
            else:
                found = found.get(name) if isinstance(found, dict) else None
        if not isinstance(found, dict) or not (reference == "#" or reference.startswith("#/")):
            raise TooLarge("a $ref names no schema within it; write it as #/$defs/NAME")
        self._known[reference] = found
        self._waiting.append(found)
        return found

    def _count(self, what: str, more: int, most: int, said: str) -> None:
        self._counts[what] += more
        _bound(self._counts[what], most, said, "have fewer, or ask for its parts one after the other")


def _bound(count: int, most: int, said: str, instead: str) -> None:
    if count > most:
        shown = str(count) if count < 10**12 else "more than 10¹²"
        raise TooLarge(f"{said.format(shown, most)}; {instead}")


def _children(schema: _Schema, maps: Sequence[str] = ()) -> Iterator[_Schema]:
    """Those of `maps` only, if any are given."""
    for key in maps or _MAPS:
        children = schema.get(key)
        if isinstance(children, dict):
            yield from (child for child in children.values() if isinstance(child, dict))
    for key in () if maps else _LISTS:
        yield from _schemas(schema.get(key))
    yield from (schema[key] for key in (() if maps else _ONE) if isinstance(schema.get(key), dict))


def _schemas(found: Any) -> list[_Schema]:
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _own_patterns(schema: _Schema) -> int:
    return ("pattern" in schema) + ("format" in schema) + any(key in schema for key in _LENGTHS)


def _own_optional(schema: _Schema) -> int:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        return 0
    needed = {each for each in required if isinstance(each, str)} if isinstance(required, list) else set()
    return sum(name not in needed for name in properties)


def _values(value: Any) -> int:
    """Of JSON, with all in it."""
    if isinstance(value, dict):
        return 1 + sum(_values(each) for each in value.values())
    if isinstance(value, list):
        return 1 + sum(_values(each) for each in value)
    return 0 if value is None else 1


def _digits(number: float) -> int:
    """Without its decimal point, as llguidance computes with it: 25 of 0.25."""
    if isinstance(number, int):
        return number
    shown = Decimal(repr(number))
    return int(shown.scaleb(-min(0, int(shown.as_tuple().exponent)))) if shown.is_finite() else MULTIPLES_MAX + 1
