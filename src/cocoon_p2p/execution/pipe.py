"""Messages between the node and its worker processes: msgpack arrays, an integer tag first, over a Unix stream socket.

Descriptors of shared memory travel beside the messages that name them; both sides take them up in order.
"""

from __future__ import annotations

import array
import math
import os
import select
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from enum import IntEnum
from typing import Any

import msgpack
import trio

from cocoon_p2p.limits import ENGINE_SET_JOBS_MAX, KIB, MIB, WORKER_INLINE_BYTES_MAX

_READ_BYTES = 256 * KIB
_MESSAGE_BYTES_MAX = ENGINE_SET_JOBS_MAX * (WORKER_INLINE_BYTES_MAX + 4 * KIB) + MIB
_DESCRIPTORS_MAX = 253
"""What Linux passes in one message (SCM_MAX_FD)."""
_DESCRIPTORS_WAITING_MAX = 2 * _DESCRIPTORS_MAX
"""Of a message that has come in part, and of the one before."""
_ANCILLARY_BYTES = (
    socket.CMSG_SPACE(_DESCRIPTORS_MAX * array.array("i").itemsize) if hasattr(socket, "CMSG_SPACE") else 0
)


class Tag(IntEnum):
    """What a message is; in brackets what follows the tag."""

    # node → fork server
    FORK = 1  # [token] and two descriptors: the worker's jobs and control sockets
    KILL = 2  # [pid]
    # fork server → node
    FORKED = 3  # [token, pid]
    ENDED = 4  # [pid, exit code; negative: signal]
    # node → worker, jobs socket
    PROVIDERS = 10  # []
    PROBE = 11  # [execution provider, number of the device, in the jail?]
    LOAD = (
        12  # [folder, manifest, execution provider, number of the device, threads, batch_items_max, output_bytes_max,
    )
    #             bytes of memory beside what the process has | None]
    RUN = 13  # [[[job, text?, outputs, bytes | [block, size]] …], [[block, size] …]] and the new blocks' descriptors
    RELEASE = 14  # [block, bytes to wipe, keep?]     an output was read
    FORGET = 15  # [block]                            an input block is no more
    BEGIN = 16  # [answer, request, client, items_max, items_allowed]   to a worker of a generation model
    ALLOW = 17  # [answer, items]
    STOP = 18  # [answer]
    # worker → node, jobs socket
    ANSWER = 20  # [value]                            to PROVIDERS and PROBE
    LOADED = 21  # [batches?]
    NOT_LOADED = 22  # [code, text]
    DONE = 23  # [job, waited_us, execute_us, work_us, bytes | [block, size], size of the new block | 0]
    FAILED = 24  # [job, code, text]
    BEGUN = 25  # [answer, tokens of the prompt]
    PRODUCED = 26  # [[[answer, piece, items, execute_us, waited_us] | [answer, code, text] …]]   what one step made
    # control socket: node → worker, worker → node
    CANCEL = 30  # [job]                             an answer's on the jobs socket, too
    ENDING = 31  # [[job …]]                          a run is told to end
    DYING = 32  # [text]                              the last words of a worker


Message = list[Any]


class _Incoming:
    """Bytes and descriptors that arrived, as messages."""

    def __init__(self) -> None:
        self.descriptors: deque[int] = deque()
        self._unpacker = msgpack.Unpacker(max_buffer_size=_MESSAGE_BYTES_MAX, use_list=True)
        self._unfinished = 0
        """Bytes since the last message that came whole: the unpacker itself bounds its parts only, not how many a message has."""

    def feed(self, data: memoryview, ancillary: list[tuple[int, int, bytes]]) -> list[Message]:
        """Raises ValueError for anything but messages."""
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self.descriptors.extend(numbers)
        self._unpacker.feed(data)
        messages: list[Message] = list(self._unpacker)
        self._unfinished = 0 if messages else self._unfinished + len(data)
        if self._unfinished > _MESSAGE_BYTES_MAX or len(self.descriptors) > _DESCRIPTORS_WAITING_MAX:
            raise ValueError("more than any message has")
        if not all(isinstance(message, list) and message for message in messages):
            raise ValueError("not a message")
        return messages

    def close(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.popleft())


class BlockingPipe:
    """The worker's and the fork server's end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._incoming = _Incoming()
        self._ready: deque[Message] = deque()
        self._buffer = bytearray(_READ_BYTES)

    @property
    def descriptors(self) -> deque[int]:
        return self._incoming.descriptors

    def receive(self) -> Message | None:
        """The next message; None at the end."""
        while not self._ready:
            size, ancillary, _, _ = self.sock.recvmsg_into([self._buffer], _ANCILLARY_BYTES)
            if not size:
                return None
            self._ready.extend(self._incoming.feed(memoryview(self._buffer)[:size], ancillary))
        return self._ready.popleft()

    def has_message(self, timeout_s: float | None) -> bool:
        """Whether `receive` would give a message, or the end, within `timeout_s` (None: wait for it). A message of which only a part
        has come counts, too."""
        if self._ready:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else math.ceil(timeout_s * 1000)))

    def waiting(self) -> list[Message]:
        """Messages that arrived together with the last one that `receive` gave."""
        messages = list(self._ready)
        self._ready.clear()
        return messages

    def send(self, message: Sequence[Any], descriptors: Sequence[int] = ()) -> None:
        """Waits until all is sent. The caller's descriptors stay its own. Raises OSError when the other side is gone."""
        data = memoryview(msgpack.packb(message))
        if descriptors:
            data = data[socket.send_fds(self.sock, [data], list(descriptors)) :]
        self.sock.sendall(data)

    def close(self) -> None:
        self._incoming.close()
        self.sock.close()


class Pipe:
    """The node's end. `send` never waits; what the kernel does not take at once, the task `write_rest` sends."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._incoming = _Incoming()
        self._buffer = bytearray(_READ_BYTES)
        self._rest: deque[tuple[memoryview, list[int]]] = deque()
        self._rest_grew = trio.Event()
        self._open = True

    @property
    def descriptors(self) -> deque[int]:
        return self._incoming.descriptors

    def send(self, message: Sequence[Any], descriptors: Sequence[int] = ()) -> None:
        """The caller's descriptors stay its own. Silent when the other side is gone: `receive` tells that."""
        if not self._open:
            return
        data = memoryview(msgpack.packb(message))
        if not self._rest:
            data, sent = self._send_some(data, descriptors)
            if not data:
                return
            descriptors = () if sent else descriptors
        self._rest.append((data, [os.dup(number) for number in descriptors]))
        self._rest_grew.set()

    async def receive(self) -> list[Message]:
        """The messages that arrived; none at the end. Raises ValueError when it is no message that arrived."""
        while self._open:
            try:
                size, ancillary, _, _ = self._sock.recvmsg_into([self._buffer], _ANCILLARY_BYTES)
            except BlockingIOError:
                try:
                    await trio.lowlevel.wait_readable(self._sock)
                except trio.ClosedResourceError:
                    return []
                continue
            except OSError:
                return []
            if not size:
                return []
            messages = self._incoming.feed(memoryview(self._buffer)[:size], ancillary)
            if messages:
                return messages
        return []

    async def write_rest(self) -> None:
        """Run this beside the reading task; it ends with `close`."""
        with suppress(trio.ClosedResourceError):
            await self._write_rest()

    async def _write_rest(self) -> None:
        while self._open:
            await self._rest_grew.wait()
            self._rest_grew = trio.Event()
            while self._rest and self._open:
                data, descriptors = self._rest[0]
                left, sent = self._send_some(data, descriptors)
                if sent:
                    _close_all(descriptors)
                if left:
                    self._rest[0] = (left, descriptors)
                    await trio.lowlevel.wait_writable(self._sock)
                else:
                    self._rest.popleft()

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._incoming.close()
        for _, descriptors in self._rest:
            _close_all(descriptors)
        self._rest.clear()
        self._rest_grew.set()
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()

    def _send_some(self, data: memoryview, descriptors: Sequence[int]) -> tuple[memoryview, bool]:
        """What is left of `data`, and whether the descriptors went."""
        try:
            while data:
                if descriptors:
                    data = data[socket.send_fds(self._sock, [data], list(descriptors)) :]
                    descriptors = ()
                else:
                    data = data[self._sock.send(data) :]
        except BlockingIOError:
            return data, not descriptors
        except OSError:  # the other side is gone
            return memoryview(b""), True
        return data, True


def _close_all(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())
