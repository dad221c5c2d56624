"""Driving a peer of another make from a test: a program that takes one JSON object a line and answers in kind.

    → {"id": 1, "do": "connect", "address": "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooW…"}
    ← {"id": 1, "ok": null}        or  {"id": 1, "error": "…"}

Its first line tells its peer id, addresses and version. py_peer.py and js/peer.mjs are such programs; go_daemon.py speaks
to go's daemon and has the same methods.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import trio

from cocoon_p2p.ids import PeerId

_READ_BYTES = 64 * 1024


class ForeignError(Exception):
    """The other program could not do what it was asked to."""


class Foreign(Protocol):
    """A peer of another make."""

    peer_id: PeerId
    addresses: list[str]
    """Without /p2p/."""
    version: str

    async def call(self, do: str, **arguments: Any) -> Any:
        """Raises ForeignError."""


class OpenForeign(Protocol):
    def __call__(self, **options: Any) -> AbstractAsyncContextManager[Foreign]:
        """All makes know `listen`, a multiaddr; js and py know `network_key`, the text of a swarm.key file. go-libp2p takes
        any option of its daemon."""


class JsonLinesPeer:
    """A `Foreign` behind the stdin and stdout of its process."""

    peer_id: PeerId
    addresses: list[str]
    version: str

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self._buffer = b""
        self._sending = trio.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, trio.Event] = {}
        self._answers: dict[int, dict[str, Any]] = {}

    async def read_hello(self) -> None:
        hello = await self._read_line()
        if hello is None:
            raise ForeignError("the program ended before it began")
        self.peer_id, self.addresses, self.version = PeerId(hello["peer_id"]), hello["addresses"], hello["version"]

    async def read_answers(self) -> None:
        while (answer := await self._read_line()) is not None:
            self._take(answer["id"], answer)
        for number in tuple(self._waiting):
            self._take(number, {"error": "the program has ended"})

    async def call(self, do: str, **arguments: Any) -> Any:
        number = next(self._numbers)
        arrived = self._waiting[number] = trio.Event()
        async with self._sending:
            await self._stdin.send_all(json.dumps({"id": number, "do": do, **arguments}).encode() + b"\n")
        await arrived.wait()
        answer = self._answers.pop(number)
        if "error" in answer:
            raise ForeignError(f"{do}: {answer['error']}")
        return answer.get("ok")

    def _take(self, number: int, answer: dict[str, Any]) -> None:
        self._answers[number] = answer
        self._waiting.pop(number).set()

    async def _read_line(self) -> dict[str, Any] | None:
        while b"\n" not in self._buffer:
            piece = await self._stdout.receive_some(_READ_BYTES)
            if not piece:
                return None
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def open_json_lines_peer(command: Sequence[str | Path], **options: Any) -> AsyncIterator[JsonLinesPeer]:
    """A program of our own, for as long as it is needed. It writes its troubles to our stderr. Options, if there are any,
    are its last argument, as JSON."""
    words = [str(part) for part in command] + ([json.dumps(options)] if options else [])
    process = await trio.lowlevel.open_process(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        peer = JsonLinesPeer(process)
        await peer.read_hello()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.read_answers)
            yield peer
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
