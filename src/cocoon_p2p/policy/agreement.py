"""When two answers are the same answer, and which of several answers is the right one.

Answers of one model differ a little from machine to machine: the order of additions, fused operations and number formats of
the hardware. So they are compared with a tolerance by the precision that the model computes in, never by hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations


class Precision(Enum):
    """What a model computes in, as far as its answers show it."""

    FLOAT32 = "float32"
    """float32 or float64 throughout."""
    FLOAT16 = "float16"
    """float16 or bfloat16 somewhere."""
    INT8 = "int8"
    """Weights or activations of 8 bits or fewer somewhere."""


TOLERANCES = {
    # Measured on CPUs: 1.4e-7 between instruction sets and batch sizes. GPUs multiply float32 in TF32, with 10 bits of
    # fraction: 1e-3 a product, some 2e-3 at the end of a deep graph.
    Precision.FLOAT32: 5e-3,
    # Measured on CPUs: 1e-4. bfloat16 has 7 bits of fraction: 4e-3 a rounding, some of which add up.
    Precision.FLOAT16: 2e-2,
    # Measured: 7e-2 between CPUs with and without VNNI, whose accumulators saturate differently.
    Precision.INT8: 1.5e-1,
}
MAGNITUDE_FLOOR = 1e-3
"""A tensor with only smaller values is compared as if this were its largest one: what should be zero is noise of some 1e-7
where it came from a difference, on every machine another."""
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two answers may lie apart, relative to the largest magnitude of each tensor."""

    bound: float
    quantised: bool = False
    """Output tensors of 8 bits or fewer are numbers with rounding, not exact values."""

    @property
    def millionths(self) -> int:
        """The bound as it stands in evidence."""
        return round(self.bound * _MILLION)


def tolerance(precision: Precision) -> Tolerance:
    """For answers of a model of this precision."""
    return Tolerance(TOLERANCES[precision], quantised=precision is Precision.INT8)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two answers compare. Both directions give the same."""

    deviation: float
    """The worst of all tensors, relative to the tensor's largest magnitude; infinite where they cannot be compared (other
    names, types, shapes), where values that must be equal are not, and where only one is NaN."""
    tensor: str = ""
    """Which tensor that was; "" when all are equal."""

    def within(self, bound: float) -> bool:
        return self.deviation <= bound


def majority(agrees: Sequence[Sequence[bool]]) -> frozenset[int] | None:
    """The largest group of answers that all agree with each other, if it has more than half of all and no other group is
    as large; else None. `agrees[i][j]` says whether the answers i and j agree; up to 9 answers (limits.QUORUM_MAX)."""
    count = len(agrees)
    for size in range(count, count // 2, -1):
        groups = [group for group in combinations(range(count), size) if _all_agree(agrees, group)]
        if groups:
            return frozenset(groups[0]) if len(groups) == 1 else None
    return None


def _all_agree(agrees: Sequence[Sequence[bool]], group: Sequence[int]) -> bool:
    return all(agrees[one][other] for one, other in combinations(group, 2))
