"""An answer under way, as the node sees it."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.port import Produced
from cocoon_p2p.generation import CALLER, Piece
from cocoon_p2p.limits import FRAME_PADDING_BYTES, GENERATION_AHEAD_ITEMS, PIECE_BYTES_MAX

ENCODED_BYTES_MAX = PIECE_BYTES_MAX - FRAME_PADDING_BYTES
"""Of a piece: its length and its padding stand in a frame, too."""


class Maker(Protocol):
    """Who makes the answer: a worker, or the queue for one."""

    def allow(self, stream: GeneratorStream, items: int) -> None: ...

    def stop(self, stream: GeneratorStream) -> None: ...

    def abandon(self, stream: GeneratorStream) -> None: ...


class GeneratorStream:
    """Implements `TokenStream`. `begin`, `put`, `fail` are its maker's."""

    def __init__(
        self, number: int, request: str, *, client: bytes, items_max: int, items_allowed: int, maker: Maker
    ) -> None:
        self.number = number
        self.request = request
        """Until it is handed to a worker."""
        self.client = client
        self.items_max = items_max
        self.items = 0
        """Tokens worked on, as far as the worker has told."""
        self.abandoned = False
        self.ending = False
        """The worker was told to end its run, and said that it is in it."""
        self.stopping = False
        self.ended = trio.Event()
        """No worker has anything to do with it any more."""
        self.handed_s = 0.0
        """How long it waited before a worker had it."""
        self._maker = maker
        self._allowed = min(items_allowed, items_max)
        self._told = 0
        """As far as the worker knows that it may work."""
        self._prompt_items: int | None = None
        self._taken = 0
        """Items that `receive` gave out."""
        self._made: deque[tuple[Piece, Produced]] = deque()
        self._news = trio.Event()
        self._error: ExecutionError | None = None
        self._queued_at = trio.current_time()
        self._queue_s: float | None = None

    @property
    def prompt_items(self) -> int:
        assert self._prompt_items is not None
        return self._prompt_items

    @property
    def queue_s(self) -> float:
        """Until work on it began, or until now."""
        return trio.current_time() - self._queued_at if self._queue_s is None else self._queue_s

    @property
    def allowed(self) -> int:
        """So far it may be worked on now: what is paid for, and no further ahead of who reads it than a bound."""
        if self._prompt_items is None:
            return self._allowed
        return min(self._allowed, max(self._taken, self._prompt_items) + GENERATION_AHEAD_ITEMS)

    @property
    def awaits_work(self) -> bool:
        """Its worker has something to do for it now."""
        if self._prompt_items is None or self.stopping:
            return True
        return max(self.items, self._prompt_items) < self._told  # a prompt that is not paid for waits

    def items_left(self, bound: int) -> int:
        """Tokens that the answer may still need, where it and its prompt have at most `bound`."""
        if self.stopping or self.abandoned:
            return 0
        return max(0, min(self.items_max, bound) - self.items_held)

    @property
    def items_held(self) -> int:
        """Tokens whose keys and values it needs for its next one."""
        return max(self.items, self._prompt_items or 0)

    async def begun(self) -> None:
        """Returns when the prompt's tokens are counted. Raises ExecutionError."""
        try:
            while self._prompt_items is None:
                if self._error is not None:
                    raise self._error
                await self._news.wait()
        except trio.Cancelled:
            self.abandon()
            raise

    async def receive(self) -> Produced:
        while not self._made:
            if self._error is not None:
                raise self._error
            self._news = trio.Event()
            await self._news.wait()
        produced = self._join()
        self._taken = produced.items
        if not produced.final and self.allowed - self._told >= GENERATION_AHEAD_ITEMS // 2:
            self._tell_allowed()
        return produced

    def allow(self, items: int) -> None:
        self._allowed = max(self._allowed, min(items, self.items_max))
        self._tell_allowed()

    def stop(self) -> None:
        if not (self.stopping or self.ended.is_set()):
            self.stopping = True
            self._maker.stop(self)

    def abandon(self) -> None:
        """Nobody reads it any more."""
        if not self.abandoned:
            self.abandoned = True
            self._made.clear()
            if not self.ended.is_set():
                self._maker.abandon(self)

    async def __aenter__(self) -> GeneratorStream:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.abandon()

    # --- of its maker -------------------------------------------------------------------------------------------------

    def hand_to(self, maker: Maker) -> None:
        self._maker = maker
        self._told = self.allowed
        self.handed_s = trio.current_time() - self._queued_at

    def begin(self, prompt_items: int) -> None:
        """The prompt was counted. Raises ValueError for a count that cannot be."""
        if self._prompt_items is not None or not 0 < prompt_items <= self.items_max:
            raise ValueError("not a count of a prompt")
        self._prompt_items = prompt_items
        self._told = min(self._told, prompt_items + GENERATION_AHEAD_ITEMS)
        self._news.set()
        self._tell_allowed()

    def put(self, piece: Piece, data: bytes, items: int, execute_s: float, queue_s: float) -> None:
        """More of the answer, `data` its encoded form. Raises ValueError for what cannot be."""
        if self._prompt_items is None or len(data) > ENCODED_BYTES_MAX:
            raise ValueError("not a piece of this answer")
        final = piece.finish is not None
        expected = max(self.items, self._prompt_items) + len(piece.tokens)
        cut_short = final and not piece.tokens and 0 <= items <= expected
        if not cut_short and (items != expected or items > self._told or not piece.tokens):
            raise ValueError("it counts more, or fewer, tokens than it brings, or more than were allowed")
        self.items = items
        self._queue_s = queue_s
        if not self.abandoned:
            self._made.append((piece, Produced(data, items, final, execute_s)))
            self._news.set()
        if final:
            self.ended.set()

    def fail(self, error: ExecutionError) -> None:
        """What was made before can still be read."""
        if self.stopping and error.code == "CANCELLED":
            piece = Piece((), "", CALLER, self._prompt_items if not self.items else None)
            self._made.append((piece, Produced(piece.encode(), self.items, True)))
        self._error = error
        self.ended.set()
        self._news.set()

    def _tell_allowed(self) -> None:
        if self._prompt_items is not None and self.allowed > self._told and not self.ended.is_set():
            self._told = self.allowed
            self._maker.allow(self, self._told)

    def _join(self) -> Produced:
        """All that came, as far as one frame takes it."""
        piece, produced = self._made.popleft()
        size, tokens, text = len(produced.data), list(piece.tokens), [piece.text]
        if not self._made or size + len(self._made[0][1].data) > ENCODED_BYTES_MAX:
            return produced
        last = produced
        while self._made and size + len(self._made[0][1].data) <= ENCODED_BYTES_MAX:
            more, last = self._made.popleft()
            size += len(last.data)
            tokens += more.tokens
            text.append(more.text)
        # As long as its parts together at most.
        finish = more.finish
        joined = Piece(tuple(tokens), "".join(text), finish, piece.prompt_tokens, piece.reused_tokens)
        return Produced(joined.encode(), last.items, last.final, last.execute_s)
