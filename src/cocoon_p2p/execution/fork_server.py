"""The process from which workers are forked: it has loaded what they need, so a worker is ready in hundredths of a second.

Run as `python -P -m cocoon_p2p.execution.fork_server <descriptor>`, the descriptor being its end of a Unix socket to the
node. It ends when the node's end is closed, which the kernel sees to however the node dies, and takes its workers along.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
from contextlib import suppress

from cocoon_p2p.execution.environment import ENVIRONMENT
from cocoon_p2p.execution.pipe import BlockingPipe, Tag

LATE_MODULES = ("numpy.random", "encodings.unicode_escape", "jinja2.debug")
"""What libraries load when it is first used: in the jail (execution/jail.py) that would be too late."""


def serve(node: BlockingPipe) -> tuple[socket.socket, socket.socket] | None:
    """Fork workers until the node is gone. Returns in each worker, with its jobs and control sockets; and None, in this
    process, at the end."""
    workers: set[int] = set()
    wake_read, wake_write = socket.socketpair()
    wake_read.setblocking(False)
    wake_write.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
    while True:
        readable, _, _ = select.select([node.sock, wake_read], [], [])
        if wake_read in readable:
            wake_read.recv(4096)
            _reap(node, workers)
        if node.sock not in readable:
            continue
        for message in _received(node):
            if message is None:
                _end(workers)
                return None
            if message[0] == Tag.KILL and message[1] in workers:
                os.kill(message[1], signal.SIGKILL)
            elif message[0] == Tag.FORK:
                sockets = tuple(socket.socket(fileno=node.descriptors.popleft()) for _ in range(2))
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for other in (node, wake_read, wake_write):
                        other.close()
                    return sockets[0], sockets[1]
                for own in sockets:
                    own.close()
                workers.add(pid)
                _tell(node, [Tag.FORKED, message[1], pid])


def _received(node: BlockingPipe) -> list[list[object] | None]:
    """Every message that can be had without waiting, at least one; None stands for the end."""
    try:
        messages: list[list[object] | None] = [node.receive()]
    except OSError:
        messages = [None]
    messages += node.waiting()
    return messages


def _reap(node: BlockingPipe, workers: set[int]) -> None:
    while workers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        workers.discard(pid)
        _tell(node, [Tag.ENDED, pid, os.waitstatus_to_exitcode(status)])


def _tell(node: BlockingPipe, message: list[object]) -> None:
    with suppress(OSError):  # the node is gone; the next read says so
        node.send(message)


def _end(workers: set[int]) -> None:
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    for pid in workers:
        os.waitpid(pid, 0)


def main() -> None:
    # The terminal sends SIGINT, and a service manager SIGTERM, to all processes at once; the node decides when we end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.environ.update(ENVIRONMENT)
    from cocoon_p2p.execution.worker import main as work

    for name in LATE_MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # workers share these pages until they write to them; the collector would
    sockets = serve(BlockingPipe(socket.socket(fileno=int(sys.argv[1]))))
    if sockets is not None:
        work(*sockets)


if __name__ == "__main__":
    main()
