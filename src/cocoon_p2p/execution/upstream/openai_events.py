"""One event of an OpenAI token stream. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cocoon_p2p.generation import LENGTH, MICRO, STOPPED, TOOLS, Token
from cocoon_p2p.limits import GENERATION_LOGPROBS_MAX, GENERATION_TOKENS_MAX

_FINISHES = {"stop": STOPPED, "length": LENGTH, "tool_calls": TOOLS, "function_call": TOOLS, "content_filter": STOPPED}
UNKNOWN_ID = 0
"""The id of every token: the API tells texts only, so such an answer cannot be resumed."""


@dataclass(frozen=True, slots=True)
class EventFormat:
    chat: bool
    """/v1/chat/completions, not /v1/completions."""


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A piece of one tool call, of several in one answer."""

    index: int
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Event:
    """What one event says."""

    text: str = ""
    finish: str | None = None
    """One of `generation.FINISHES`."""
    logprobs: tuple[Token, ...] = ()
    calls: tuple[ToolCallPart, ...] = ()
    prompt_tokens: int | None = None
    reused_tokens: int = 0
    answer_tokens: int | None = None
    """All until now; None where it does not say."""

    @property
    def has_content(self) -> bool:
        return bool(self.text or self.logprobs or self.calls)


def read_event(tree: Any, form: EventFormat) -> Event:
    """Raises ValueError, TypeError, LookupError, AttributeError, OverflowError for anything else."""
    usage = tree.get("usage")
    prompt, reused, answered = (None, 0, None) if usage is None else _usage(usage)
    choices = tree.get("choices") or []
    if not choices:
        return Event(prompt_tokens=prompt, reused_tokens=reused, answer_tokens=answered)
    choice = choices[0]
    if choice.get("index", 0) != 0 or len(choices) > 1:
        raise ValueError("more answers than were asked for")
    given = choice.get("finish_reason")
    delta = choice.get("delta") or {}
    text = _text((delta.get("content") if form.chat else choice.get("text")) or "")
    logprobs = choice.get("logprobs")
    tokens = () if logprobs is None else _chat_logprobs(logprobs) if form.chat else _plain_logprobs(logprobs)
    calls = tuple(_call_part(part) for part in delta.get("tool_calls") or ())
    finish = None if given is None else _FINISHES.get(given, STOPPED)
    return Event(text, finish, tokens, calls, prompt, reused, answered)


def _usage(usage: Mapping[str, Any]) -> tuple[int, int, int]:
    details = usage.get("prompt_tokens_details") or {}
    counts = usage["prompt_tokens"], details.get("cached_tokens") or 0, usage.get("completion_tokens") or 0
    if not all(type(each) is int and 0 <= each <= GENERATION_TOKENS_MAX for each in counts):
        raise ValueError("a usage that is none")
    return counts


def _chat_logprobs(tree: Mapping[str, Any]) -> tuple[Token, ...]:
    tokens = []
    for entry in tree.get("content") or ():
        top = tuple(
            (UNKNOWN_ID, _text(each["token"]), _micro(each["logprob"]))
            for each in (entry.get("top_logprobs") or ())[:GENERATION_LOGPROBS_MAX]
        )
        tokens.append(Token(UNKNOWN_ID, _micro(entry["logprob"]), top))
    return tuple(tokens)


def _plain_logprobs(tree: Mapping[str, Any]) -> tuple[Token, ...]:
    logprobs = tree.get("token_logprobs") or []
    tops = tree.get("top_logprobs") or [None] * len(logprobs)
    tokens = []
    for logprob, top in zip(logprobs, tops, strict=True):
        likeliest = tuple((UNKNOWN_ID, _text(text), _micro(value)) for text, value in (top or {}).items())
        tokens.append(Token(UNKNOWN_ID, _micro(logprob), likeliest[:GENERATION_LOGPROBS_MAX]))
    return tuple(tokens)


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise ValueError("text that is none")
    text.encode()  # JSON can name half a character, which nothing can write: a ValueError
    return text


def _micro(logprob: Any) -> int:
    """In millionths; minus infinity, which some write as -9999, stays what it is."""
    return round(max(float(logprob), -9999.0) * MICRO)


def _call_part(part: Mapping[str, Any]) -> ToolCallPart:
    function = part.get("function") or {}
    name, arguments, index = function.get("name") or "", function.get("arguments") or "", part.get("index", 0)
    if type(index) is not int or not 0 <= index < 128:
        raise ValueError("a tool call that is none")
    return ToolCallPart(index, _text(name), _text(arguments))
