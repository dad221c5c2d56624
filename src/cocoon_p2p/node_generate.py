"""Text that a model generates somewhere in the network, token by token. Part of `Node`."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import trio

from cocoon_p2p.assembly import Parts
from cocoon_p2p.drivers.generating import Generating, GenerationWish
from cocoon_p2p.drivers.order import new_wish
from cocoon_p2p.drivers.stream_answer import Answer, Usage
from cocoon_p2p.drivers.trio_thread import in_trio_thread
from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.generation import MICRO, GenerationRequest, Piece, parse_request
from cocoon_p2p.limits import GENERATION_SEED_BITS, GENERATION_STOP_GRACE_S
from cocoon_p2p.node_jobs import NodeJobs, RunRequest
from cocoon_p2p.policy.preference import Preference

__all__ = ["GeneratedToken", "Generation", "NodeGenerate", "TopToken", "Usage"]


@dataclass(frozen=True, slots=True)
class TopToken:
    """One of the likeliest tokens at a place."""

    id: int
    text: str
    logprob: float
    """Natural logarithm of its probability."""


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One token of the answer. The texts of all of them, one behind the other, are the answer's: some are empty, since a character may
    need several tokens, and what may become a stop string waits."""

    text: str
    id: int | None
    """None for text that had waited, and came without a token."""
    logprob: float | None = None
    """Natural logarithm of its probability, where `logprobs` was asked for."""
    top: tuple[TopToken, ...] = ()


class Generation:
    """An answer under way. An async iterator over its tokens; also an async context manager, which stops the work when its block is left
    early. (Without one that happens when the iterator is thrown away.) What came is paid, whoever stops it."""

    def __init__(self, nursery: trio.Nursery, generating: Generating, wish: GenerationWish, answer: Answer) -> None:
        self._nursery = nursery
        self._generating = generating
        self._wish = wish
        self._answer = answer
        self._started = False
        self._left = in_trio_thread(answer.stop)
        self._tokens: deque[GeneratedToken] = deque()

    # --- what it came to, so far ---

    @property
    def text(self) -> str:
        """All of it that has come."""
        return self._answer.text

    @property
    def finish(self) -> str | None:
        """Why it ended: "stop", "length", "tool_calls", or "caller" (it was stopped). None before that."""
        return self._answer.finish

    @property
    def usage(self) -> Usage:
        return self._answer.usage

    @property
    def price_nanogram(self) -> int:
        """What it cost, at all providers together."""
        return self._answer.price

    @property
    def provider(self) -> str | None:
        """Who made its latest part."""
        return self._answer.provider

    @property
    def model_id(self) -> str | None:
        """Known from the first token on."""
        return self._answer.model_id

    @property
    def job_id(self) -> str:
        return self._answer.job_id.hex()

    @property
    def attempts(self) -> list[dict[str, str]]:
        """Providers that failed, in the middle or before: provider, error, code."""
        return list(self._answer.attempts)

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the call to the first token."""
        answer = self._answer
        return None if answer.first_piece is None else answer.first_piece - answer.started

    @property
    def tokens_s(self) -> float | None:
        """Tokens a second behind the first one; None where that says nothing."""
        answer = self._answer
        if answer.first_piece is None or answer.last_piece is None or answer.last_piece <= answer.first_piece:
            return None
        return (len(answer.ids) - 1) / (answer.last_piece - answer.first_piece)

    # --- reading it ---

    def __aiter__(self) -> AsyncIterator[GeneratedToken]:
        return self

    async def __anext__(self) -> GeneratedToken:
        while not self._tokens:  # the last piece may hold nothing but the end
            self._tokens.extend(tokens_of(await self.next_piece()))
        return self._tokens.popleft()

    async def next_piece(self) -> Piece:
        """What came together, as one. Raises StopAsyncIteration, and what `Node.generate` says."""
        self._start()
        read = False
        try:
            piece = await self._answer.next()
            read = True
        finally:
            if not read:  # the end, a failure, or whoever waits is cancelled
                self._answer.stop()
        return piece

    async def read(self) -> str:
        """All of it; the whole text."""
        async for _ in self:
            pass
        return self.text

    # --- ending it ---

    async def cancel(self) -> None:
        """Stop the work, and wait until what came is paid (for GENERATION_STOP_GRACE_S at most). What came can still be read. Idempotent."""
        self._answer.stop()
        if not self._started:
            self._answer.end()
        with trio.move_on_after(GENERATION_STOP_GRACE_S):
            await self._answer.over.wait()

    async def aclose(self) -> None:
        """The same, also where the caller is cancelled."""
        with trio.CancelScope(shield=True):
            await self.cancel()

    async def __aenter__(self) -> Generation:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._left()

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._nursery.start_soon(self._generating.run, self._wish, self._answer)


def tokens_of(piece: Piece) -> list[GeneratedToken]:
    """The last token of a piece has its text."""
    tokens = [
        GeneratedToken(
            "",
            token.id,
            None if token.logprob is None else token.logprob / MICRO,
            tuple(TopToken(each, text, logprob / MICRO) for each, text, logprob in token.top),
        )
        for token in piece.tokens
    ]
    if not piece.text:
        return tokens
    if not tokens:
        return [GeneratedToken(piece.text, None)]
    last = tokens[-1]
    return [*tokens[:-1], GeneratedToken(piece.text, last.id, last.logprob, last.top)]


class NodeGenerate(NodeJobs):
    """The part of `Node` that has text generated."""

    _parts: Parts

    def generate(
        self,
        model: str,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] = (),
        tools: Sequence[Mapping[str, Any]] = (),
        raw: bool = False,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        logprobs: int | None = None,
        json_schema: Mapping[str, Any] | None = None,
        regex: str | None = None,
        chat: str = "",
        max_price: int | None = None,
        tier: str | None = None,
        provider: str | None = None,
        timeout_s: float | None = None,
        min_reliability: float | None = None,
        prefer: str | Preference | None = None,
    ) -> Generation:
        """Have a model go on with a text, somewhere in the network::

            async with node.generate("llama", "Why is the sky blue?") as answer:
                async for token in answer:
                    print(token.text, end="")

        Either a `prompt`, which is one message of a chat where the model has a chat template (`raw`: it is taken as it is), or
        `messages` ({"role", "content"}). `tools` are definitions for the template. `temperature` 0 takes the likeliest token; `seed`
        repeats an answer, None draws one. `stop` are texts that end it and are no part of it. `json_schema` or `regex` is what the
        answer must match. `logprobs` n gives each token's log-probability and those of the n likeliest. `chat` is a name that you draw
        for one conversation: a provider that has it from the turn before begins sooner.

        Tokens are paid by instalments as they come: neither side ever risks more than one. When a provider dies in the middle
        another one goes on, with the same draws, without a gap or a repeat; where there is no other, whoever comes back in time, be it
        the same. `max_price` is nanogram for all of that. `timeout_s` None
        allows the configuration's for every 256 tokens of `max_tokens`. The other limits are those of `run`.

        Raises ConfigError for wrong arguments at once. The iterator raises ExecutionError (INPUT: what the model wants), PeerRefused
        (PRICE), TransportError, SettlementError, CocoonError (NO_MODEL); what came before stays in `text`, and is paid.
        """
        request = generation_request(
            prompt=prompt,
            messages=tuple(messages),
            tools=tuple(tools),
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            logprobs=logprobs,
            json_schema=json_schema,
            regex=regex,
            chat=chat,
        )
        limits = RunRequest(
            model,
            tier=tier,
            max_price=max_price,
            provider=provider,
            timeout_s=timeout_s,
            min_reliability=min_reliability,
            prefer=prefer,
        )
        return self.generate_request(limits, request, raw=raw)

    def generate_request(self, limits: RunRequest, request: GenerationRequest, *, raw: bool = False) -> Generation:
        """The same for a request that was put together already. Raises ConfigError."""
        parts = self._parts
        limits = limits.with_time_for(request.max_tokens, parts.config.client.timeout_s)
        wish = GenerationWish(self._order(limits, request.payload()), request, raw)
        answer = Answer(new_wish(), started=parts.clock.now())
        return Generation(parts.nursery, parts.generating, wish, answer)


def generation_request(*, seed: int | None = None, **given: Any) -> GenerationRequest:
    """A request whose parts are checked as a provider would check them; without a seed it gets a drawn one. Raises ConfigError."""
    if given.get("temperature") and seed is None:
        seed = secrets.randbits(GENERATION_SEED_BITS)
    try:
        return parse_request(GenerationRequest(seed=seed or 0, **given).encode().decode())
    except (TypeError, ValueError) as error:  # what is no JSON
        raise ConfigError(f"this cannot travel in a request: {error}") from error
    except CocoonError as error:
        raise ConfigError(error.message, hint=error.hint) from error
