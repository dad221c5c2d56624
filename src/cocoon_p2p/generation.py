"""Generating text: what a client asks for, and what comes back piece by piece (protocols/job/1 §10).

Both are JSON in UTF-8 and travel sealed. A request is the one string of a payload's tensor `generate`; an answer is a
row of frames, each with some tokens, of which the last says why the model stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.limits import (
    GENERATION_LOGPROBS_MAX,
    GENERATION_MESSAGES_MAX,
    GENERATION_REQUEST_BYTES_MAX,
    GENERATION_STOP_CHARS_MAX,
    GENERATION_STOPS_MAX,
    GENERATION_TOKENS_MAX,
)
from cocoon_p2p.tensors import Payload, PayloadError, string_tensor, unpack_strings

GENERATE_INPUT = "generate"
"""Name of the string tensor, shape [1], that holds the request."""
STOPPED, LENGTH, CALLER, TOOLS = FINISHES = ("stop", "length", "caller", "tool_calls")
"""The model's end or a stop string; the bound on tokens; the client said STOP; the model calls tools."""
MICRO = 1_000_000
_MICRO_MAX = 2**53
"""Of a log-probability, which others read as a float."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Exactly one of `prompt` and `messages`. Sampling is as in the OpenAI API; temperature 0 is greedy."""

    prompt: str | None = field(default=None, repr=False)
    """Taken as it is: no template."""
    messages: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """A chat, for the model's chat template: {"role", "content", …}."""
    tools: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """Definitions of tools, for the template."""
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    seed: int = 0
    """The draw of each position follows from the seed and the position alone, so another provider can go on with it."""
    stop: tuple[str, ...] = field(default=(), repr=False)
    logprobs: int | None = None
    """None: no log-probabilities; n: those of the tokens drawn, and of the n likeliest at each position."""
    json_schema: Mapping[str, Any] | None = field(default=None, repr=False)
    """The answer is JSON of this schema."""
    regex: str | None = field(default=None, repr=False)
    """The answer matches this expression."""
    resume: tuple[int, ...] = field(default=(), repr=False)
    """Ids of the answer's tokens so far: the answer goes on behind them."""
    chat: str = ""
    """A name that the client draws for one chat: the provider may keep what it computed of one turn for the next one of the same client
    and name. Empty: nothing is kept."""

    def encode(self) -> bytes:
        """JSON, without what is as it is by default."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        kept = {name: value for name, value in given.items() if value != _DEFAULTS[name]}
        return json.dumps(kept, ensure_ascii=False, separators=(",", ":"), default=_plain).encode()

    def payload(self) -> Payload:
        """As it travels."""
        return Payload((string_tensor(GENERATE_INPUT, [self.encode().decode()]),))


_DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(GenerationRequest)}


@dataclass(frozen=True, slots=True)
class Token:
    """One token of the answer."""

    id: int
    logprob: int | None = None
    """Natural logarithm of its probability, in millionths; None when it was not asked for."""
    top: tuple[tuple[int, str, int], ...] = ()
    """The likeliest at its place: id, text, logprob in millionths."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one frame carries. `text` is what became readable with these tokens: a character may need several, and what could be the
    beginning of a stop string waits."""

    tokens: tuple[Token, ...] = field(repr=False)
    text: str = field(repr=False)
    finish: str | None = None
    """One of FINISHES in the last frame."""
    prompt_tokens: int | None = None
    """In the first frame."""
    reused_tokens: int = 0
    """Of the prompt's tokens, those that were not computed anew; in the first frame."""

    def encode(self) -> bytes:
        tree: dict[str, Any] = {"t": [token.id for token in self.tokens], "s": self.text}
        if any(token.logprob is not None for token in self.tokens):
            tree["l"] = [token.logprob for token in self.tokens]
            tree["p"] = [[list(entry) for entry in token.top] for token in self.tokens]
        if self.finish is not None:
            tree["f"] = self.finish
        if self.prompt_tokens is not None:
            tree["n"] = [self.prompt_tokens, self.reused_tokens]
        return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode()


def is_generation(payload: Payload) -> bool:
    return len(payload.tensors) == 1 and payload.tensors[0].name == GENERATE_INPUT


def request_of(payload: Payload) -> GenerationRequest:
    """The request within a payload. Raises ExecutionError(code="INPUT") that says what is wrong and what would be right."""
    if not is_generation(payload):
        raise _wrong(f"a model that generates text takes one string tensor {GENERATE_INPUT!r} with a request in JSON")
    try:
        texts = unpack_strings(payload.tensors[0])
    except PayloadError as error:
        raise _wrong(str(error)) from error
    if len(texts) != 1:
        raise _wrong(f"{GENERATE_INPUT!r} must hold one text, not {len(texts)}")
    return parse_request(texts[0])


def parse_request(text: str) -> GenerationRequest:
    """Raises ExecutionError(code="INPUT"). The error never quotes the prompt."""
    if len(text.encode(errors="replace")) > GENERATION_REQUEST_BYTES_MAX:
        raise _wrong(f"a request has at most {GENERATION_REQUEST_BYTES_MAX} bytes")
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong("the request is not JSON") from error
    if not isinstance(tree, dict):
        raise _wrong("the request must be a JSON object")
    unknown = sorted(set(tree) - set(_DEFAULTS))
    if unknown:
        raise _wrong(f"the request has a key that is not known: {unknown[0][:40]!r}")
    request = GenerationRequest(**{name: _READERS[name](name, value) for name, value in tree.items()})
    check_request(request)
    return request


def check_request(request: GenerationRequest) -> None:
    """Raises ExecutionError(code="INPUT")."""
    if (request.prompt is None) == (not request.messages):
        raise _wrong("give either a prompt or messages")
    if request.tools and not request.messages:
        raise _wrong("tools need messages: they are told by the chat template")
    if request.json_schema is not None and request.regex is not None:
        raise _wrong("give either json_schema or regex")
    for message in request.messages:
        if not isinstance(message.get("role"), str):
            raise _wrong('each message must be an object with a "role" and mostly a "content"')


def parse_piece(data: bytes) -> Piece:
    """A frame's content. Raises ExecutionError(code="OUTPUT")."""
    try:
        tree = json.loads(data)
        ids, text, finish = tree["t"], tree["s"], tree.get("f")
        logprobs, tops = tree.get("l", [None] * len(ids)), tree.get("p", [[]] * len(ids))
        counts = tree.get("n", [None, 0])
        right = (
            isinstance(text, str)
            and (finish is None or finish in FINISHES)
            and len(logprobs) == len(tops) == len(ids)
            and all(_is_id(each) for each in ids)
            and all(each is None or _is_micro(each) for each in logprobs)
            and all(_is_top(top) for top in tops)
            and (counts[0] is None or _is_count(counts[0]))
            and _is_count(counts[1])
        )
        if not right:
            raise ValueError("of another form")
        for shown in (text, *(entry[1] for top in tops for entry in top)):
            shown.encode()  # JSON can name half a character, which nothing can write
        tokens = tuple(
            Token(each, logprob, tuple((i, t, p) for i, t, p in top))
            for each, logprob, top in zip(ids, logprobs, tops, strict=True)
        )
        return Piece(tokens, text, finish, counts[0], counts[1])
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ExecutionError("the provider sent what is no piece of an answer", code="OUTPUT") from error


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_micro(value: Any) -> bool:
    return type(value) is int and -_MICRO_MAX <= value <= _MICRO_MAX


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= GENERATION_TOKENS_MAX


def _is_top(top: Any) -> bool:
    """Raises ValueError for an entry that has not three parts."""
    return len(top) <= GENERATION_LOGPROBS_MAX and all(
        _is_id(number) and isinstance(text, str) and _is_micro(micro) for number, text, micro in top
    )


# --- reading a request ----------------------------------------------------------------------------------------------


def _wrong(text: str) -> ExecutionError:
    return ExecutionError(text, code="INPUT", hint="protocols/job/1 §10 has the keys of a request")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot travel in a request")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(f"{name} must be a text")
    return value


def _chat(name: str, value: Any) -> str:
    if len(_text(name, value)) > 64:
        raise _wrong(f"{name} has at most 64 characters")
    return str(value)


def _objects(name: str, value: Any) -> tuple[Mapping[str, Any], ...]:
    if (
        not isinstance(value, list)
        or len(value) > GENERATION_MESSAGES_MAX
        or not all(isinstance(v, dict) for v in value)
    ):
        raise _wrong(f"{name} must be a list of at most {GENERATION_MESSAGES_MAX} objects")
    return tuple(value)


def _object(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{name} must be an object")
    return value


def _whole(low: int, high: int) -> Any:
    def read(name: str, value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _wrong(f"{name} must be a whole number from {low} to {high}")
        return value

    return read


def _number(low: float, high: float) -> Any:
    def read(name: str, value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise _wrong(f"{name} must be a number from {low:g} to {high:g}")
        return float(value)

    return read


def _stops(name: str, value: Any) -> tuple[str, ...]:
    texts: Sequence[Any] = [value] if isinstance(value, str) else value
    right = isinstance(texts, list) and len(texts) <= GENERATION_STOPS_MAX
    if not right or not all(isinstance(t, str) and 0 < len(t) <= GENERATION_STOP_CHARS_MAX for t in texts):
        raise _wrong(
            f"{name} must be at most {GENERATION_STOPS_MAX} texts of 1 to {GENERATION_STOP_CHARS_MAX} characters"
        )
    return tuple(texts)


def _ids(name: str, value: Any) -> tuple[int, ...]:
    right = isinstance(value, list) and len(value) <= GENERATION_TOKENS_MAX
    if not right or not all(type(each) is int and 0 <= each < 2**31 for each in value):
        raise _wrong(f"{name} must be a list of at most {GENERATION_TOKENS_MAX} token ids")
    return tuple(value)


_READERS: dict[str, Any] = {
    "prompt": _text,
    "messages": _objects,
    "tools": _objects,
    "max_tokens": _whole(1, GENERATION_TOKENS_MAX),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "top_k": _whole(0, 2**31 - 1),
    "seed": _whole(0, 2**63 - 1),
    "stop": _stops,
    "logprobs": _whole(0, GENERATION_LOGPROBS_MAX),
    "json_schema": _object,
    "regex": _text,
    "resume": _ids,
    "chat": _chat,
}
