"""`cocoon-node map`: a model over a file of texts, through the running node or through one that lives as long as the job."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import trio

from cocoon_p2p.cli.api_client import LocalApi, connect
from cocoon_p2p.cli.output import print_note
from cocoon_p2p.cli.place import load_place
from cocoon_p2p.cli.run import limits_head
from cocoon_p2p.cli.words import TEST_MONEY, gram
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.home import Home
from cocoon_p2p.tensors import TEXT_INPUT, Payload, string_tensor

if TYPE_CHECKING:
    from cocoon_p2p.node_map import MapItem

API_IN_FLIGHT = 32
"""Through a running node, unless --in-flight says otherwise: each takes a thread and a connection here."""
BUSY_WAIT_S = 0.5
BAR_COLUMNS = 30


def run(options: argparse.Namespace) -> int:
    home, config = load_place(options)
    texts = _read_texts(options.texts)
    api = connect(home.api_socket())
    with _output(options.out) as out:
        if api is not None:
            with api:  # it runs; each thread has a connection of its own
                pass
            failed, price = trio.run(_through_node, home.api_socket(), options, texts, out)
        else:
            failed, price = _as_guest(home, config, options, texts, out)
    print_note(f"{len(texts)} texts, {failed} failed, for {gram(price)} ({TEST_MONEY}); written to {options.out}")
    return 1 if failed else 0


def _read_texts(name: str) -> list[str]:
    """One a line; the line's end is no part of it. Raises ConfigError."""
    try:
        whole = sys.stdin.read() if name == "-" else Path(os.path.expanduser(name)).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--texts: cannot read {name}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--texts: {name} is no text in UTF-8") from error
    texts = whole.splitlines()
    if not texts:
        raise ConfigError(f"--texts: {name} is empty")
    return texts


def _output(name: str) -> TextIO:
    """Opened before anything is paid for. Raises ConfigError."""
    try:
        return open(os.path.expanduser(name), "w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out: cannot write {name}: {error.strerror or error}") from error


def _as_guest(
    home: Home, config: NodeConfig, options: argparse.Namespace, texts: list[str], out: TextIO
) -> tuple[int, int]:
    from cocoon_p2p.cli.guest import guest_config

    return trio.run(_guest, home, guest_config(home, config, options.bootstrap), options, texts, out)


async def _guest(
    home: Home, config: NodeConfig, options: argparse.Namespace, texts: list[str], out: TextIO
) -> tuple[int, int]:
    from cocoon_p2p.node import Node

    async with Node.open(home.path, config=config) as node:
        limits = limits_head(options)
        items = node.map(limits.pop("model"), texts, in_flight=options.in_flight, progress=_progress(), **limits)
        async with items:
            return await _write(items, out)


async def _through_node(socket: Path, options: argparse.Namespace, texts: list[str], out: TextIO) -> tuple[int, int]:
    from cocoon_p2p.node_map import Spread, Work

    in_flight = options.in_flight or API_IN_FLIGHT
    runner = _ApiRunner(socket, limits_head(options), in_flight)
    async with trio.open_nursery() as nursery:
        work = Work(texts, runner.run_one, lambda: in_flight, progress=_progress())
        async with Spread(nursery, work) as items:
            return await _write(items, out)


class _ApiRunner:
    """Runs items through the local API, each in a thread."""

    def __init__(self, socket: Path, head: dict[str, Any], in_flight: int) -> None:
        self._socket = socket
        self._head = head
        self._threads = trio.CapacityLimiter(in_flight)
        self._idle: list[LocalApi] = []

    async def run_one(self, index: int, text: str) -> MapItem:
        from cocoon_p2p.execution.arrays import to_arrays
        from cocoon_p2p.node_map import MapItem

        payload = Payload((string_tensor(TEXT_INPUT, [text]),))
        while True:
            try:
                result, outputs = await trio.to_thread.run_sync(
                    partial(self._call, payload), limiter=self._threads, abandon_on_cancel=True
                )
            except CocoonError as error:
                if error.code != "BUSY":
                    return MapItem(index, None, error)
                await trio.sleep(BUSY_WAIT_S)
            else:
                price = int(result.get("price_nanogram") or 0)
                return MapItem(index, to_arrays(outputs), provider=result.get("provider"), price=price)

    def _call(self, payload: Payload) -> tuple[dict[str, Any], Payload]:
        api = self._idle.pop() if self._idle else LocalApi(self._socket)
        try:
            return api.run(self._head, payload)
        finally:
            self._idle.append(api)


async def _write(items: AsyncIterator[MapItem], out: TextIO) -> tuple[int, int]:
    failed = price = 0
    async for item in items:
        failed += item.error is not None
        price += item.price
        out.write(json.dumps(_line(item), ensure_ascii=False) + "\n")
    return failed, price


def _line(item: MapItem) -> dict[str, Any]:
    outputs = None if item.outputs is None else {name: array.tolist() for name, array in item.outputs.items()}
    error = None if item.error is None else {"code": item.error.code, "message": item.error.message}
    return {
        "index": item.index,
        "outputs": outputs,
        "error": error,
        "provider": item.provider,
        "price_nanogram": item.price,
    }


def _progress() -> Any:
    """A bar on stderr, where somebody watches."""
    return _bar if sys.stderr.isatty() else None


def _bar(done: int, failed: int, total: int | None) -> None:
    ended = done + failed
    filled = BAR_COLUMNS * ended // total if total else 0
    bar = "█" * filled + "░" * (BAR_COLUMNS - filled)
    told = f"\r{bar} {ended}/{'?' if total is None else total}" + (f", {failed} failed" if failed else "")
    print(told, end="\n" if ended == total else "", file=sys.stderr, flush=True)
