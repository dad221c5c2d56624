"""Answers of a given form: JSON of a schema, or a regular expression. llguidance says which tokens may come next."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.generation.grammar_limits import LIMITS, too_large
from cocoon_p2p.execution.generation.schema_limits import TooLarge, check_regex, check_schema
from cocoon_p2p.execution.generation.tokens import TokenCodec
from cocoon_p2p.generation import GenerationRequest
from cocoon_p2p.models.generation_spec import GenerationSpec

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

_REASON_CHARS_MAX = 200
_NO_WORDS = r"<(?:state|backtrace|non-verbose/)>"
"""What follows them in an error of llguidance is no reason."""
_MISFIT = "satisfy the grammar"
"""In its error for a token that may not come next."""
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
        """None for a free answer. Raises ExecutionError: INPUT for a grammar that is not understood or too large, MODEL for a
        tokenizer that llguidance cannot guide."""
        what = "json_schema" if request.json_schema is not None else "regex"
        try:
            grammar = _grammar(request)
        except TooLarge as error:
            raise ExecutionError(f"{what} is too large: {error}", code="INPUT") from None
        except (ValueError, RecursionError) as error:
            raise ExecutionError(f"{what} is not understood ({type(error).__name__})", code="INPUT") from None
        if grammar is None:
            return None
        matcher = LLMatcher(self._tree(), grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            text = too_large(what, matcher.get_error()) or f"{what} is not understood: {_reason(matcher)}"
            raise ExecutionError(text, code="INPUT")
        guide = Guide(what, matcher, self._spec.vocab, self._spec.eos_ids)
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
    """Raises TooLarge before anything is compiled; ValueError and RecursionError."""
    if request.json_schema is not None:
        check_schema(request.json_schema)
        return LLMatcher.grammar_from_json_schema(json.dumps(dict(request.json_schema)), defaults=_JSON)
    if request.regex is None:
        return None
    check_regex(request.regex)
    return LLMatcher.grammar_from_regex(request.regex)


class Guide:
    """Of one answer, by the request's `what`: "json_schema" or "regex"."""

    def __init__(self, what: str, matcher: LLMatcher, vocab: int, eos_ids: Sequence[int]) -> None:
        self._what = what
        self._matcher = matcher
        self._vocab = vocab
        self._ends = list(eos_ids)

    def allowed(self) -> NDArray[np.bool_]:
        """[vocab]: the tokens that may come next; once nothing more fits, only those that end the answer. Raises
        ExecutionError(code="INPUT") for a grammar that got too large on the way."""
        if self._matcher.is_stopped() and not self._matcher.is_error():
            ends = np.zeros(self._vocab, np.bool_)
            ends[self._ends] = True
            return ends
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise self._overflow()
        allowed = np.unpackbits(bits, count=self._vocab, bitorder="little").view(np.bool_)
        if not allowed.any():
            raise ExecutionError(f"no token of the model fits the {self._what} here", code="INPUT")
        return allowed

    def take(self, token: int) -> None:
        """The answer goes on with this token. Raises ExecutionError(code="INPUT") when it may not, and for a grammar that it makes
        too large."""
        if token in self._ends or self._matcher.consume_token(token):
            return
        if _MISFIT in self._matcher.get_error():
            raise ExecutionError(f"the answer so far does not follow its own {self._what}", code="INPUT")
        raise self._overflow()

    def _overflow(self) -> ExecutionError:
        """INPUT, though the grammar was understood: the bounds are those of every provider, and what is drawn follows from the
        request, so nobody would get any further with it."""
        text = too_large(self._what, self._matcher.get_error())
        return ExecutionError(text or f"{self._what} is too large: {_reason(self._matcher)}", code="INPUT")


def _reason(matcher: LLMatcher) -> str:
    """Of the client's own grammar, the beginning of what is wrong with it: without state, and traces of our own machine."""
    return " ".join(re.split(_NO_WORDS, matcher.get_error(), maxsplit=1)[0].split())[:_REASON_CHARS_MAX]
