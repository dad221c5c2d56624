"""(b) How many jobs a second a provider does for a busy client."""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import trio

from bench.figures import Aim, Details, Figure, Result, ratios
from bench.http_client import Connection
from bench.nodes import CpuMeter, client, make_home, provider, python_server
from bench.plan import Plan, say
from cocoon_p2p.execution.arrays import to_payload
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX as NO_LIMIT
from cocoon_p2p.models.minilm import build_minilm
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.node import Node, RunRequest
from cocoon_p2p.tensors import TEXT_INPUT, Payload, encode_payload, string_tensor

MEASURES = (
    "jobs a second of one item each, 32 in flight, on MiniLM (16 tokens each; then texts of 2 to 60 words) beside the same "
    "session behind a plain HTTP server"
)
IN_FLIGHT = 32
TOKENS = 16
PAYLOADS = 64
HTTP_RUNS_AT_ONCE = 2
"""Threads that run the session at the same time: on two cores 2 and 4 did best of 1, 2, 4 and 32 (380 and 388 a
second at best, against 333 and 302; noisy)."""
WORDS = "a node earns by running models for others and every job is sealed paid and signed by both sides"
OUTPUT = "sentence_embedding"
AIM = Aim(">=", 0.6)

SIDES = ("job", "plain", "batching")
LOADS = {"tokens": "same length", "texts": "mixed texts"}
WARM_UP_S = 1.0

Rates = dict[tuple[str, str], list[float]]
"""By load and side, jobs a second of each round."""
Do = Callable[[int, int], Awaitable[None]]
"""Does the job of payload `number` for the client `slot`, 0 to 31."""


async def run(plan: Plan) -> Result:
    folder = plan.folder / "rate"
    home = folder / "provider"
    make_home(home, {"minilm": build_minilm(folder / "model")})
    rates: Rates = {(load, side): [] for load in LOADS for side in SIDES}
    cpu: Details = {}
    with provider(home) as process, _http_server(home) as plain, _http_server(home, "batch") as batching:
        async with (
            _connections(plain) as to_plain,
            _connections(batching) as to_batching,
            client(folder / "client", process.address) as node,
        ):
            for load, payloads in (("tokens", _token_payloads()), ("texts", _text_payloads())):
                do = {
                    "job": _by_node(node, payloads),
                    "plain": _by_http(to_plain, payloads),
                    "batching": _by_http(to_batching, payloads),
                }
                cpu[load] = await _take_turns(plan, load, do, rates, CpuMeter(process))
    return Result("rate", MEASURES, tuple(_figures(rates)), {"in_flight": IN_FLIGHT, "cpu_ms_per_job": cpu})


async def _take_turns(plan: Plan, load: str, do: dict[str, Do], rates: Rates, meter: CpuMeter) -> dict[str, float]:
    """Rounds of one load into `rates`, after a warm-up. Milliseconds of processor time of a job."""
    for side in SIDES:
        await keep_busy(do[side], min(WARM_UP_S, plan.seconds_a_round))
    jobs = 0
    for number in range(plan.rounds):
        for side in SIDES:
            with meter if side == "job" else nullcontext():
                done, took = await keep_busy(do[side], plan.seconds_a_round)
            jobs += done if side == "job" else 0
            rates[load, side].append(done / took)
        latest = ", ".join(f"{side} {rates[load, side][-1]:.0f}/s" for side in SIDES)
        say(f"rate: {load}: round {number + 1} of {plan.rounds}: {latest}")
    return meter.ms_per_job(jobs)


def _figures(rates: Rates) -> list[Figure]:
    figures = []
    for load, title in LOADS.items():
        job, plain, batching = (rates[load, side] for side in SIDES)
        figures += [
            Figure(f"{title}: plain HTTP", "/s", tuple(plain)),
            Figure(f"{title}: batching HTTP", "/s", tuple(batching)),
            Figure(f"{title}: sealed jobs", "/s", tuple(job)),
            Figure(f"{title}: job / plain HTTP", "", ratios(job, plain), AIM),
            Figure(f"{title}: job / batching HTTP", "", ratios(job, batching)),
        ]
    return figures


async def keep_busy(do: Do, seconds: float) -> tuple[int, float]:
    """Jobs done and seconds taken, with IN_FLIGHT under way until the time is up; those that end later count too."""
    done = 0
    begun = time.perf_counter()
    end = begun + seconds

    async def one(slot: int) -> None:
        nonlocal done
        number = slot
        while time.perf_counter() < end:
            await do(slot, number % PAYLOADS)
            done += 1
            number += IN_FLIGHT + 1

    async with trio.open_nursery() as nursery:
        for slot in range(IN_FLIGHT):
            nursery.start_soon(one, slot)
    return done, time.perf_counter() - begun


def _by_node(node: Node, payloads: Sequence[Payload]) -> Do:
    request = RunRequest("minilm", max_price=NO_LIMIT)

    async def do(slot: int, number: int) -> None:
        result = await node.run_payload(request, payloads[number])
        (tensor,) = result.payload.tensors
        if (tensor.name, tensor.shape) != (OUTPUT, (1, 384)):
            raise ValueError(f"{tensor.name}{tensor.shape} is no embedding")

    return do


def _by_http(connections: Sequence[Connection], payloads: Sequence[Payload]) -> Do:
    bodies = [b"".join(encode_payload(payload)) for payload in payloads]

    async def do(slot: int, number: int) -> None:
        answer = await connections[slot].post(bodies[number])
        if len(answer) < 384 * 4:
            raise ValueError("the HTTP server's answer holds no embedding")

    return do


@contextmanager
def _http_server(home: Path, *options: str) -> Iterator[int]:
    """Its port."""
    installed = ModelRegistry(home).get("minilm")
    threads = str(len(os.sched_getaffinity(0)))  # as many as our worker has
    arguments = (str(installed.folder), threads, str(HTTP_RUNS_AT_ONCE), *options)
    with python_server("bench.http_server", *arguments) as port:
        yield port


@asynccontextmanager
async def _connections(port: int) -> AsyncIterator[list[Connection]]:
    async with AsyncExitStack() as stack:
        connections = []
        for _ in range(IN_FLIGHT):
            connections.append(Connection(await trio.open_tcp_stream("127.0.0.1", port)))
            stack.push_async_callback(connections[-1].aclose)
        yield connections


def _token_payloads() -> list[Payload]:
    draw = np.random.default_rng(1)
    ones, zeros = np.ones((1, TOKENS), np.int64), np.zeros((1, TOKENS), np.int64)
    return [
        to_payload(
            {
                "input_ids": draw.integers(1000, 28000, (1, TOKENS), np.int64),
                "attention_mask": ones,
                "token_type_ids": zeros,
            },
            (OUTPUT,),
        )
        for _ in range(PAYLOADS)
    ]


def _text_payloads() -> list[Payload]:
    draw = random.Random(2)
    words = WORDS.split()
    return [
        Payload((string_tensor(TEXT_INPUT, [" ".join(draw.choices(words, k=draw.randint(2, 60)))]),))
        for _ in range(PAYLOADS)
    ]
