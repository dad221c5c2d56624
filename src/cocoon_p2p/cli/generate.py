"""`cocoon-node generate`: text from a model, as it is made, through the running node or through one that lives as long as the answer.

Ctrl-C (or SIGTERM) stops the worker at once: what came stands on stdout and is paid, and what that was is said. A second one ends this
program whatever the network does.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from cocoon_p2p.cli.api_client import LocalApi, connect
from cocoon_p2p.cli.generate_input import generate_head
from cocoon_p2p.cli.generate_text import TextOut
from cocoon_p2p.cli.output import print_json, print_note
from cocoon_p2p.cli.peer_names import provider_at
from cocoon_p2p.cli.place import load_place
from cocoon_p2p.cli.waiting import told_after_a_moment
from cocoon_p2p.cli.words import TEST_MONEY, gram, short_peer
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.gateway.errors_json import error_from_json
from cocoon_p2p.generation import GenerationRequest

STATUS_INTERRUPTED = 130


def run(options: argparse.Namespace) -> int:
    home, config = load_place(options)
    head = generate_head(options)
    shown = Shown(options)
    api = connect(home.api_socket())
    if api is not None:
        if options.bootstrap or options.config:
            print_note("a node runs here and does the job; --bootstrap and --config are for when none does")
        if options.provider is not None:
            head["provider"] = provider_at(api, options.provider, options.model)
        stopped = _through_node(api, head, shown)
    else:
        from cocoon_p2p.cli.generate_guest import generate_as_guest

        stopped = generate_as_guest(home, config, options.bootstrap, head, shown)
    return STATUS_INTERRUPTED if stopped else 0


class Shown:
    """What people and programs see of an answer. `line` takes the lines of gateway/generate_json.py."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._json: bool = options.json
        self._most: int | None = options.max_tokens
        self._streams = sys.stdout.isatty() and not options.json if options.stream is None else options.stream
        self._out = TextOut()
        self._tokens: list[Any] = []
        self.stopped = False
        """Somebody pressed Ctrl-C."""

    def line(self, line: dict[str, Any]) -> None:
        """Raises CocoonError for the line that says that it failed."""
        if self._json and self._streams:
            print_json(line)
        if "piece" in line:
            self._piece(line["piece"])
        if "result" in line:
            self._result(line["result"], failed="error" in line)
        if "error" in line:
            raise error_from_json(500, line)

    def _piece(self, piece: dict[str, Any]) -> None:
        if self._json:
            self._tokens += piece["tokens"]
        elif self._streams:
            self._out.write(piece["text"])

    def _result(self, result: dict[str, Any], *, failed: bool) -> None:
        if self._json and not self._streams:
            print_json(result | {"tokens": self._tokens})
        elif not self._json:
            if not self._streams:
                self._out.write(result["text"])
            self._out.end_line()
        if not self._json or self.stopped:
            print_note(self._summary(result, failed=failed))

    def _summary(self, result: dict[str, Any], *, failed: bool) -> str:
        tokens, speed = result["usage"]["completion_tokens"], result.get("tokens_s")
        said = [f"{tokens} token{'' if tokens == 1 else 's'}" + (f" at {speed:.1f}/s" if speed else "")]
        if result.get("first_token_s") is not None:
            said.append(f"the first after {result['first_token_s']:.2f} s")
        read = result["usage"]["prompt_tokens"]
        said.append(
            f"{gram(result['price_nanogram'])} ({TEST_MONEY}) with {read} token{'' if read == 1 else 's'} of the prompt"
        )
        if result.get("provider"):
            said.append(f"by {short_peer(result['provider'])}")
        lost = len(result.get("attempts") or [])
        if lost and not failed:
            said.append(f"after {lost} other{'' if lost == 1 else 's'} failed")
        if result.get("finish") == "length":
            most = GenerationRequest().max_tokens if self._most is None else self._most
            said.append(f"cut off {'at --max-tokens' if tokens >= most else 'where the context of the model ends'}")
        elif result.get("finish") == "tool_calls":
            said.append("it calls tools")
        head = "stopped; what came is paid: " if self.stopped else "broken off: " if failed else ""
        return head + ", ".join(said)


def _through_node(api: LocalApi, head: dict[str, Any], shown: Shown) -> bool:
    """Whether it was stopped by Ctrl-C."""
    job_id: str | None = None

    def stop() -> None:
        if job_id is None:  # nothing came yet: the node sees that we hang up
            print_note("stopped before anything came; nothing is paid")
            raise KeyboardInterrupt
        shown.stopped = True
        with suppress(CocoonError):  # it may have ended by itself in this moment
            api.post(f"/v1/generate/{job_id}/stop", {})

    with _first_interrupt(stop):
        lines = api.generate(head)
        with told_after_a_moment("waiting for the first token; Ctrl-C stops"):
            first = next(lines)
        job_id = first["start"]["job_id"]
        shown.line(first)
        for line in lines:
            shown.line(line)
    return shown.stopped


@contextmanager
def _first_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Within the block the first Ctrl-C or SIGTERM calls `stop` in the midst of whatever is done; a second one raises
    KeyboardInterrupt."""
    called = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal called
        if called:
            raise KeyboardInterrupt
        called = True
        stop()

    before = {each: signal.signal(each, handle) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
