"""Which token comes next: greedy, or drawn by a seed and the token's place in the answer alone.

So any provider that computes the same probabilities goes on with the same draws, and it does not matter what else was decoded
beside an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator, Philox  # at once: a worker in its jail can load no more modules
from numpy.typing import NDArray

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.generation import MICRO, GenerationRequest

_BLOCK = 256
"""Weights are summed in blocks: ten times quicker than one by one."""
_SAFELY = 0.99
"""Against rounding."""
_LOWEST_MICRO = -(10**9)
_COLDEST = np.finfo(np.float32).tiny
"""Of the temperatures above 0: anything colder would be 0 as a float32, and nothing can be divided by that."""
Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sampling:
    temperature: float
    top_k: int
    top_p: float
    seed: int

    @classmethod
    def of(cls, request: GenerationRequest) -> Sampling:
        return cls(request.temperature, request.top_k, request.top_p, request.seed)

    def choose(self, logits: Logits, position: int, allowed: NDArray[np.bool_] | None = None) -> int:
        """The token at `position` of the answer. `logits` [vocab]; `allowed` [vocab]: others are out. Raises
        ExecutionError(code="MODEL") when the logits are no numbers."""
        if allowed is not None:
            logits = np.where(allowed, logits, np.float32(-np.inf))
        best = int(logits.argmax())  # the first of equals; and NaN counts as the largest
        if not np.isfinite(logits[best]):
            raise ExecutionError("the model computed no probabilities (not a number, or infinite)", code="MODEL")
        if self.temperature == 0 or self.top_k == 1 or self.top_p == 0:
            return best
        kept = np.sort(likeliest(logits, self.top_k)) if 0 < self.top_k < len(logits) else None
        of = logits if kept is None else logits[kept]
        with np.errstate(under="ignore", over="ignore"):
            weights = np.exp((of - logits[best]) / max(np.float32(self.temperature), _COLDEST))
        if self.top_p < 1:
            inner = nucleus(weights, self.top_p)
            weights, kept = weights[inner], inner if kept is None else kept[inner]
        place = drawn(weights, draw(self.seed, position))
        return place if kept is None else int(kept[place])


def drawn(weights: Logits, number: float) -> int:
    """The place where the sum of the weights first passes `number` (from 0 up to 1) times that of all."""
    starts = np.arange(0, len(weights), _BLOCK)
    sums = np.cumsum(np.add.reduceat(weights, starts, dtype=np.float64))
    goal = number * sums[-1]
    block = min(int(np.searchsorted(sums, goal, side="right")), len(sums) - 1)
    before = float(sums[block - 1]) if block else 0.0
    within = before + np.cumsum(weights[starts[block] : starts[block] + _BLOCK], dtype=np.float64)
    place = int(starts[block]) + min(int(np.searchsorted(within, goal, side="right")), len(within) - 1)
    while weights[place] == 0:  # rounding: what has no weight is out
        place -= 1
    return place


def draw(seed: int, position: int) -> float:
    """A number from 0 up to 1, from Philox4x64-10 (Salmon et al., SC 2011) with the key (seed, position)."""
    return float(Generator(Philox(key=np.array([seed, position], np.uint64))).random())


def nucleus(weights: Logits, share: float) -> NDArray[np.int64]:
    """The fewest tokens, likeliest first, that have `share` of the sum of all; ascending."""
    total = float(weights.sum(dtype=np.float64))
    # Those below the mean of what is to be left out have less than that together: they are never among the fewest.
    candidates = np.flatnonzero(weights >= np.float32((1 - share) * total / len(weights) * _SAFELY))
    order = candidates[np.argsort(-weights[candidates], kind="stable")]
    sums = np.cumsum(weights[order], dtype=np.float64)
    return np.sort(order[: int(np.searchsorted(sums, share * total, side="left")) + 1])


def likeliest(weights: NDArray[Any], count: int) -> NDArray[np.int64]:
    """The `count` tokens of largest weight, the largest first, of equals the lowest id."""
    if count < len(weights):
        # Whatever argpartition takes of those equal to the last one is chance, so that the ids among them are chosen here.
        edge = np.partition(weights, len(weights) - count)[len(weights) - count]
        above = np.flatnonzero(weights > edge)
        equal = np.flatnonzero(weights == edge)[: count - len(above)]
        ids = np.concatenate([above, equal])
    else:
        ids = np.arange(len(weights))
    order = np.lexsort((ids, -weights[ids]))
    chosen: NDArray[np.int64] = ids[order]
    return chosen


def logprobs(logits: Logits, token: int, count: int) -> tuple[int, list[tuple[int, int]]]:
    """Of the token, and of the `count` likeliest as (id, logprob): natural logarithms in millionths, of what the model itself
    says, before temperature and guidance."""
    wide = logits.astype(np.float64)
    top = float(wide.max())
    with np.errstate(under="ignore"):
        norm = top + float(np.log(np.exp(wide - top).sum()))
    ids = likeliest(logits, min(count, len(logits))) if count else ()
    return _micro(wide[token] - norm), [(int(each), _micro(wide[each] - norm)) for each in ids]


def _micro(logprob: float) -> int:
    return max(_LOWEST_MICRO, round(logprob * MICRO)) if np.isfinite(logprob) else _LOWEST_MICRO
