"""How much of a prompt goes into one run: as much as takes the time that others may wait, by what runs took before."""

from __future__ import annotations

from cocoon_p2p.limits import (
    GENERATION_LOGITS_BYTES_MAX,
    GENERATION_PREFILL_ALONE_S,
    GENERATION_PREFILL_S,
    GENERATION_PREFILL_TOKENS_MAX,
    GENERATION_PREFILL_TOKENS_MIN,
    GENERATION_SCORES_MAX,
)

_FIRST_TOKENS = 64
"""Before anything is known of the model's speed."""
_NEWEST_WEIGHT = 0.3


class PrefillPace:
    def __init__(self, vocab: int) -> None:
        """`vocab`: columns of the logits, which most graphs compute for each token."""
        self._tokens_max = min(GENERATION_PREFILL_TOKENS_MAX, GENERATION_LOGITS_BYTES_MAX // (4 * vocab))
        self._token_s: float | None = None

    def seconds(self, *, alone: bool) -> float:
        """Work on prompts in one step; `alone`: no answer waits for its next token."""
        return GENERATION_PREFILL_ALONE_S if alone else GENERATION_PREFILL_S

    def tokens(self, seconds: float, before: int) -> int:
        """Of a run that is to take so long, behind so many tokens."""
        wanted = _FIRST_TOKENS if self._token_s is None else int(seconds / self._token_s)
        bound = min(self._tokens_max, GENERATION_SCORES_MAX // (before + GENERATION_PREFILL_TOKENS_MAX))
        return max(GENERATION_PREFILL_TOKENS_MIN, min(wanted, bound))

    def note(self, tokens: int, seconds: float) -> None:
        """A run took so long."""
        if tokens >= GENERATION_PREFILL_TOKENS_MIN:
            token_s = max(seconds / tokens, 1e-9)
            old = self._token_s
            self._token_s = token_s if old is None else old + _NEWEST_WEIGHT * (token_s - old)
