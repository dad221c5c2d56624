"""Tries what a hostile model would, in the jail and out of it, and prints what came of it as JSON. Run as
`python jail_probe.py none|cpu|cuda <folder of models> <memory bytes>`; beside the folder lies a file `secret`.

Every attempt is harmless where it succeeds, so that the same ones can be shown to succeed outside of the jail.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import llguidance
import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from cocoon_p2p.execution import jail, jail_syscalls
from cocoon_p2p.execution.blocks import Block

if forked := os.fork():  # a worker is forked, too: the threads that libraries have started stay behind
    os._exit(os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) & 0xFF)

MODE, FOLDER, MEMORY = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
OUTSIDE = FOLDER.parent
PARENT = os.getppid()
libc = ctypes.CDLL(None, use_errno=True)


def raw(name: str, *arguments: int) -> None:
    number = jail_syscalls.number_of(name)
    assert number is not None
    if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), name)


def unless(expected: int, act: Callable[[], object]) -> None:
    """An attempt that is in order when it fails for want of sense, not of permission."""
    try:
        act()
    except OSError as error:
        if error.errno != expected:
            raise


def in_a_thread(act: Callable[[], object]) -> None:
    failures: list[OSError] = []

    def run() -> None:
        try:
            act()
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def fork() -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)


ATTACKS: dict[str, Callable[[], object]] = {
    "read a file outside": (OUTSIDE / "secret").read_bytes,
    "read it through a link": (FOLDER / "link").read_bytes,
    "read it by way of ..": (FOLDER / ".." / "secret").read_bytes,
    "read it in a thread": lambda: in_a_thread((OUTSIDE / "secret").read_bytes),
    "read /etc/passwd": Path("/etc/passwd").read_bytes,
    "read another process' environment": Path(f"/proc/{PARENT}/environ").read_bytes,
    "list the folder above": lambda: os.listdir(OUTSIDE),
    "write a file outside": lambda: (OUTSIDE / "written").write_bytes(b"x"),
    "write a file inside": lambda: (FOLDER / "written").write_bytes(b"x"),
    "cut a file off": lambda: os.truncate(FOLDER / "spare", 1),
    "rename a file": lambda: (FOLDER / "spare").rename(FOLDER / "spare2"),
    "remove a file": (FOLDER / "doomed").unlink,
    "change a file's mode": lambda: (FOLDER / "link").chmod(0o600),
    "open an internet socket": lambda: socket.socket().close(),
    "open a Unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
    "open a pair of sockets": lambda: list(map(socket.socket.close, socket.socketpair())),
    "execute a program": lambda: unless(errno.ENOENT, lambda: os.execv("/nowhere", ["nowhere"])),
    "start a program": lambda: subprocess.run(["/bin/true"], check=True),
    "fork": fork,
    "signal the parent": lambda: os.kill(PARENT, 0),
    "signal a thread of the parent": lambda: raw("tgkill", PARENT, PARENT, 0),
    "have the kernel signal the parent": lambda: fcntl.fcntl(0, fcntl.F_SETOWN, PARENT),
    "trace a process": lambda: unless(errno.ESRCH, lambda: raw("ptrace", 1, 2**22 + 1, 0, 0)),
    "read a process' memory": lambda: raw("process_vm_readv", PARENT, 0, 0, 0, 0, 0),
    "lower the parent's limits": lambda: resource.prlimit(PARENT, resource.RLIMIT_CORE, resource.prlimit(PARENT, resource.RLIMIT_CORE)),
    "slow the parent down": lambda: os.setpriority(os.PRIO_PROCESS, PARENT, os.getpriority(os.PRIO_PROCESS, PARENT)),
    "be looked at by others": lambda: unless(0, lambda: prctl(4, 1)),
    "mount": lambda: unless(errno.EFAULT, lambda: raw("mount", 1, 1, 1, 0, 0)),
    "a program for the kernel": lambda: unless(errno.EFAULT, lambda: raw("bpf", 5, 1, 128)),
    "io_uring": lambda: unless(errno.EFAULT, lambda: raw("io_uring_setup", 1, 1)),
    "a key ring": lambda: unless(errno.ENOKEY, lambda: raw("keyctl", 0, -1 & 0xFFFFFFFF, 0)),
    "page faults of one's own": lambda: unless(errno.EINVAL, lambda: raw("userfaultfd", 0x7FFF0000)),
    "memory for a program": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close(),
    "more memory than allowed": lambda: np.empty(MEMORY + 2**26, np.uint8),
}  # fmt: skip


def prctl(option: int, value: int) -> None:
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def outcome(act: Callable[[], object]) -> str:
    try:
        act()
    except (OSError, MemoryError) as error:
        return errno.errorcode.get(getattr(error, "errno", None) or 0, type(error).__name__)
    return "done"


def work() -> dict[str, Any]:
    """What a worker does with its libraries, in the jail as outside."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(str(FOLDER / "model.onnx"), options, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": np.arange(8, dtype=np.float32).reshape(2, 4)})
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    template = jinja2.Environment().from_string("{% for m in ms %}<{{ m.role | upper }}>{% endfor %}")
    grammar = llguidance.LLMatcher.grammar_from_json_schema('{"type": "object"}')
    block = Block.create(1, 200_000)
    block.wipe(200_000)
    block.close()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.raise_signal(signal.SIGUSR1)
    return {
        "answer": answer.tolist(),
        "tokens": tokenizer.encode("a b c").ids,
        "text": template.render(ms=[{"role": "user"}]),
        "grammar": len(grammar) > 0,
    }


def calls_let_through() -> list[str]:
    """Of the system calls that are named to be refused, those that are not. Their arguments make no sense."""
    found = []
    for name in jail_syscalls.REFUSED_CALLS:
        if jail_syscalls.number_of(name) is None:
            continue
        try:
            raw(name, -1, -1, -1, -1, -1, -1)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOSYS):
                continue
        found.append(name)
    return found


def main() -> None:
    attacks = {name: act for name, act in ATTACKS.items() if MODE != "cuda" or "memory" not in name}
    before = time.perf_counter()
    if MODE != "none":
        jail.enter_jail([FOLDER], memory_bytes=MEMORY, device=MODE, keep_output=True)
    report = {"jail_ms": (time.perf_counter() - before) * 1e3, "work": work()}
    report["attacks"] = {name: outcome(act) for name, act in attacks.items()}
    report["let through"] = calls_let_through() if MODE != "none" else []
    json.dump(report, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # destructors would look for the threads that stayed behind


main()
