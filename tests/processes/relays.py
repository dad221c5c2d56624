"""A relay that stands between two nodes and keeps every byte that passes: what somebody on the wire would see."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

_READ_BYTES = 65_536


class RecordingRelay:
    """Listens on a port of loopback and passes all connections on to `target`, once that is known."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.target: tuple[str, int] | None = None
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._ended = False
        self._directions: list[bytearray] = []
        self._spawn(self._accept)

    @property
    def address(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.port}"

    def passed(self) -> list[bytes]:
        """All bytes of each direction of each connection."""
        with self._lock:
            return [bytes(direction) for direction in self._directions]

    def __enter__(self) -> RecordingRelay:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._ended = True
            sockets = list(self._sockets)
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in list(self._threads):
            thread.join(10)

    def _spawn(self, function: object, *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                incoming, _ = self._listener.accept()
                assert self.target is not None
                try:
                    outgoing = socket.create_connection(self.target)
                except OSError:  # the target is being stopped
                    incoming.close()
                    continue
                with self._lock:
                    self._sockets += [incoming, outgoing]
                    ended = self._ended
                if ended:
                    incoming.close()
                    outgoing.close()
                    return
                self._spawn(self._pass, incoming, outgoing)
                self._spawn(self._pass, outgoing, incoming)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        record = bytearray()
        with self._lock:
            self._directions.append(record)
        with suppress(OSError):
            while data := source.recv(_READ_BYTES):
                with self._lock:
                    record += data
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
