"""rust-libp2p in the shape of PyPI's `lattica`, by its RPC.

    python -m bench.net_peers.lattica <folder that lattica is installed in> [--server | <address of the server>]

Lattica contacts a STUN server whatever it is told, and does not connect to 127.0.0.1, so this runs in a network namespace
that has nothing but loopback, with one more address (`ISOLATED`). Both ends are made here: the parent cannot reach into the
namespace.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.figures import percentile

FOLDER = sys.argv[1]
sys.path.insert(0, FOLDER)
sys.path.append(str(Path(__file__).parents[2] / "tests" / "interop"))
from isolation import HOST  # noqa: E402
from lattica import ConnectionHandler, Lattica, rpc_method  # noqa: E402

ANSWERS = os.fdopen(os.dup(sys.stdout.fileno()), "w")
os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # lattica prints on stdout

PATIENCE_S = 20
SETTLE_S = 1.0
"""Dialled sooner, it hangs up, and the other does not dial again."""
_POLL_S = 0.05


class Service(ConnectionHandler):  # type: ignore[misc]
    @rpc_method  # type: ignore[untyped-decorator]
    def echo(self, data: bytes) -> bytes:
        return data

    @rpc_method  # type: ignore[untyped-decorator]
    def sink(self, data: bytes) -> int:
        return len(data)


def start(home: str, bootstrap: list[str]) -> tuple[Any, str]:
    with socket.socket() as probe:  # lattica does not tell on which port it listens
        probe.bind((HOST, 0))
        address = f"/ip4/{HOST}/tcp/{probe.getsockname()[1]}"
    node = Lattica.builder().with_listen_addrs([address]).with_bootstraps(bootstrap).with_mdns(False).with_upnp(False)
    node = node.with_autonat(False).with_dcutr(False).with_key_path(f"{home}/key")
    node = node.with_storage_path(f"{home}/blocks").with_dht_db_path(f"{home}/dht").build()
    return node, f"{address}/p2p/{node.peer_id()}"


def wait_until_it_listens(address: str) -> None:
    """It begins to listen at some time after it was built, and has no event for that."""
    port = int(address.partition("/p2p/")[0].rpartition("/")[2])
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                time.sleep(SETTLE_S)
                return
        time.sleep(_POLL_S)


def serve(home: str) -> None:
    node, address = start(home, [])
    Service(node)
    wait_until_it_listens(address)
    print(address, file=ANSWERS, flush=True)
    sys.stdin.read()


def measure(home: str) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.net_peers.lattica", FOLDER, "--server"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None and server.stdin is not None
    address = server.stdout.readline().strip()
    node, _ = start(home, [address])
    stub = _stub(node, address.rpartition("/p2p/")[2])
    _say(address)
    try:
        for line in sys.stdin:
            request = json.loads(line)
            _say(globals()[f"do_{request.pop('do')}"](stub, **request))
    finally:
        server.stdin.close()
        server.wait()
    os._exit(0)  # its runtime does not end by itself


def _say(ok: Any) -> None:
    print(json.dumps({"ok": ok}), file=ANSWERS, flush=True)


def _stub(node: Any, peer: str) -> Any:
    end = time.monotonic() + PATIENCE_S
    while peer not in node.get_all_peers():
        if time.monotonic() > end:
            raise SystemExit("lattica: no connection")
        time.sleep(_POLL_S)
    stub = Service(node).get_stub(peer)
    stub.echo(b"there?").result(PATIENCE_S)
    return stub


def do_round_trips(stub: Any, count: int, size: int) -> dict[str, float]:
    payload = os.urandom(size)
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        stub.echo(payload).result(PATIENCE_S)
        took.append((time.perf_counter() - begun) * 1000)
    return {"p50_ms": percentile(took, 50), "p99_ms": percentile(took, 99)}


def do_calls(stub: Any, in_flight: int, seconds: float) -> float:
    payload = os.urandom(64)
    end = time.perf_counter() + seconds

    def repeat() -> int:
        done = 0
        while time.perf_counter() < end:
            stub.echo(payload).result(PATIENCE_S)
            done += 1
        return done

    begun = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(in_flight) as pool:
        done = sum(future.result() for future in [pool.submit(repeat) for _ in range(in_flight)])
    return done / (time.perf_counter() - begun)


def do_one_way(stub: Any, megabytes: int) -> float:
    piece = os.urandom(1 << 20)
    begun = time.perf_counter()
    for _ in range(megabytes):
        stub.sink(piece).result(PATIENCE_S)
    return time.perf_counter() - begun


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        serve(home) if sys.argv[2:] == ["--server"] else measure(home)
