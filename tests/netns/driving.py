"""Driving netns_node.py: one JSON object a line to its stdin, its answer from its stdout.

→ {"id": 1, "do": "connect", "peer": "12D3KooW…", "addresses": […]}
← {"id": 1, "ok": null}        or  {"id": 1, "error": "…", "code": "UNREACHABLE"}
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from namespaces import Machine

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId

PROGRAM = Path(__file__).parent / "netns_node.py"
PATIENCE_S = 30.0
"""Only a hanging test meets it."""
_POLL_S = 0.05
_READ_BYTES = 64 * 1024


class Driven:
    """A node in a namespace."""

    peer_id: PeerId
    addresses: list[str]

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._numbers = itertools.count(1)
        self._waiting: dict[int, trio.Event] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._buffer = b""

    @property
    def bootstrap(self) -> list[str]:
        return [f"{address}/p2p/{self.peer_id}" for address in self.addresses if "/127.0.0.1/" not in address]

    async def read_hello(self) -> None:
        hello = json.loads(await self._line())
        self.peer_id, self.addresses = PeerId(hello["peer_id"]), hello["addresses"]

    async def read_answers(self) -> None:
        while line := await self._line():
            answer = json.loads(line)
            self._answers[answer["id"]] = answer
            self._waiting.pop(answer["id"]).set()

    async def call(self, do: str, **arguments: Any) -> Any:
        """Raises TransportError with the code of the error there."""
        number = next(self._numbers)
        answered = self._waiting[number] = trio.Event()
        await self._stdin.send_all(json.dumps({"id": number, "do": do, **arguments}).encode() + b"\n")
        await answered.wait()
        answer = self._answers.pop(number)
        if "error" in answer:
            raise TransportError(answer["error"], outcome_known=True, code=answer["code"], hint=answer["hint"])
        return answer["ok"]

    async def link(self, peer: PeerId) -> dict[str, Any] | None:
        """What it says of its connection to `peer`."""
        return next((each for each in await self.call("peers") if each["peer"] == peer), None)

    async def _line(self) -> bytes:
        """b"" when the program has ended."""
        while b"\n" not in self._buffer:
            piece = await self._stdout.receive_some(_READ_BYTES)
            if not piece:
                return b""
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


@asynccontextmanager
async def open_driven(machine: Machine, number: int, **options: Any) -> AsyncIterator[Driven]:
    """`options` are those of open_libp2p, and `limits`, which go before netns_node.QUICK. Listens on port 4001 unless they
    say otherwise."""
    arguments = {"number": number, "listen": ["/ip4/0.0.0.0/tcp/4001"], **options}
    process = await trio.lowlevel.open_process(
        machine.enter(sys.executable, str(PROGRAM), json.dumps(arguments)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        driven = Driven(process)
        await driven.read_hello()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driven.read_answers)
            yield driven
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what another process comes to."""
    with trio.fail_after(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110
            await trio.sleep(_POLL_S)
