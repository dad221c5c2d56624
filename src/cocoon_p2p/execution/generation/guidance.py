"""Answers of a given form: JSON of a schema, or a regular expression. llguidance says which tokens may come next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.generation.tokens import TokenCodec
from cocoon_p2p.generation import GenerationRequest
from cocoon_p2p.models.generation_spec import GenerationSpec

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

_REASON_CHARS_MAX = 200
_JSON: JsonCompileOptions = {"whitespace_flexible": False}
"""A weak model that may write blanks anywhere writes them for ever."""


class Guides:
    """Makes them for one model. The tokenizer's tree of tokens (half a second for a large vocabulary) is built for the first
    that is asked for."""

    def __init__(self, codec: TokenCodec, spec: GenerationSpec) -> None:
        self._codec = codec
        self._spec = spec
        self._tokenizer: LLTokenizer | None = None

    def of(self, request: GenerationRequest) -> Guide | None:
        """None for a free answer. Raises ExecutionError: INPUT for a grammar that is not understood, MODEL for a tokenizer that
        llguidance cannot guide."""
        what = "json_schema" if request.json_schema is not None else "regex"
        try:
            grammar = _grammar(request)
        except (ValueError, RecursionError) as error:
            raise ExecutionError(f"{what} is not understood ({type(error).__name__})", code="INPUT") from None
        if grammar is None:
            return None
        # The words of its errors without the state and the grammar, which would hold the answer.
        matcher = LLMatcher(self._tree(), grammar, log_level=0, limits=LLParserLimits(verbose_errors=False))
        if matcher.is_error():
            reason = _reason(matcher)
            raise ExecutionError(f"{what} is not understood: {reason}", code="INPUT")
        guide = Guide(matcher, self._spec.vocab, self._spec.eos_ids)
        for token in request.resume:
            guide.take(token)
        return guide

    def _tree(self) -> LLTokenizer:
        if self._tokenizer is None:
            try:
                self._tokenizer = LLTokenizer(
                    self._codec.json, n_vocab=self._spec.vocab, eos_token=list(self._spec.eos_ids)
                )
            except (ValueError, RuntimeError) as error:
                text = "answers of this model cannot be guided: its tokenizer is of an unknown kind"
                raise ExecutionError(text, code="MODEL") from error
        return self._tokenizer


def _grammar(request: GenerationRequest) -> str | None:
    if request.json_schema is not None:
        return LLMatcher.grammar_from_json_schema(json.dumps(dict(request.json_schema)), defaults=_JSON)
    return None if request.regex is None else LLMatcher.grammar_from_regex(request.regex)


class Guide:
    """Of one answer."""

    def __init__(self, matcher: LLMatcher, vocab: int, eos_ids: Sequence[int]) -> None:
        self._matcher = matcher
        self._vocab = vocab
        self._ends = list(eos_ids)

    def allowed(self) -> NDArray[np.bool_]:
        """[vocab]: the tokens that may come next; once nothing more fits, only those that end the answer. Raises
        ExecutionError(code="LIMITS") for a grammar that got too complicated on the way."""
        if self._matcher.is_stopped() and not self._matcher.is_error():
            ends = np.zeros(self._vocab, np.bool_)
            ends[self._ends] = True
            return ends
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise ExecutionError(f"the grammar became too large: {_reason(self._matcher)}", code="LIMITS")
        allowed = np.unpackbits(bits, count=self._vocab, bitorder="little").view(np.bool_)
        if not allowed.any():
            raise ExecutionError("no token of the model fits the grammar here", code="LIMITS")
        return allowed

    def take(self, token: int) -> None:
        """The answer goes on with this token. Raises ExecutionError(code="INPUT") when it may not."""
        if token not in self._ends and not self._matcher.consume_token(token):
            raise ExecutionError("the answer so far does not follow its own grammar", code="INPUT")


def _reason(matcher: LLMatcher) -> str:
    """Of the client's own grammar, the beginning of what is wrong with it."""
    return " ".join(matcher.get_error().split("<state>")[0].split())[:_REASON_CHARS_MAX]
