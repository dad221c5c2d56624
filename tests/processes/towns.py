"""A town: nodes as operating-system processes on loopback, started as an operator starts them, and everything that a test
does to them: talks through the command line and the local API, reads what they write, kills them, looks for leftovers.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from cocoon_p2p.cli.api_client import LocalApi, connect
from cocoon_p2p.execution.arrays import to_arrays, to_payload
from cocoon_p2p.home import Home
from cocoon_p2p.tensors import TEXT_INPUT, Payload, string_tensor

T = TypeVar("T")
Arrays = dict[str, np.ndarray]

MARKER = "PYTHON_TEST_TOWN"
"""In the environment of every process of a town, and so of all that they start: it begins as names do that are kept for the
processes which run models (execution/environment.py)."""
ANYWHERE = "/ip4/127.0.0.1/tcp/0"
PATIENCE_S = 60.0
"""For what takes a second on an idle machine: only a test that fails waits so long."""
COMMAND_PATIENCE_S = 120.0
"""For a command that works for some seconds on an idle machine."""
LOOK_AGAIN_S = 0.01

NODE_TOML = """[network]
listen = ["/ip4/127.0.0.1/tcp/0"]
[execution]
threads = 1
providers = "cpu"
[log]
level = "{level}"
"""


def eventually(check: Callable[[], T], what: str, within: float = PATIENCE_S) -> T:
    """The first true value of `check`. For states of other processes, which announce them to nobody."""
    deadline = time.monotonic() + within
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(LOOK_AGAIN_S)


def bearing(mark: str, sessions: set[int]) -> dict[int, str]:
    """Every living process with `mark` ("NAME=value") in its environment, and what is of a session that such a one leads: process id
    and command line. Workers in the jail let nobody but root read their environment, and are of their fork server's session;
    `sessions` is this function's memory of such sessions, in which something lives."""
    living = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        pid = int(folder.name)
        try:
            state, _, _, session = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:4]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")  # anybody's
        except OSError:  # it ended
            continue
        try:
            bears = mark.encode() in (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # another user's, or in the jail
            bears = False
        if bears and int(session) == pid:
            sessions.add(pid)
        if state != b"Z":
            living.append((pid, int(session), bears, command))
    sessions &= {session for _, session, _, _ in living}
    return {pid: command for pid, session, bears, command in living if bears or session in sessions}


class Lines:
    """What a process writes to one of its outputs, line by line, with the time of each."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._changed = threading.Condition()
        self._lines: list[tuple[float, str]] = []
        self.ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            for line in self._stream:
                with self._changed:
                    self._lines.append((time.monotonic(), line.rstrip("\n")))
                    self._changed.notify_all()
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    @property
    def text(self) -> str:
        with self._changed:
            return "\n".join(line for _, line in self._lines)

    def count(self) -> int:
        with self._changed:
            return len(self._lines)

    def wait_for(self, pattern: str, *, within: float = PATIENCE_S, after: int = 0) -> tuple[float, str] | None:
        """(when, line) of the first line from number `after` on in which `pattern` is found; None when it did not come."""

        def found() -> tuple[float, str] | None:
            return next((entry for entry in self._lines[after:] if re.search(pattern, entry[1])), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self.ended, within)
            return found()

    def join(self) -> None:
        self._thread.join(PATIENCE_S)
        assert self.ended, "somebody still holds the output of a process that ended"


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that ran to its end."""

    status: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        assert self.out.count("\n") == 1, f"not one line: {self.out!r}"
        return json.loads(self.out)


class NodeProcess:
    """`cocoon-node up` in a process, ready."""

    def __init__(self, home: Path, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.home = home
        self.process = process
        self.out, self.err = Lines(process.stdout), Lines(process.stderr)
        self.launched = time.monotonic()
        self.peer_id = ""
        self.addresses: list[str] = []
        self._api: LocalApi | None = None
        self._places: list[socket.socket] = []

    def wait_ready(self) -> NodeProcess:
        line = self.out.wait_for('"event": "ready"')
        assert line is not None, f"never ready: {self.err.text}"
        ready = json.loads(line[1])
        self.peer_id, self.addresses = ready["peer_id"], ready["addresses"]
        return self

    @property
    def address(self) -> str:
        return self.addresses[0]

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    # --- talking to it ---

    @property
    def api(self) -> LocalApi:
        if self._api is None:
            self._api = connect(Home(self.home).api_socket())
            assert self._api is not None, f"the local API of {self.home} does not answer"
        return self._api

    def status(self) -> dict[str, Any]:
        return self.api.get("/v1/status")

    def offers(self, model: str | None = None) -> list[dict[str, Any]]:
        return list(self.api.get("/v1/offers", model=model)["offers"])

    def jobs(self) -> list[dict[str, Any]]:
        return list(self.api.get("/v1/jobs", limit=1000)["jobs"])

    def receipts(self) -> list[dict[str, Any]]:
        return list(self.api.get("/v1/receipts", limit=1000)["receipts"])

    def wallet(self) -> dict[str, Any]:
        return self.api.get("/v1/wallet")

    def run(
        self, model: str, inputs: Mapping[str, Any] | None = None, *, text: Sequence[str] | None = None, **options: Any
    ) -> tuple[dict[str, Any], Arrays]:
        """One job, by way of this node as its client. Raises CocoonError."""
        if text is not None:
            payload = Payload((string_tensor(TEXT_INPUT, list(text)),))
        else:
            payload = to_payload(dict(inputs or {}))
        result, outputs = self.api.run({"model": model, **options}, payload)
        return result, to_arrays(outputs)

    def model(self, name: str) -> dict[str, Any]:
        """What it says of a model that it serves."""
        return next(row for row in self.status()["models"] if row["name"] == name)

    def working_on(self, name: str) -> bool:
        return bool(self.model(name)["running"])

    # --- ending it ---

    def send(self, number: signal.Signals) -> float:
        """To the process alone; when."""
        now = time.monotonic()
        self.process.send_signal(number)
        return now

    def ctrl_c(self) -> float:
        """SIGINT to all of its group, as a terminal does; when."""
        now = time.monotonic()
        os.killpg(self.process.pid, signal.SIGINT)
        return now

    def kill(self) -> float:
        """kill -9; when. The process is gone afterwards."""
        now = time.monotonic()
        self.process.kill()
        self.wait()
        return now

    def wait(self, within: float = PATIENCE_S) -> int:
        """Its exit status."""
        status = self.process.wait(within)
        if not self._places:
            self._keep_places()
        return status

    def _keep_places(self) -> None:
        """Where it listened nobody shall before it is started again: tests that run beside this one take ports, too. A socket that
        is bound and does not listen refuses connections, as no socket does, and is no obstacle to one that listens."""
        for address in self.addresses:
            _, kind, host, _, port, *_ = address.split("/")
            if kind == "ip4":
                place = socket.socket()
                place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._places.append(place)
                with suppress(OSError):  # in another network namespace
                    place.bind((host, int(port)))

    def end(self) -> None:
        """However it stands, it is gone afterwards, with its outputs read."""
        self.process.kill()
        self.wait()
        for place in self._places:
            place.close()
        self.out.join()
        self.err.join()


class Town:
    """The processes of a test, and a folder for their homes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.root.mkdir(parents=True, exist_ok=True)
        self.nodes: dict[str, NodeProcess] = {}
        self.past: list[NodeProcess] = []
        self._threads = ThreadPoolExecutor(max_workers=16)
        self._marker = uuid.uuid4().hex
        self._sessions: set[int] = set()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
            "LANG": "C.UTF-8",
            MARKER: self._marker,
        }
        if "PYTHONPATH" in os.environ:
            self.environment["PYTHONPATH"] = os.environ["PYTHONPATH"]

    def __enter__(self) -> Town:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for node in self._all():
            if node.running:
                node.process.kill()
        for node in self._all():
            node.end()
        self._threads.shutdown()
        eventually(lambda: not self.processes(), f"no process left of {self.root}: {self.processes()}")

    def _all(self) -> list[NodeProcess]:
        return [*self.nodes.values(), *self.past]

    def home(self, name: str, *, level: str = "info", toml: str = NODE_TOML) -> Path:
        """A home folder with a node.toml for tests."""
        home = self.root / name
        if not home.exists():
            home.mkdir(mode=0o700)
            (home / "node.toml").write_text(toml.format(level=level))
        return home

    # --- nodes ---

    def launch(self, name: str, *options: str, bootstrap: Sequence[str] = (), json: bool = True) -> NodeProcess:
        """Start `up` on the home of that name, and do not wait. Started again, it listens where it did before."""
        home = self.home(name)
        if name in self.nodes:
            assert not self.nodes[name].running, f"{name} runs already"
            self.past.append(self.nodes[name])
        if "--listen" not in options and name in self.nodes:  # as one with a fixed port in its node.toml
            options += tuple(p for a in self.nodes[name].addresses for p in ("--listen", a.partition("/p2p/")[0]))
        joins = [part for address in bootstrap for part in ("--bootstrap", address)]
        output = ["--json"] if json else []
        command = [sys.executable, "-m", "cocoon_p2p", "up", *output, "--home", str(home), *joins, *options]
        node = NodeProcess(home, self._popen(command))
        self.nodes[name] = node
        return node

    def start(self, name: str, *options: str, bootstrap: Sequence[str] = ()) -> NodeProcess:
        """The same, and it is ready."""
        return self.launch(name, *options, bootstrap=bootstrap).wait_ready()

    def _popen(self, command: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd=self.root,
            start_new_session=True,
        )

    # --- commands ---

    def cli(self, *arguments: str, home: Path | None = None, timeout: float = COMMAND_PATIENCE_S) -> Ended:
        """Run a command to its end."""
        return self.cli_started(*arguments, home=home).wait(timeout)

    def cli_started(self, *arguments: str, home: Path | None = None) -> RunningCommand:
        at = () if home is None else ("--home", str(home))
        return RunningCommand(self._popen([sys.executable, "-m", "cocoon_p2p", *arguments, *at]))

    def background(self, call: Callable[..., T], *arguments: Any, **options: Any) -> Future[T]:
        return self._threads.submit(call, *arguments, **options)

    # --- leftovers ---

    def processes(self) -> dict[int, str]:
        """Every living process of this town: node, command, fork server or worker."""
        return bearing(f"{MARKER}={self._marker}", self._sessions)

    def texts(self) -> Iterator[str]:
        """All that nodes of this town wrote, those that ended included."""
        for node in self._all():
            yield node.out.text
            yield node.err.text


class RunningCommand:
    """A command in progress."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.started = time.monotonic()

    def wait(self, timeout: float = COMMAND_PATIENCE_S) -> Ended:
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"not ended within {timeout:g} s; it wrote {out!r} and {err!r}") from None
        return Ended(self.process.returncode, out, err, time.monotonic() - self.started)


def explained(ended: Ended, status: int) -> str:
    """The one error line of a command that failed in the way the issue demands; notes and one hint may stand beside it."""
    assert ended.status == status, (ended.status, ended.err)
    assert ended.out == ""
    lines = ended.err.splitlines()
    strange = [line for line in lines if not line.startswith("cocoon-node: ")]
    assert not strange, strange
    errors = [line for line in lines if line.startswith("cocoon-node: error: ")]
    hints = [line for line in lines if line.startswith("cocoon-node: hint: ")]
    assert len(errors) == 1, lines
    assert len(hints) <= 1, lines
    return " | ".join([errors[0].removeprefix("cocoon-node: error: "), *hints])
