"""The processes of the demo. None outlives it: each ends with its stdin, whose other end only the demo holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import trio

from cocoon_p2p.cli.api_client import LocalApi, connect
from cocoon_p2p.config import ClientSection, NetworkSection, NodeConfig, NodeSection, ProviderSection, render_toml
from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.errors import CocoonError, TransportError
from cocoon_p2p.gateway.errors_json import error_from_json
from cocoon_p2p.home import Home
from cocoon_p2p.net.addresses import parse_address

Result = TypeVar("Result")

START_TIMEOUT_S = 60.0
"""A node is ready in 2 s; five at a time on a small machine under load need longer."""
STOP_GRACE_S = 5.0
"""A node takes its leave in well under a second."""
LAST_WORDS_S = 1.0
LAST_LINES = 12
LINE_BYTES_MAX = 256 * 1024
PIECE_BYTES = 64 * 1024

PRICES = ((100_000, 10_000), (150_000, 7_000), (60_000, 25_000))
"""Of the three providers, nanogram a job and an item: the first is cheapest for jobs of middling size, the second for
large ones, the third for small ones."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A node that is to be started."""

    name: str
    config: NodeConfig


def bootstrap_plan(listen: str) -> Plan:
    return Plan("bootstrap", NodeConfig(
        node=NodeSection(agent="demo-bootstrap"),
        network=NetworkSection(listen=(listen,)),
        provider=ProviderSection(serve=False),
    ))  # fmt: skip


def provider_plans(listen: str) -> list[Plan]:
    """They listen where the bootstrap node does, each on a port of its own."""
    address = parse_address(listen)
    where = f"/{address.kind}/{address.host}/tcp/0"
    return [
        Plan(f"provider-{number}", NodeConfig(
            node=NodeSection(agent=f"demo-provider-{number}"),
            network=NetworkSection(listen=(where,)),
            provider=ProviderSection(price_base=base, price_per_item=per_item),
        ))
        for number, (base, per_item) in enumerate(PRICES, 1)
    ]  # fmt: skip


def client_plan() -> Plan:
    """It dials and is not dialled."""
    return Plan("client", NodeConfig(
        node=NodeSection(agent="demo-client"),
        network=NetworkSection(listen=(), dht_mode="client"),
        provider=ProviderSection(serve=False),
        client=ClientSection(),
    ))  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunningNode:
    """A node that said it is ready."""

    name: str
    config: NodeConfig
    home: Path
    peer_id: str
    addresses: tuple[str, ...]

    def api(self) -> LocalApi:
        """Its local API; blocks for a moment. Raises TransportError."""
        api = connect(Home(self.home).api_socket())
        if api is None:
            raise TransportError(f"{self.name} does not answer on its local API", outcome_known=True, code="NODE_GONE")
        return api


class Child:
    """A process that says JSON lines on stdout. Its stderr is kept: the last lines for people, and its end as the sign
    that the process and all that it started are gone, who inherit it."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self._process = process
        self._send_line, self._lines = trio.open_memory_channel[bytes](16)
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._streams = trio.CancelScope(shield=True)  # they are read on while the process is being stopped
        self._gone = trio.Event()
        self._stopping = False

    async def line(self, timeout_s: float) -> dict[str, Any]:
        """The next line of its stdout. Raises CocoonError when none comes in time, or it is the news of an error."""
        raw = b""
        with trio.move_on_after(timeout_s) as scope:
            try:
                raw = await self._lines.receive()
            except trio.EndOfChannel:
                await trio.sleep_forever()  # it is ending; `keep` knows why
        if scope.cancelled_caught:
            raise self._failure(f"said nothing for {timeout_s:.0f} s")
        try:
            value: dict[str, Any] = json.loads(raw)
        except ValueError as error:
            raise self._failure("said something that is no JSON") from error
        if "error" in value:
            raise error_from_json(value.get("status", 500), value)
        return value

    async def ask(self, question: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Its answer to a line on its stdin. Raises CocoonError."""
        assert self._process.stdin is not None
        with suppress(trio.BrokenResourceError):  # it has ended; `line` waits until that is known
            await self._process.stdin.send_all(json.dumps(question).encode() + b"\n")
        return await self.line(timeout_s)

    async def keep(self) -> None:
        """Read what it says until it has ended. Raises CocoonError when that was not our wish."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with self._streams:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_stdout, self._process.stdout)
                nursery.start_soon(_read_lines, self._process.stderr, self._remember)
                await self._process.wait()
                if not self._stopping:
                    nursery.cancel_scope.deadline = trio.current_time() + LAST_WORDS_S
            self._gone.set()
        if not self._stopping:
            raise self._failure(f"ended by itself ({_ending(self._process.returncode)})")

    async def stop(self) -> None:
        """End it, gently at first. When this returns, it and the processes that it started are gone."""
        self._stopping = True
        if not self._gone.is_set():
            self._signal(signal.SIGTERM)
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        with trio.move_on_after(STOP_GRACE_S):
            await self._gone.wait()
        if not self._gone.is_set():
            self._signal(signal.SIGKILL)
            with trio.move_on_after(STOP_GRACE_S):
                await self._gone.wait()
        self._streams.cancel()

    def kill(self) -> None:
        """As `kill -9`: it gets no chance to say goodbye."""
        self._stopping = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """To it and to whatever it started, but for those in sessions of their own, which end when it does."""
        with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a process that has ended
            os.killpg(self._process.pid, number)

    async def _read_stdout(self, stream: trio.abc.ReceiveStream) -> None:
        async with self._send_line:
            await _read_lines(stream, self._send_line.send)

    async def _remember(self, line: bytes) -> None:
        self._last_lines.append(line.decode(errors="replace"))

    def _failure(self, what: str) -> ChildFailed:
        return ChildFailed(f"{self.name} {what}", tuple(self._last_lines))


class ChildFailed(CocoonError):
    """One of the demo's processes does not do what it should. `last_lines`: the end of its stderr."""

    default_code = "CHILD"

    def __init__(self, message: str, last_lines: tuple[str, ...]) -> None:
        super().__init__(message)
        self.last_lines = last_lines


class Children:
    """All processes of the demo; made by `open_children`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._children: list[Child] = []

    async def start(self, name: str, arguments: Sequence[str]) -> Child:
        """Start `python -P -m <arguments>`."""
        # -P: the working directory must not shadow modules. A session of its own: Ctrl-C in the terminal is for the demo.
        process = await trio.lowlevel.open_process(
            [sys.executable, "-P", "-m", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        child = Child(name, process)
        self._children.append(child)
        self._nursery.start_soon(child.keep)
        return child

    async def start_node(self, plan: Plan, home: Path, bootstrap: Sequence[str] = ()) -> RunningNode:
        """Start a node and wait until it is ready. Raises CocoonError."""
        _write_config(home, plan.config)
        arguments = ["cocoon_p2p", "up", "--json", "--home", str(home), "--until-stdin-closes"]
        for address in bootstrap:
            arguments += ["--bootstrap", address]
        ready = await (await self.start(plan.name, arguments)).line(START_TIMEOUT_S)
        return RunningNode(plan.name, plan.config, home, ready["peer_id"], tuple(ready["addresses"]))

    def kill(self, name: str) -> None:
        """End the child of this name at once, as `kill -9` does."""
        next(child for child in self._children if child.name == name).kill()

    async def _stop(self) -> None:
        async with trio.open_nursery() as nursery:
            for child in self._children:
                nursery.start_soon(child.stop)


@asynccontextmanager
async def open_children() -> AsyncIterator[Children]:
    """Processes that are all gone at the end of the block. Raises ChildFailed in it as soon as one ends by itself."""
    async with open_plain_nursery() as nursery:
        children = Children(nursery)
        try:
            yield children
        finally:
            with trio.CancelScope(shield=True):
                await children._stop()
            nursery.cancel_scope.cancel()


async def in_thread(call: Callable[[], Result]) -> Result:
    """A blocking call to a node's local API. When cancelled it is left to end by itself, which it does with its node."""
    return await trio.to_thread.run_sync(call, abandon_on_cancel=True)


async def _read_lines(stream: trio.abc.ReceiveStream, take: Callable[[bytes], Any]) -> None:
    """Hand on each line, without its end and cut at LINE_BYTES_MAX, until the stream ends."""
    rest = b""
    async with stream:
        while piece := await stream.receive_some(PIECE_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                await take(line[:LINE_BYTES_MAX])
            rest = rest[:LINE_BYTES_MAX]
    if rest:
        await take(rest)


def _write_config(home: Path, config: NodeConfig) -> None:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / "node.toml").write_text(render_toml(config))


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}"
    return f"exit status {code}"
