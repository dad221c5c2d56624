"""(b) How many jobs a second a provider does for a busy client."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import trio

from bench.figures import Aim, Details, Figure, Result, ratios, rounded
from bench.http_client import Connection
from bench.nodes import client, make_home, provider, python_server
from bench.plan import Plan, say
from bench.processes import cpu_s
from cocoon_p2p.execution.arrays import to_payload
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
"""Threads that run the session at the same time: on two cores 2 did best of 1, 2, 4 and 32 (measured)."""
WORDS = "a node earns by running models for others and every job is sealed paid and signed by both sides"
OUTPUT = "sentence_embedding"
AIM = Aim(">=", 0.6)

Do = Callable[[int, int], Awaitable[None]]
"""Does the job of payload `number` for the client `slot`, 0 to 31."""


async def run(plan: Plan) -> Result:
    folder = plan.folder / "rate"
    home = folder / "provider"
    make_home(home, {"minilm": build_minilm(folder / "model")})
    loads = {"tokens": _token_payloads(), "texts": _text_payloads()}
    names = ("job", "plain", "batching")
    rates: dict[tuple[str, str], list[float]] = {(load, name): [] for load in loads for name in names}
    cpu: dict[str, Details] = {load: {} for load in loads}
    with provider(home) as process:
        async with AsyncExitStack() as stack:
            node = await stack.enter_async_context(client(folder / "client", process.address))
            plain = await _open_http(stack, home)
            batching = await _open_http(stack, home, "batch")
            sides = {load: (_by_node(node, load, payloads), *(_by_http(c, payloads) for c in (plain, batching)))
                     for load, payloads in loads.items()}  # fmt: skip
            for number in range(-1, plan.rounds):
                for load in loads:
                    for name, do in zip(names, sides[load], strict=True):
                        before = time.process_time(), cpu_s(process.process.pid), process.worker_cpu_s()
                        seconds = plan.seconds_a_round if number >= 0 else min(1.0, plan.seconds_a_round)
                        jobs, took = await _keep_busy(do, seconds)
                        if number < 0:
                            continue  # that was the warm-up
                        rates[load, name].append(jobs / took)
                        if name == "job":
                            after = time.process_time(), cpu_s(process.process.pid), process.worker_cpu_s()
                            cpu[load] = _cpu_ms_per_job(before, after, jobs)
                if number >= 0:
                    say(f"rate: round {number + 1} of {plan.rounds}: " + _latest(rates))
    return Result("rate", MEASURES, tuple(_figures(rates)), {"in_flight": IN_FLIGHT, "cpu_ms_per_job": cpu})


def _figures(rates: dict[tuple[str, str], list[float]]) -> list[Figure]:
    figures = []
    for load, title in (("tokens", "same length"), ("texts", "mixed texts")):
        job, plain, batching = (rates[load, name] for name in ("job", "plain", "batching"))
        figures += [
            Figure(f"{title}: plain HTTP", "/s", tuple(plain)),
            Figure(f"{title}: batching HTTP", "/s", tuple(batching)),
            Figure(f"{title}: sealed jobs", "/s", tuple(job)),
            Figure(f"{title}: job / plain HTTP", "", ratios(job, plain), AIM),
            Figure(f"{title}: job / batching HTTP", "", ratios(job, batching)),
        ]
    return figures


def _latest(rates: dict[tuple[str, str], list[float]]) -> str:
    return ", ".join(f"{load} {name} {values[-1]:.0f}/s" for (load, name), values in rates.items())


def _cpu_ms_per_job(before: Sequence[float], after: Sequence[float], jobs: int) -> Details:
    spent = [(end - start) / jobs * 1000 for start, end in zip(before, after, strict=True)]
    return dict(zip(("client", "provider", "worker"), map(rounded, spent), strict=True))


async def _keep_busy(do: Do, seconds: float) -> tuple[int, float]:
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


def _by_node(node: Node, load: str, payloads: Sequence[Payload]) -> Do:
    request = RunRequest("minilm", max_price=0)

    async def do(slot: int, number: int) -> None:
        result = await node.run_payload(request, payloads[number])
        _check(result.payload, load)

    return do


def _by_http(connections: Sequence[Connection], payloads: Sequence[Payload]) -> Do:
    bodies = [b"".join(encode_payload(payload)) for payload in payloads]

    async def do(slot: int, number: int) -> None:
        answer = await connections[slot].post(bodies[number])
        if len(answer) < 384 * 4:
            raise ValueError("the HTTP server's answer holds no embedding")

    return do


def _check(payload: Payload, load: str) -> None:
    (tensor,) = payload.tensors
    if (tensor.name, tensor.shape) != (OUTPUT, (1, 384)):
        raise ValueError(f"{load}: {tensor.name}{tensor.shape} is no embedding")


async def _open_http(stack: AsyncExitStack, home: Path, *options: str) -> list[Connection]:
    installed = ModelRegistry(home).get("minilm")
    threads = str(len(os.sched_getaffinity(0)))  # as many as our worker has
    arguments = (str(installed.folder), threads, str(HTTP_RUNS_AT_ONCE), *options)
    _, port = await stack.enter_async_context(python_server("bench.http_server", *arguments))
    connections = []
    for _ in range(IN_FLIGHT):
        connections.append(Connection(await trio.open_tcp_stream("127.0.0.1", port)))
        stack.push_async_callback(connections[-1].aclose)
    return connections


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
