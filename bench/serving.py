"""(h) Jobs a second on MiniLM beside model servers that people use, over plain HTTP."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from bench.figures import Aim, Details, Figure, Result, ratios
from bench.http_client import Connection
from bench.nodes import client, make_home, provider, stop
from bench.plan import Plan, say
from bench.rate import IN_FLIGHT, OUTPUT, Do, keep_busy
from bench.serving_environments import BENTOML, LITSERVE, PYTRITON, Product, Unavailable, environment
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX as NO_LIMIT
from cocoon_p2p.models.minilm import build_minilm
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.node import Node, RunRequest
from cocoon_p2p.tensors import TEXT_INPUT, Payload, string_tensor

MEASURES = (
    "jobs a second on MiniLM, a text of 8 to 128 tokens each, 32 in flight: sealed, paid and receipted over libp2p between "
    "processes, beside model servers over plain HTTP with the same ONNX Runtime and threads, spinning off"
)
TEXTS = 64
TOKENS = (8, 128)
"""Of a text: drawn evenly. The words below are one token each, and two more stand at the ends."""
WORDS = (
    "a",
    "node",
    "runs",
    "models",
    "for",
    "others",
    "and",
    "every",
    "job",
    "is",
    "sealed",
    "paid",
    "by",
    "both",
    "sides",
)
START_TIMEOUT_S = 60.0
WARM_UP_S = 2.0
WARM_AGAIN_S = 0.3
"""At each further turn: its connections are new, and the caches are the others'."""
Turn = Callable[[], AbstractAsyncContextManager[Do]]
US = "sealed jobs"
AIM = Aim(">=", 1.0)
_HERE = Path(__file__).parent / "serving_peers"


@dataclass(frozen=True, slots=True)
class Server:
    product: Product
    command: Callable[[Path, str, int], list[str]]
    """From the model's folder, threads and port."""
    body: Callable[[str], bytes]
    path: str
    ready: str
    content_type: str = "application/json"


def _triton_body(text: str) -> bytes:
    """The Open Inference Protocol's JSON; outputs binary, as Triton's own clients ask for them."""
    return json.dumps(
        {
            "inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}],
            "outputs": [{"name": "embedding", "parameters": {"binary_data": True}}],
        }
    ).encode()


def _script(name: str) -> Callable[[Path, str, int], list[str]]:
    return lambda folder, threads, port: ["python", str(_HERE / name), str(folder), threads, str(port)]


def _bento(folder: Path, threads: str, port: int) -> list[str]:
    target = "bentoml_service:Minilm"
    return ["bentoml", "serve", target, "--working-dir", str(_HERE), "--host", "127.0.0.1", "--port", str(port)]


SERVERS = (
    Server(
        LITSERVE,
        _script("litserve_server.py"),
        lambda text: json.dumps({"text": text}).encode(),
        "/predict",
        "/health",
    ),
    Server(
        PYTRITON,
        _script("pytriton_server.py"),
        _triton_body,
        "/v2/models/minilm/infer",
        "/v2/models/minilm/ready",
    ),
    Server(BENTOML, _bento, lambda text: json.dumps({"texts": [text]}).encode(), "/embed", "/readyz"),
)


async def run(plan: Plan) -> Result:
    folder = plan.folder / "serving"
    home = folder / "provider"
    make_home(home, {"minilm": build_minilm(folder / "model")})
    texts, details = _texts(), Details()
    with ExitStack() as servers:
        process = servers.enter_context(provider(home))
        ports = _start_all(servers, ModelRegistry(home).get("minilm").folder, folder, details)
        async with AsyncExitStack() as stack:
            node = await stack.enter_async_context(client(folder / "client", process.address))
            turns: dict[str, Turn] = {US: lambda: nullcontext(_by_node(node, texts))}
            for server, port in ports:
                turns[server.product.name] = partial(_by_http, server, port, [server.body(text) for text in texts])
            rates = await _take_turns(plan, turns)
    return Result(
        "serving", MEASURES, tuple(_figures(rates)), {"in_flight": IN_FLIGHT, "tokens": list(TOKENS), **details}
    )


async def _take_turns(plan: Plan, turns: dict[str, Turn]) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(plan.rounds):
        for name, turn in turns.items():
            async with turn() as do:
                await keep_busy(do, min(WARM_UP_S, plan.seconds_a_round) if number == 0 else WARM_AGAIN_S)
                done, took = await keep_busy(do, plan.seconds_a_round)
            rates[name].append(done / took)
        latest = ", ".join(f"{name} {values[-1]:.0f}/s" for name, values in rates.items())
        say(f"serving: round {number + 1} of {plan.rounds}: {latest}")
    return rates


def _figures(rates: dict[str, list[float]]) -> Iterator[Figure]:
    for name, values in rates.items():
        yield Figure(name, "/s", tuple(values))
    for name, values in rates.items():
        if name != US:
            yield Figure(f"{US} / {name}", "", ratios(rates[US], values), AIM)


def _texts() -> list[str]:
    draw = random.Random(3)
    return [" ".join(draw.choices(WORDS, k=draw.randint(TOKENS[0] - 2, TOKENS[1] - 2))) for _ in range(TEXTS)]


def _by_node(node: Node, texts: Sequence[str]) -> Do:
    request = RunRequest("minilm", max_price=NO_LIMIT)
    payloads = [Payload((string_tensor(TEXT_INPUT, [text]),)) for text in texts]

    async def do(slot: int, number: int) -> None:
        (tensor,) = (await node.run_payload(request, payloads[number])).payload.tensors
        if (tensor.name, tensor.shape) != (OUTPUT, (1, 384)):
            raise ValueError(f"{tensor.name}{tensor.shape} is no embedding")

    return do


@asynccontextmanager
async def _by_http(server: Server, port: int, bodies: Sequence[bytes]) -> AsyncIterator[Do]:
    """With connections of this turn: some servers close them while others have theirs."""

    async def do(slot: int, number: int) -> None:
        answer = await connections[slot].post(bodies[number])
        if len(answer) < 384 * struct.calcsize("f"):
            raise ValueError(f"no embedding: {answer[:200]!r}")

    async with AsyncExitStack() as stack:
        connections = []
        for _ in range(IN_FLIGHT):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            connections.append(Connection(stream, server.path, server.content_type))
            stack.push_async_callback(connections[-1].aclose)
        yield do


# --- the other servers --------------------------------------------------------------------------------------------------


def _start_all(stack: ExitStack, model: Path, folder: Path, details: Details) -> list[tuple[Server, int]]:
    """Those that can be had here; `details` says of the others why not."""
    running = []
    for server in SERVERS:
        try:
            running.append((server, stack.enter_context(_started(server, model, folder))))
        except Unavailable as reason:
            say(f"serving: without {server.product.name}: {reason}")
            details[server.product.name] = f"not measured: {reason}"
    return running


@contextmanager
def _started(server: Server, model: Path, folder: Path) -> Iterator[int]:
    """Its port. Raises Unavailable."""
    place = environment(server.product)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    threads = str(len(os.sched_getaffinity(0)))  # as many as our worker has
    program, *arguments = server.command(model, threads, port)
    log = folder / f"{server.product.name}.txt"
    environ = {**os.environ, "MINILM_FOLDER": str(model), "MINILM_THREADS": threads, "DO_NOT_TRACK": "1"}
    environ |= {"BENTOML_DO_NOT_TRACK": "True", "PATH": f"{place}:{os.environ['PATH']}"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(place / program), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=_HERE,
            env=environ,
            start_new_session=True,
        )
    try:
        _wait_until_ready(server, process, port, log)
        yield port
    finally:
        stop(process)
        with suppress(ProcessLookupError):  # some leave workers behind
            os.killpg(process.pid, signal.SIGKILL)


def _wait_until_ready(server: Server, process: subprocess.Popen[str], port: int, log: Path) -> None:
    """It tells nobody when it is ready, so it is asked again and again."""
    deadline = time.monotonic() + START_TIMEOUT_S
    question = f"GET {server.ready} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
                stream.sendall(question)
                if stream.recv(64).split()[1:2] == [b"200"]:
                    return
        except OSError:
            time.sleep(0.1)
    lines = log.read_text(errors="replace").strip().splitlines() or ["no word"]
    raise Unavailable(f"it did not get ready: {lines[-1][:200]}")
