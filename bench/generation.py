"""(i) Generating text: tokens a second, the time to the first one, and what a dead provider costs in mid-answer."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from tokenizers import Tokenizer

from bench.figures import Aim, Figure, Result, percentile, ratios
from bench.nodes import ProviderProcess, client, make_home, provider, stop
from bench.plan import Plan, say
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX as NO_LIMIT
from cocoon_p2p.node import Node
from cocoon_p2p.testing.tiny_genai import make_tiny_genai

MEASURES = (
    "tokens a second of 1, 8 and 32 answers at once, sealed, paid by instalments and streamed over libp2p between processes, beside "
    "onnxruntime-genai's Generator (one answer after the other) and Engine on the same model, greedy, without a network"
)
SHAPE: dict[str, Any] = {"hidden": 512, "layers": 8, "heads": 8, "kv_heads": 4, "ffn": 1408, "context": 1024}
"""24 million parameters."""
STREAMS = (1, 8, 32)
TOKENS = 96
"""Of each answer at most."""
PROMPT_CHARACTERS = (5, 40)
FIRST_TOKENS = 12
"""Answers whose first token is timed, a round."""
IN_FLIGHT = 16
"""Tokens that may have left the provider before it was killed."""
PEER = "genai"
US = "ours"
SIDES = (US, "generator", "engine")

Rates = dict[tuple[int, str], list[float]]


@dataclass(slots=True)
class _Seen:
    rates: Rates = field(default_factory=lambda: {(count, side): [] for count in STREAMS for side in SIDES})
    first_ms: list[float] = field(default_factory=list)
    their_first_ms: list[float] = field(default_factory=list)
    gap_ms: list[float] = field(default_factory=list)
    usual_gap_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Sides:
    node: Node
    ask: Callable[[str, list[list[int]], int], dict[str, Any]]
    """genai: how, prompts as ids, tokens."""
    tokenizer: Tokenizer


async def run(plan: Plan) -> Result:
    folder = plan.folder / "generation"
    model = make_tiny_genai(folder / "model", **SHAPE)
    _without_spinning(model / "genai_config.json")
    homes = [folder / "one", folder / "two"]
    for home in homes:
        make_home(home, {"tiny": model})
    tokenizer, seen = Tokenizer.from_file(str(model / "tokenizer.json")), _Seen()
    with _genai(model) as ask:
        async with _ours(folder / "client", homes[0]) as (node, _):
            sides = _Sides(node, ask, tokenizer)
            for number in range(plan.rounds):
                for count in STREAMS:
                    await _one_round(sides, number, count, seen)
                await _first_tokens(sides, number, seen)
    for number in range(plan.rounds):
        await _one_death(folder / f"client-{number}", homes, number, seen)
    return Result("generation", MEASURES, tuple(_figures(seen)), {"tokens": TOKENS, "model": SHAPE})


def _figures(seen: _Seen) -> Iterator[Figure]:
    for count in STREAMS:
        title = f"{count} at once" if count > 1 else "1 alone"
        ours, one_by_one, engine = (tuple(seen.rates[count, side]) for side in SIDES)
        yield Figure(f"{title}: jobs", "tokens/s", ours)
        yield Figure(f"{title}: {PEER} Generator", "tokens/s", one_by_one)
        yield Figure(f"{title}: {PEER} Engine", "tokens/s", engine)
        aim = Aim(">=", 2.0) if count == max(STREAMS) else None
        yield Figure(f"{title}: job / Generator", "", ratios(ours, one_by_one), aim)
        yield Figure(f"{title}: job / Engine", "", ratios(ours, engine), aim)
    yield Figure("first token, p50", "ms", tuple(seen.first_ms))
    yield Figure(f"first token of {PEER}, p50", "ms", tuple(seen.their_first_ms))
    added = tuple(ours - theirs for ours, theirs in zip(seen.first_ms, seen.their_first_ms, strict=True))
    yield Figure("first token: our part", "ms", added, Aim("<=", 5.0))
    yield Figure("kill -9 in mid-answer to the next token", "ms", tuple(seen.gap_ms))
    yield Figure("a token, p50, in the same answer", "ms", tuple(seen.usual_gap_ms))


async def _one_round(sides: _Sides, number: int, count: int, seen: _Seen) -> None:
    prompts = _prompts(number, count)
    made, took = await _generate_all(sides.node, prompts)
    seen.rates[count, US].append(made / took)
    ids = [sides.tokenizer.encode(prompt).ids for prompt in prompts]
    for how in ("generator", "engine"):
        told = await trio.to_thread.run_sync(sides.ask, how, ids, TOKENS)
        seen.rates[count, how].append(told["tokens"] / told["seconds"])
    latest = ", ".join(f"{side} {seen.rates[count, side][-1]:.0f}/s" for side in SIDES)
    say(f"generation: round {number + 1}: {count} at once: {latest}")


async def _generate_all(node: Node, prompts: Sequence[str]) -> tuple[int, float]:
    """Tokens made, and seconds."""
    made = 0
    begun = time.perf_counter()

    async def one(prompt: str) -> None:
        nonlocal made
        async with node.generate("tiny", prompt, raw=True, max_tokens=TOKENS, max_price=NO_LIMIT) as answer:
            await answer.read()
            made += answer.usage.completion_tokens

    async with trio.open_nursery() as nursery:
        for prompt in prompts:
            nursery.start_soon(one, prompt)
    return made, time.perf_counter() - begun


async def _first_tokens(sides: _Sides, number: int, seen: _Seen) -> None:
    """Ours and genai's take turns, an answer each."""
    ours, theirs = [], []
    for prompt in _prompts(1000 + number, FIRST_TOKENS):
        async with sides.node.generate("tiny", prompt, raw=True, max_tokens=2, max_price=NO_LIMIT) as answer:
            await answer.read()
            ours.append(1000 * (answer.first_token_s or 0.0))
        told = await trio.to_thread.run_sync(sides.ask, "generator", [sides.tokenizer.encode(prompt).ids], 2)
        theirs.append(1000 * told["first_s"])
    seen.first_ms.append(percentile(ours, 50))
    seen.their_first_ms.append(percentile(theirs, 50))
    say(f"generation: first token: {seen.first_ms[-1]:.1f} ms, of {PEER} {seen.their_first_ms[-1]:.1f} ms")


async def _one_death(home: Path, homes: Sequence[Path], number: int, seen: _Seen) -> None:
    """Its provider is killed when a third of an answer is there."""
    with provider(homes[0]) as one, provider(homes[1]) as two:
        async with client(home, one.address) as node:
            await node.connect(two.address)
            by_peer = {process.address.rpartition("/")[2]: process for process in (one, two)}
            for peer in by_peer:  # both are warm
                async with node.generate("tiny", "warm", max_tokens=4, provider=peer, max_price=NO_LIMIT) as answer:
                    await answer.read()
            gaps, cut = await _generate_and_cut(node, _prompts(2000 + number, 1)[0], by_peer)
            seen.gap_ms.append(1000 * max(gaps[cut : cut + IN_FLIGHT]))  # some were on their way
            seen.usual_gap_ms.append(1000 * percentile(gaps[:cut], 50))
            say(f"generation: a death in mid-answer: {seen.gap_ms[-1]:.0f} ms without a token")


async def _generate_and_cut(node: Node, prompt: str, by_peer: dict[str, ProviderProcess]) -> tuple[list[float], int]:
    """Seconds between tokens, and in which of these gaps the provider was killed; that one begins with the kill."""
    gaps: list[float] = []
    cut = TOKENS // 3
    async with node.generate("tiny", prompt, raw=True, max_tokens=TOKENS, max_price=NO_LIMIT) as answer:
        latest = time.perf_counter()
        async for token in answer:
            if token.id is None:
                continue
            now = time.perf_counter()
            gaps.append(now - latest)
            latest = now
            if len(gaps) == cut and answer.provider is not None:
                os.kill(by_peer[answer.provider].process.pid, signal.SIGKILL)
                latest = time.perf_counter()
        if not answer.attempts or len(gaps) <= cut:
            raise ValueError("the answer was over before its provider was killed")
    return gaps, cut


@asynccontextmanager
async def _ours(home: Path, provider_home: Path) -> AsyncIterator[tuple[Node, ProviderProcess]]:
    with provider(provider_home) as process:
        async with client(home, process.address) as node:
            await _generate_all(node, _prompts(0, 2))  # loaded, connected, channel open
            yield node, process


def _prompts(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz "
    return ["".join(draw.choices(letters, k=draw.randint(*PROMPT_CHARACTERS))) for _ in range(count)]


def _without_spinning(config: Path) -> None:
    """genai's sessions as ours: as many threads as there are processors, none of which spins."""
    tree = json.loads(config.read_text())
    options = tree["model"]["decoder"]["session_options"]
    options |= {"intra_op_num_threads": len(os.sched_getaffinity(0)), "session.intra_op.allow_spinning": "0"}
    config.write_text(json.dumps(tree))


@contextmanager
def _genai(model: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Asks genai, in its process, for answers."""
    command = [sys.executable, "-m", "bench.genai_peer", str(model)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    questions, answers = process.stdin, process.stdout

    def ask(how: str, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
        questions.write(json.dumps({"how": how, "prompts": prompts, "tokens": tokens}) + "\n")
        questions.flush()
        told: dict[str, Any] = json.loads(answers.readline())
        return told

    try:
        if answers.readline().strip() != "ready":
            raise ValueError("onnxruntime-genai did not start")
        ask("generator", [[20, 21, 22]], 2)
        yield ask
    finally:
        questions.close()
        stop(process)
