"""A model that writes text in virtual time: each token follows from the request and its place alone, as with a real model, so that
another provider goes on where one was lost.

Some of its tokens are readable only with the next one, as half a character is: what becomes of such a text when the provider changes
is tested with that.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.port import Produced
from cocoon_p2p.generation import CALLER, LENGTH, STOPPED, GenerationRequest, Piece, Token

VOCABULARY = 1000
END = 0
"""The token that ends an answer, where `Writing.ends` has one."""


@dataclass
class Writing:
    """How a simulated model writes; may be changed while it does."""

    token_s: float = 0.02
    prompt_token_s: float = 0.0
    ends_at: int | None = None
    """It says all that it has to say in so many tokens."""
    fails_at: int | None = None
    """The worker dies before this token of the answer."""
    endless: bool = False
    """It goes on where it was to end, to be paid more."""
    held: bool = False
    """It makes nothing more, and says nothing."""


def prompt_tokens(request: GenerationRequest) -> int:
    """One for each four bytes."""
    plain = replace(request, resume=(), max_tokens=1, seed=0)
    return 1 + len(plain.encode()) // 4


def token_at(request: GenerationRequest, place: int) -> int:
    """From 1 on."""
    drawn = hashlib.sha256(f"{request.seed}/{place}/{request.prompt}/{list(request.messages)}".encode()).digest()
    return 1 + int.from_bytes(drawn[:4]) % (VOCABULARY - 1)


def readable(ids: tuple[int, ...]) -> str:
    """The text of an answer's tokens, but for those at its end that wait for the next one: every seventh does."""
    end = len(ids)
    while end and ids[end - 1] % 7 == 0:
        end -= 1
    return text_of(ids[:end])


def text_of(ids: tuple[int, ...]) -> str:
    return "".join(f"é{each} " for each in ids)


def whole_answer(request: GenerationRequest, ends_at: int | None = None) -> str:
    """What the request comes to where nothing goes wrong."""
    count = request.max_tokens if ends_at is None else min(request.max_tokens, ends_at)
    return text_of(tuple(token_at(request, place) for place in range(count)))


class SimulatedStream:
    """A `TokenStream`. One token at each `receive`, in virtual time."""

    def __init__(self, writing: Writing, request: GenerationRequest, *, items_max: int, items_allowed: int) -> None:
        self.queue_s = 0.0
        self.prompt_items = prompt_tokens(request) + len(request.resume)
        if self.prompt_items > items_max:
            raise ExecutionError(f"{self.prompt_items} tokens; {items_max} were asked for", code="ITEMS")
        self.ended = trio.Event()
        """The work is over, whoever ended it."""
        self.allowed = items_allowed
        self._writing = writing
        self._request = request
        self._items_max = items_max
        self._ids = request.resume
        self._items = self.prompt_items
        self._begun = trio.current_time()
        self._first = True
        self._stop = trio.Event()
        self._changed = trio.Event()

    async def receive(self) -> Produced:
        if self._first:
            await trio.sleep(self._writing.prompt_token_s * self.prompt_items)
        while not self._stop.is_set() and (self._writing.held or self._items >= self.allowed):
            await self._changed.wait()
        with trio.move_on_after(self._writing.token_s):
            await self._stop.wait()
        if self._stop.is_set():
            return self._produced((), CALLER)
        place = len(self._ids)
        if place == self._writing.fails_at:
            raise ExecutionError("the worker was killed by signal 9", code="WORKER", retryable=True)
        most = self._items_max if self._writing.endless else self._request.max_tokens
        if place >= most:
            return self._produced((), LENGTH)
        drawn = Token(token_at(self._request, place))
        self._items += 1
        if place + 1 == self._writing.ends_at:
            return self._produced((drawn,), STOPPED)
        at_end = place + 1 == most or self._items == self._items_max
        return self._produced((drawn,), LENGTH if at_end else None)

    def _produced(self, tokens: tuple[Token, ...], finish: str | None) -> Produced:
        before = readable(self._ids)
        self._ids += tuple(token.id for token in tokens)
        text = (readable if finish is None else text_of)(self._ids)[len(before) :]
        counted = self.prompt_items - len(self._request.resume) if self._first else None
        self._first = False
        piece = Piece(tokens, text, finish, counted)
        return Produced(piece.encode(), self._items, finish is not None, trio.current_time() - self._begun)

    def allow(self, items: int) -> None:
        self.allowed = max(self.allowed, items)
        self.poke()

    def stop(self) -> None:
        self._stop.set()
        self.poke()

    def poke(self) -> None:
        """Something that it waits for may have come."""
        self._changed.set()
        self._changed = trio.Event()

    async def __aenter__(self) -> SimulatedStream:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.ended.set()
