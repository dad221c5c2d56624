"""`cocoon-node map`: a model over a file of texts, through the running node or through one that lives as long as the job."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import trio

from cocoon_p2p.cli.api_client import LocalApi, connect
from cocoon_p2p.cli.interrupts import run_async, sigterm_as_ctrl_c
from cocoon_p2p.cli.output import print_note
from cocoon_p2p.cli.peer_names import provider_at, provider_of
from cocoon_p2p.cli.place import load_place
from cocoon_p2p.cli.run import limits_head
from cocoon_p2p.cli.words import TEST_MONEY, gram
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.home import Home
from cocoon_p2p.tensors import TEXT_INPUT, Payload, string_tensor

if TYPE_CHECKING:
    from cocoon_p2p.node_map import MapItem, Spread

API_IN_FLIGHT = 32
"""Through a running node, unless --in-flight says otherwise: each takes a thread and a connection here."""
BUSY_WAIT_S = 0.5
BAR_COLUMNS = 30


@dataclass(frozen=True, slots=True)
class _Rest:
    """What is to be done."""

    texts: list[str]
    out: TextIO
    first: int
    """How many texts of the file were done before."""


def run(options: argparse.Namespace) -> int:
    home, config = load_place(options)
    texts = _read_texts(options.texts)
    first = _done_before(options.out) if options.resume else _nothing_there(options.out)
    if first > len(texts):
        raise ConfigError(
            f"--resume: {options.out} holds {first} results, and {options.texts} only {len(texts)} texts",
            hint="give the texts and the file of one and the same run",
        )
    left = texts[first:]
    if not left:
        print_note(f"all {len(texts)} texts are in {options.out} already")
        return 0
    api = connect(home.api_socket())
    with sigterm_as_ctrl_c(), _output(options.out, "a" if first else "w") as out:
        rest = _Rest(left, out, first)
        if api is not None:
            timeout_s = config.client.timeout_s if options.timeout is None else options.timeout
            options.provider = provider_at(api, options.provider, options.model)
            failed, price = run_async(_through_node, home.api_socket(), options, rest, timeout_s)
        else:
            failed, price = _as_guest(home, config, options, rest)
    print_note(f"{len(left)} texts, {failed} failed, for {gram(price)} ({TEST_MONEY}); written to {options.out}")
    return 1 if failed else 0


def _read_texts(name: str) -> list[str]:
    """One a line; the line's end is no part of it. Raises ConfigError."""
    try:
        whole = sys.stdin.read() if name == "-" else Path(os.path.expanduser(name)).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--texts: cannot read {name}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--texts: {name} is no text in UTF-8") from error
    texts = whole.removesuffix("\n").split("\n") if whole else []  # a text may hold U+2028 and the like
    if not texts:
        raise ConfigError(f"--texts: {name} is empty")
    return texts


def _done_before(name: str) -> int:
    """How many texts are done in the file of an earlier run, which is cut off behind the last of them: half a line, or
    failures at the end, because the node was stopped for instance, are done again. Raises ConfigError."""
    path = Path(os.path.expanduser(name))
    done = kept = read = 0
    try:
        with open(path, "rb") as earlier:
            for number, line in enumerate(earlier):
                if not line.endswith(b"\n"):
                    break
                read += len(line)
                if _is_done(line, number, name):
                    done, kept = number + 1, read
        os.truncate(path, kept)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise ConfigError(f"--out: cannot go on with {name}: {error.strerror or error}") from error
    return done


def _nothing_there(name: str) -> int:
    """0, when no work that was paid for, nor anything else, would be written over. Raises ConfigError."""
    path = Path(os.path.expanduser(name))
    try:
        full = path.is_file() and path.stat().st_size > 0
    except OSError as error:
        raise ConfigError(f"--out: cannot look at {name}: {error.strerror or error}") from error
    if full:
        raise ConfigError(
            f"--out: {name} is there already, and would be written over",
            hint="--resume goes on where an earlier run was stopped; or give another file, or remove this one",
        )
    return 0


def _is_done(line: bytes, number: int, name: str) -> bool:
    try:
        row = json.loads(line)
        if row["index"] == number:
            return row["error"] is None
    except (ValueError, LookupError, TypeError):
        pass
    raise ConfigError(
        f"--resume: line {number + 1} of {name} is no result of this command",
        hint="give another file, or remove this one and leave out --resume",
    )


@contextmanager
def _output(name: str, mode: Literal["w", "a"]) -> Iterator[TextIO]:
    """Opened before anything is paid for. Raises ConfigError, also at the end, for a disk that is full."""
    try:
        file = open(os.path.expanduser(name), mode, encoding="utf-8")  # noqa: SIM115 - closed below, which may fail
    except OSError as error:
        raise _cannot_write(name, error) from error
    try:
        yield file
    finally:
        try:
            file.close()
        except OSError as error:  # what it could not write it tries once more
            raise _cannot_write(name, error) from error


def _cannot_write(name: str, error: OSError) -> ConfigError:
    return ConfigError(f"--out: cannot write {name}: {error.strerror or error}")


def _as_guest(home: Home, config: NodeConfig, options: argparse.Namespace, rest: _Rest) -> tuple[int, int]:
    from cocoon_p2p.cli.guest import guest_config

    return run_async(_guest, home, guest_config(home, config, options.bootstrap), options, rest)


async def _guest(home: Home, config: NodeConfig, options: argparse.Namespace, rest: _Rest) -> tuple[int, int]:
    from cocoon_p2p.node import Node

    async with Node.open(home.path, config=config) as node:
        limits = limits_head(options)
        if options.provider is not None:
            limits["provider"] = await provider_of(node, options.provider, options.model)
        items = node.map(
            limits.pop("model"), rest.texts, in_flight=options.in_flight, progress=_progress(rest), **limits
        )
        async with items:
            return await _write(items, rest)


async def _through_node(socket: Path, options: argparse.Namespace, rest: _Rest, timeout_s: float) -> tuple[int, int]:
    from cocoon_p2p.node_map import Spread, Work

    in_flight = options.in_flight or API_IN_FLIGHT
    runner = _ApiRunner(socket, limits_head(options), in_flight, timeout_s)
    async with trio.open_nursery() as nursery:
        work = Work(rest.texts, runner.run_one, lambda: in_flight, progress=_progress(rest))
        async with Spread(nursery, work) as items:
            return await _write(items, rest)


class _ApiRunner:
    """Runs items through the local API, each in a thread."""

    def __init__(self, socket: Path, head: dict[str, Any], in_flight: int, timeout_s: float) -> None:
        self._socket = socket
        self._head = head
        self._timeout_s = timeout_s
        self._threads = trio.CapacityLimiter(in_flight)

    async def run_one(self, index: int, text: str) -> MapItem:
        from cocoon_p2p.execution.arrays import to_arrays
        from cocoon_p2p.node_map import MapItem

        payload = Payload((string_tensor(TEXT_INPUT, [text]),))
        deadline = trio.current_time() + self._timeout_s
        while True:
            try:
                left_s = max(deadline - trio.current_time(), 0.001)
                result, outputs = await trio.to_thread.run_sync(
                    partial(self._call, payload, left_s), limiter=self._threads, abandon_on_cancel=True
                )
            except CocoonError as error:
                if error.code != "BUSY" or trio.current_time() + BUSY_WAIT_S >= deadline:
                    return MapItem(index, None, error)
                await trio.sleep(BUSY_WAIT_S)
            else:
                price = int(result.get("price_nanogram") or 0)
                cut = int(result.get("texts_cut") or 0)
                return MapItem(index, to_arrays(outputs), provider=result.get("provider"), price=price, texts_cut=cut)

    def _call(self, payload: Payload, left_s: float) -> tuple[dict[str, Any], Payload]:
        return LocalApi(self._socket).run(self._head | {"timeout_s": left_s}, payload)


async def _write(items: Spread, rest: _Rest) -> tuple[int, int]:
    first, total, out = rest.first, len(rest.texts), rest.out
    written = failed = price = cut = 0
    why = ""
    try:
        async for item in items:
            price += item.price  # which is paid, whatever becomes of the line
            _write_line(out, json.dumps(_line(item, first), ensure_ascii=False) + "\n")
            written += 1
            if item.error is not None and not failed:
                why = f"text {first + item.index + 1} failed: {item.error.message}"
            failed += item.error is not None
            cut += item.texts_cut
    finally:
        if written < total:  # Ctrl-C, an error that all share, or a bug
            if sys.stderr.isatty():
                print(file=sys.stderr)  # the bar stands on this line
            print_note(_stopped(written, items.all_failed, price, rest))
    if why:
        print_note(f"{why}; of each: {out.name}")
    if cut:
        print_note(
            f"{cut} of {total} texts had more tokens than the model takes and were cut (texts_cut in {out.name})"
        )
    return failed, price


def _write_line(out: TextIO, line: str) -> None:
    """Whole lines, whatever ends the command. Raises ConfigError."""
    try:
        out.write(line)
        out.flush()
    except OSError as error:
        raise _cannot_write(out.name, error) from error


def _stopped(written: int, all_failed: int, price: int, rest: _Rest) -> str:
    first, last = rest.first, rest.first + len(rest.texts)
    if all_failed:
        return (
            f"stopped early: {all_failed} of {last - first} texts were tried and all failed, for {gram(price)} "
            f"({TEST_MONEY}); --resume tries them again"
        )
    return (
        f"stopped early: {first + written} of {last} are in {rest.out.name}, for {gram(price)} ({TEST_MONEY}); "
        "--resume goes on from there"
    )


def _line(item: MapItem, first: int = 0) -> dict[str, Any]:
    outputs = None if item.outputs is None else {name: array.tolist() for name, array in item.outputs.items()}
    error = None if item.error is None else {"code": item.error.code, "message": item.error.message}
    return {
        "index": first + item.index,
        "outputs": outputs,
        "error": error,
        "provider": item.provider,
        "price_nanogram": item.price,
        "texts_cut": item.texts_cut,
    }


def _progress(rest: _Rest) -> Any:
    """A bar on stderr, where somebody watches; of the whole file, as the notes count."""
    return partial(_bar, rest) if sys.stderr.isatty() else None


def _bar(rest: _Rest, done: int, failed: int, _total: int | None) -> None:
    ended, total = rest.first + done + failed, rest.first + len(rest.texts)
    filled = BAR_COLUMNS * ended // total
    bar = "█" * filled + "░" * (BAR_COLUMNS - filled)
    told = f"\r{bar} {ended}/{total}" + (f", {failed} failed" if failed else "")
    print(told, end="\n" if ended == total else "", file=sys.stderr, flush=True)
