"""Ends runs that nobody waits for, and the worker itself when the node is gone: the worker's second thread."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

from cocoon_p2p.execution.pipe import BlockingPipe, Tag


class Cancellation:
    """Reads the control socket, also in the midst of a run: ONNX Runtime and the tokenizer let go of the interpreter."""

    def __init__(self, control: socket.socket, make_options: Callable[[], Any]) -> None:
        """`make_options` gives an ort.RunOptions."""
        self._pipe = BlockingPipe(control)
        self._make_options = make_options
        self._lock = threading.Lock()
        self._cancelled: set[int] = set()
        self._running: frozenset[int] = frozenset()
        self._options: Any = None

    def start(self) -> None:
        threading.Thread(target=self._watch, daemon=True, name="cancellation").start()

    def begin(self, jobs: Iterable[int]) -> Any:
        """A run for these jobs begins: its options; or None when all of them are cancelled."""
        with self._lock:
            self._running = frozenset(jobs)
            if self._running <= self._cancelled:
                return None
            self._options = self._make_options()
            return self._options

    def end(self) -> None:
        """The run has ended."""
        with self._lock:
            self._running = frozenset()
            self._options = None

    def is_cancelled(self, job: int) -> bool:
        with self._lock:
            return job in self._cancelled

    def forget(self, job: int) -> None:
        """The job was answered."""
        with self._lock:
            self._cancelled.discard(job)

    def say(self, text: str) -> None:
        """The worker's last words."""
        self._pipe.send([Tag.DYING, text])

    def _watch(self) -> None:
        try:
            while message := self._pipe.receive():
                if message[0] == Tag.CANCEL:
                    self._cancel(message[1])
        finally:
            # The node has closed its end, or is dead. Nothing is worth finishing.
            os._exit(0)

    def _cancel(self, job: int) -> None:
        with self._lock:
            self._cancelled.add(job)
            ending = self._running if self._running and self._running <= self._cancelled else frozenset()
            if ending and self._options is not None:
                self._options.terminate = True
        if ending:
            self._pipe.send([Tag.ENDING, sorted(ending)])
