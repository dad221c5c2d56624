"""An upstream's answer as it grows: events in, pieces out, never more tokens than are paid for.

The API tells no token ids: every token has id 0, and the answer cannot be resumed at another provider. Tokens are counted
by the upstream's own usage where it tells it with each event, else by its log-probabilities, else as one an event; what
its last word on usage adds is charged in the end, never more than was allowed.

The upstream cannot be made to wait for payment: it works on while its text is held back here. So its operator risks the rest
of one answer, as bounded by its max_tokens.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.port import Produced
from cocoon_p2p.execution.upstream.openai_events import UNKNOWN_ID, Event, ToolCallPart
from cocoon_p2p.generation import CALLER, LENGTH, STOPPED, Piece, Token
from cocoon_p2p.limits import ANSWER_BYTES_MORE, ANSWER_BYTES_PER_TOKEN, INSTALMENT_TOKENS, PIECE_BYTES_MAX

_HELD_MAX = 4096
"""Events that wait here to be paid; then the connection is not read on."""
_LOOSE_CHARS_MAX = 16_384
"""Of text whose token has not been told yet."""
_EVENTS_OVER = 64
"""Events without a token (a role, usage) that an answer may have beside those of its tokens."""


@dataclass(slots=True)
class _Unit:
    """Tokens, and the text that goes out with the last of them."""

    tokens: deque[Token]
    text: str
    size: int


class UpstreamTokenStream:
    """Implements `TokenStream`. `pump` is its task; whoever starts it waits for `begun`."""

    def __init__(self, *, prompt_estimate: int, tokens_max: int, items_max: int, allowed: int) -> None:
        self._estimate = prompt_estimate
        self.tokens_max = tokens_max
        self._items_max = items_max
        self._allowed = allowed
        self._asked_at = self._started_at = self._ended_at = trio.current_time()
        self._units: deque[_Unit] = deque()
        self._calls = ToolCallText()
        self._loose = ""
        """Text that waits for its token."""
        self._text_bytes = 0
        """UTF-8 of the text whose tokens were told."""
        self._counted = 0
        """Tokens of the answer that came from the upstream."""
        self._given = 0
        """Those that went out."""
        self._reused = 0
        self._prompt: int | None = None
        self._finish: str | None = None
        self._error: ExecutionError | None = None
        self._stopped = False
        self._changed = trio.Event()
        self._scope = trio.CancelScope()
        self.begun = trio.Event()
        """The prompt is counted, or `error` says why not."""
        self.ended = trio.Event()

    # --- the port ---

    @property
    def prompt_items(self) -> int:
        return self._estimate if self._prompt is None else self._prompt

    @property
    def queue_s(self) -> float:
        return self._started_at - self._asked_at

    @property
    def items(self) -> int:
        """Of the prompt, and of what went out."""
        return self.prompt_items + self._given

    @property
    def worked(self) -> int:
        """Tokens of the prompt, and of the answer so far, whether they went out or not."""
        return self.prompt_items + self._counted

    @property
    def worked_s(self) -> float:
        return self._ended_at - self._started_at

    @property
    def error(self) -> ExecutionError | None:
        return self._error

    async def receive(self) -> Produced:
        while True:
            room = min(self._allowed - self.items, INSTALMENT_TOKENS)
            if self._stopped:
                return self._produced([], CALLER)
            if self._units and room > 0:
                return self._take(room)
            if not self._units and self._finish is not None:
                return self._produced([], self._finish)
            if not self._units and self._error is not None:
                raise self._error
            await self._changed.wait()

    def allow(self, items: int) -> None:
        self._allowed = max(self._allowed, items)
        self._pulse()

    def stop(self) -> None:
        self._stopped = True
        self._scope.cancel()
        self._pulse()

    async def __aenter__(self) -> UpstreamTokenStream:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self.ended.wait()

    # --- what comes ---

    async def pump(self, events: AsyncGenerator[Event], place: AbstractAsyncContextManager[None]) -> None:
        """Wait for a place, and read the answer to its end. Never raises ExecutionError: `receive` does, after what came before
        it."""
        try:
            with self._scope:
                async with place, aclosing(events):
                    self._started_at = trio.current_time()
                    await self._read(events)
        except ExecutionError as error:
            self._error = self._error or error
        finally:
            if self._finish is None and self._error is None:
                self._error = ExecutionError("the answer was ended", code="CANCELLED")
            self._prompt = self.prompt_items
            self._ended_at = trio.current_time()
            self.begun.set()
            self.ended.set()
            self._pulse()

    def fail(self, error: ExecutionError) -> None:
        """End it for a reason of the provider's own."""
        self._error = self._error or error
        self._scope.cancel()

    def check_begun(self) -> None:
        """Raises ExecutionError when it ended before the first token, or its prompt is too long."""
        if self._error is not None and not self._units:
            raise self._error
        if self.prompt_items > self._items_max:
            text = f"the prompt has {self.prompt_items} tokens; prompt and answer may have {self._items_max}"
            raise ExecutionError(text, code="ITEMS")

    async def _read(self, events: AsyncIterator[Event]) -> None:
        finish: str | None = None
        count = 0
        async for event in events:
            count += 1
            if count > self.tokens_max + _EVENTS_OVER:
                raise ExecutionError("the provider's cluster did not end its answer", code="MODEL", retryable=True)
            finish = event.finish or finish
            if not self._add(event) or self.worked >= self._items_max:
                finish = finish or LENGTH
                break
            while len(self._units) > _HELD_MAX:
                await self._changed.wait()
        self._loose += self._calls.end()
        self._count_text(self._loose)
        self._finish = finish or STOPPED

    def _add(self, event: Event) -> bool:
        """False when it has more tokens than were asked for."""
        if self._prompt is None and event.prompt_tokens is not None and not self.begun.is_set():
            self._prompt, self._reused = event.prompt_tokens, event.reused_tokens
        tokens = self._tokens_of(event)
        room = max(0, min(self.tokens_max, self._items_max - self.prompt_items) - self._counted)
        if tokens and not room:
            return False
        fits, tokens = len(tokens) <= room, tokens[:room]
        self._loose += event.text + self._calls.add(event.calls)
        self._counted += len(tokens)
        if tokens:
            self._count_text(self._loose)
            size = len(Piece(tuple(tokens), self._loose).encode())
            if size > PIECE_BYTES_MAX:
                raise ExecutionError("a piece of the answer is larger than a frame", code="LIMITS", retryable=True)
            self._units.append(_Unit(deque(tokens), self._loose, size))
            self._loose = ""
        elif len(self._loose) > _LOOSE_CHARS_MAX:
            raise ExecutionError("the provider's cluster sends text without tokens", code="MODEL", retryable=True)
        if event.has_content or event.finish is not None or self._prompt is not None:
            self.begun.set()
        self._pulse()
        return fits

    def _count_text(self, text: str) -> None:
        """Clients take no more text than so many tokens may have, and would refuse to pay for what came."""
        # SPEC job/1 §10.2
        self._text_bytes += len(text.encode())
        if self._text_bytes > ANSWER_BYTES_MORE + ANSWER_BYTES_PER_TOKEN * self._counted:
            raise ExecutionError(
                "the provider's cluster sends more text than its tokens can have", code="MODEL", retryable=True
            )

    def _tokens_of(self, event: Event) -> list[Token]:
        if event.answer_tokens is not None:
            count = max(0, event.answer_tokens - self._counted)
        else:
            count = len(event.logprobs) or int(event.has_content)
        known = list(event.logprobs[:count])
        return known + [Token(UNKNOWN_ID)] * min(count - len(known), self.tokens_max)

    # --- what goes ---

    def _take(self, room: int) -> Produced:
        tokens: list[Token] = []
        texts: list[str] = []
        size = 0
        while self._units and room > len(tokens):
            unit = self._units[0]
            if tokens and size + unit.size > PIECE_BYTES_MAX:
                break
            size += unit.size
            while unit.tokens and room > len(tokens):
                tokens.append(unit.tokens.popleft())
            if unit.tokens:
                break
            texts.append(unit.text)
            self._units.popleft()
        last = not self._units and self._finish is not None and not self._loose
        self._pulse()
        return self._produced(tokens, self._finish if last else None, "".join(texts))

    def _produced(self, tokens: list[Token], finish: str | None, text: str = "") -> Produced:
        first = self._given == 0
        if finish is not None:
            text += "" if self._stopped else self._loose
        self._given += len(tokens)
        piece = Piece(
            tuple(tokens),
            text,
            finish,
            self.prompt_items if first else None,
            self._reused if first else 0,
        )
        return Produced(piece.encode(), self.items, finish is not None, trio.current_time() - self._started_at)

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class ToolCallText:
    """Tool calls as text, one JSON object a line: {"name": …, "arguments": …}."""

    def __init__(self) -> None:
        self._open: int | None = None
        self._empty = True

    def add(self, parts: tuple[ToolCallPart, ...]) -> str:
        return "".join(self._one(part) for part in parts)

    def end(self) -> str:
        if self._open is None:
            return ""
        self._open = None
        return "{}}" if self._empty else "}"

    def _one(self, part: ToolCallPart) -> str:
        opening = ""
        if part.index != self._open:
            before = self.end()
            opening = before + ("\n" if before else "") + f'{{"name": {json.dumps(part.name)}, "arguments": '
            self._open, self._empty = part.index, True
        self._empty = self._empty and not part.arguments
        return opening + part.arguments
