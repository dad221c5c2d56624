"""One answer under way: its tokens, its text, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.generation.guidance import Guide
from cocoon_p2p.execution.generation.kv_cache import Row
from cocoon_p2p.execution.generation.sampling import Logits, Sampling, logprobs
from cocoon_p2p.execution.generation.stops import AnswerText
from cocoon_p2p.execution.generation.tokens import TokenCodec
from cocoon_p2p.generation import CALLER, LENGTH, STOPPED, TOOLS, GenerationRequest, Piece, Token
from cocoon_p2p.models.generation_spec import GenerationSpec


@dataclass(slots=True)
class Event:
    """What came of one answer in a step: a piece of it, or what went wrong."""

    number: int
    piece: Piece | None
    error: ExecutionError | None
    items: int
    """Tokens worked on until now, those of the prompt among them."""
    execute_us: int
    """Its share of the runs until now."""
    waited_us: int
    """From when it was asked for until work on it began."""

    @property
    def final(self) -> bool:
        return self.piece is None or self.piece.finish is not None


@dataclass(slots=True, eq=False, repr=False)
class Answer:
    """`ids` are the prompt's tokens and the answer's; of these the row holds the first `row.length`. So to go on is always the
    same: work on what the row lacks, and draw the next token, be it behind a prompt, an answer begun by another provider, or
    one whose row was given to somebody else meanwhile."""

    number: int
    request: GenerationRequest
    ids: list[int]
    prompt_tokens: int
    """Of `ids`, those before the answer."""
    items_max: int
    allowed: int
    sampling: Sampling
    text: AnswerText
    guide: Guide | None
    key: tuple[bytes, str] | None
    """Whose chat it is, where its keys and values are to be kept."""
    begun_at: float
    codec: TokenCodec
    spec: GenerationSpec
    row: Row | None = None
    stopping: bool = False
    cancelled: bool = False
    decodes: bool = False
    """The prompt was worked on: what the row lacks is the last token."""
    started: bool = False
    reused: int = 0
    worked: int = 0
    execute_us: int = 0
    waited_us: int = 0
    paused_at: float = 0.0
    _told_prompt: bool = False
    _calls_tools: bool = False
    finish: str | None = field(default=None)

    @property
    def missing(self) -> int:
        """Tokens that the row lacks."""
        return len(self.ids) - (self.row.length if self.row is not None else 0)

    @property
    def may_go_on(self) -> bool:
        """Whether one more token is paid for."""
        return len(self.ids) < self.allowed

    def replay(self) -> None:
        """Take up the tokens that another made. What they ended, is ended."""
        resumed = self.ids[self.prompt_tokens :]
        for token in resumed:
            if self.finish is None:
                self.text.add(token)
                self._end_by(token)
        self._end_by_bounds()

    def take(self, logits: Logits) -> Event:
        """Draw the next token. Raises ExecutionError(code="MODEL" or "LIMITS")."""
        allowed = self.guide.allowed() if self.guide is not None else None
        token = self.sampling.choose(logits, len(self.ids) - self.prompt_tokens, allowed)
        told = self._token(token, logits)
        if self.guide is not None:
            self.guide.take(token)
        self.ids.append(token)
        self.worked = len(self.ids)
        text = self.text.add(token)
        self._end_at(token)
        return self._event((told,), text)

    def end(self, finish: str) -> Event:
        """Without another token."""
        self.finish = self.finish or finish
        return self._event((), "")

    def end_by_caller(self) -> Event:
        return self.end(CALLER)

    def end_by_length(self) -> Event:
        return self.end(LENGTH)

    def failed(self, error: ExecutionError) -> Event:
        return Event(self.number, None, error, self.worked, self.execute_us, self.waited_us)

    def _token(self, token: int, logits: Logits) -> Token:
        count = self.request.logprobs
        if count is None:
            return Token(token)
        own, likeliest = logprobs(logits, token, count)
        return Token(token, own, tuple((each, self.codec.text_of(each), micro) for each, micro in likeliest))

    def _end_at(self, token: int) -> None:
        self._end_by(token)
        self._end_by_bounds()

    def _end_by(self, token: int) -> None:
        """By what it says."""
        self._calls_tools |= token in self.codec.tool_marks and bool(self.request.tools)
        if token in self.spec.eos_ids:
            self.finish = TOOLS if self._calls_tools else STOPPED
        elif self.text.stopped:
            self.finish = STOPPED

    def _end_by_bounds(self) -> None:
        answered = len(self.ids) - self.prompt_tokens
        full = answered >= self.request.max_tokens or len(self.ids) >= min(self.items_max, self.spec.context)
        if self.finish is None and full:
            self.finish = LENGTH

    def _event(self, tokens: tuple[Token, ...], text: str) -> Event:
        if self.finish is not None:
            text += self.text.rest()
        first = not self._told_prompt
        self._told_prompt = True
        piece = Piece(tokens, text, self.finish, self.prompt_tokens if first else None, self.reused if first else 0)
        return Event(self.number, piece, None, self.worked, self.execute_us, self.waited_us)
