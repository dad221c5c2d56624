"""Driving a peer of a benchmark: a program that takes one JSON object a line on stdin and answers with one on stdout.

    → {"do": "one_way", "megabytes": 1024}
    ← {"ok": {"seconds": 0.91}}            or  {"error": "…"}

Its first line is its address. A peer serves whoever dials it, and measures as a client when it is asked to.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import trio

from bench.nodes import NodeFailed, stop

Action = Callable[..., Awaitable[Any]]
_READ_BYTES = 1 << 16


async def answer(address: str, actions: Mapping[str, Action]) -> None:
    """The program's side: say the address, carry out what comes, until stdin ends."""
    print(json.dumps({"ok": address}), flush=True)
    buffer = b""
    async with trio.lowlevel.FdStream(sys.stdin.fileno()) as stdin:
        while piece := await stdin.receive_some(_READ_BYTES):
            buffer += piece
            while b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n")
                print(json.dumps({"ok": await _carry_out(actions, json.loads(line))}), flush=True)


async def _carry_out(actions: Mapping[str, Action], request: dict[str, Any]) -> Any:
    return await actions[request.pop("do")](**request)


class Peer:
    """The parent's side."""

    def __init__(self, process: subprocess.Popen[str], name: str) -> None:
        self.process = process
        self.name = name
        self.address: str = self._read()

    def call(self, do: str, **arguments: Any) -> Any:
        """Raises NodeFailed when the program ended instead of answering."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise NodeFailed(f"the peer {self.name} ended")
        return json.loads(line)["ok"]


@contextmanager
def peer(module: str, *arguments: str, wrapper: Sequence[str] = ()) -> Iterator[Peer]:
    """`python -m bench.net_peers.<module>`, from its start to its end."""
    command = [*wrapper, sys.executable, "-m", f"bench.net_peers.{module}", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Peer(process, module)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        stop(process)
