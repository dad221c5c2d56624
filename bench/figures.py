"""Figures and how they are made of measurements: one value a round, their median, and the range that they fell in."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Details = dict[str, Any]
"""JSON-ready."""


@dataclass(frozen=True, slots=True)
class Aim:
    relation: Literal["<=", ">="]
    value: float

    def met_by(self, value: float) -> bool:
        return value <= self.value if self.relation == "<=" else value >= self.value

    def __str__(self) -> str:
        return f"{'≤' if self.relation == '<=' else '≥'} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    name: str
    unit: str
    """"" for a ratio."""
    rounds: tuple[float, ...]
    """At least one."""
    aim: Aim | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def met(self) -> bool | None:
        """Whether the median meets the aim; None without one."""
        return None if self.aim is None else self.aim.met_by(self.median)

    def as_json(self) -> Details:
        return {
            "name": self.name,
            "unit": self.unit,
            "median": rounded(self.median),
            "min": rounded(min(self.rounds)),
            "max": rounded(max(self.rounds)),
            "rounds": [rounded(value) for value in self.rounds],
            "aim": None if self.aim is None else {"relation": self.aim.relation, "value": self.aim.value},
            "met": self.met,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """One benchmark."""

    name: str
    measures: str
    """In one line."""
    figures: tuple[Figure, ...]
    details: Details = field(default_factory=dict)

    def as_json(self) -> Details:
        return {
            "name": self.name,
            "measures": self.measures,
            "figures": [figure.as_json() for figure in self.figures],
            "details": self.details,
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of `values` that at least `percent` of them do not exceed ("nearest rank")."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Round by round, so that what slowed both in one round cancels."""
    return tuple(our / their for our, their in zip(ours, theirs, strict=True))


def rounded(value: float) -> float:
    """To four significant digits: more is noise."""
    return float(f"{value:.4g}")
