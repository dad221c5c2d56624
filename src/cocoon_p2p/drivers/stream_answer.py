"""One answer of a model that generates, as it grows: the session's reader fills it, whoever asked reads it. It outlives the
providers that make it, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from cocoon_p2p.errors import CocoonError
from cocoon_p2p.generation import CALLER, Piece
from cocoon_p2p.ids import JobId, ModelId, PeerId


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the model counts them."""

    prompt_tokens: int | None
    """None before the first piece."""
    reused_tokens: int
    """Of the prompt's, those that the provider had from an earlier turn and did not compute anew."""
    completion_tokens: int


class Answer:
    """`next` from one task. `stop` from anywhere in the trio thread."""

    def __init__(self, job_id: JobId, *, started: float) -> None:
        self.job_id = job_id
        self.started = started
        """On the clock's `now`, like the other two."""
        self.first_piece: float | None = None
        self.last_piece: float | None = None
        self.model_id: ModelId | None = None
        self.provider: PeerId | None = None
        """The latest that made a part of it."""
        self.finish: str | None = None
        self.price = 0
        """Nanogram, of all providers together: what was paid, or is owed and waits for its receipt."""
        self.attempts: Sequence[dict[str, str]] = ()
        """Providers that failed: provider, error, code."""
        self.ids: list[int] = []
        self.over = trio.Event()
        """Nothing comes any more, and what is owed is known."""
        self.stop_wanted = trio.Event()
        self._texts: list[str] = []
        self._prompt_tokens: int | None = None
        self._reused_tokens = 0
        self._unread: deque[Piece] = deque()
        self._changed = trio.Event()
        self._error: CocoonError | None = None

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def usage(self) -> Usage:
        return Usage(self._prompt_tokens, self._reused_tokens, len(self.ids))

    @property
    def error(self) -> CocoonError | None:
        """Why it ended before its time."""
        return self._error

    def add(self, piece: Piece, provider: PeerId, now: float) -> None:
        """What has come, in order."""
        if self.first_piece is None:
            self.first_piece = now
            self._prompt_tokens, self._reused_tokens = piece.prompt_tokens, piece.reused_tokens
        self.last_piece = now
        self.provider = provider
        self.ids += [token.id for token in piece.tokens]
        self._texts.append(piece.text)
        self.finish = piece.finish
        self._unread.append(piece)
        self._pulse()

    async def next(self) -> Piece:
        """The next piece. Raises StopAsyncIteration at the end, or the error that ended it, once all that came is read."""
        while not self._unread:
            if self.over.is_set():
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            await self._changed.wait()
        return self._unread.popleft()

    def stop(self) -> None:
        """No more is wanted: the work ends, and what came is paid. Idempotent."""
        if not self.over.is_set():
            self.stop_wanted.set()

    @property
    def stopping(self) -> bool:
        return self.stop_wanted.is_set()

    def end(self, error: CocoonError | None = None) -> None:
        """It is over: `error` says why, where nobody wanted that."""
        if self.over.is_set():
            return
        self._error = error
        if error is None and self.finish is None:
            self.finish = CALLER
        self.over.set()
        self._pulse()

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
