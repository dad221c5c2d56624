"""The network layer beside trio TLS, py-libp2p as shipped, rust-libp2p, and what js- and go-libp2p do with either."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from bench.figures import Aim, Details, Figure, Result, ratios
from bench.net_foreign import foreign_figures
from bench.net_peers.lines import Peer, peer
from bench.nodes import python_server
from bench.plan import Plan, say
from bench.processes import cpu_s
from bench.tls_blocking import one_way_rate
from bench.tls_echo import make_certificate

sys.path.append(str(Path(__file__).parents[1] / "tests" / "interop"))
from isolation import ISOLATED, why_not
from makes import Unavailable, wheel

MEASURES = (
    "one connection between two processes on loopback: bulk, round trips, streams, set-up, calls, latency beside bulk"
)
ROUND_TRIPS, NEW_STREAMS, CONNECTIONS = 2000, 500, 20
CALL_BYTES = 1024
BULK_FACTOR = 4
"""Times --megabytes: 1 GB unless that is said, four times the tensor of the benchmark `bulk`."""
LINK_ROUND_TRIP_MS = 50
CALLS_IN_FLIGHT = (1, 64)
OURS, LIBRARY, TLS, RUST = "ours", "library", "trio_tls", "lattica"


@dataclass(slots=True)
class Samples:
    """One value a round, by what was measured and on which stack."""

    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, what: str, stack: str, value: float) -> None:
        self.values.setdefault((what, stack), []).append(value)

    def get(self, what: str, stack: str) -> tuple[float, ...]:
        return tuple(self.values[what, stack])

    def has(self, what: str, stack: str) -> bool:
        return (what, stack) in self.values


async def run(plan: Plan) -> Result:
    return await trio.to_thread.run_sync(_run, plan)


def _run(plan: Plan) -> Result:
    samples, details = Samples(), Details()
    megabytes = BULK_FACTOR * plan.megabytes
    certificate = make_certificate(plan.folder / "net" / "tls.pem")
    payload = memoryview(bytes(64 << 20))
    with ExitStack() as stack:
        pairs = {name: stack.enter_context(_pair(name)) for name in (OURS, LIBRARY)}
        pairs[TLS] = stack.enter_context(_pair(TLS, str(certificate)))
        far = {name: stack.enter_context(_far_client(pairs[name])) for name in (OURS, LIBRARY)}
        rust = stack.enter_context(_rust(details))
        for number in range(plan.rounds):
            say(f"net: round {number + 1} of {plan.rounds}")
            for name, (server, client) in pairs.items():
                _bulk(samples, name, server, client, megabytes)
            samples.add("bulk", "openssl", one_way_rate(certificate, payload, max(1, megabytes // 64)))
            sealed = pairs[OURS][1].call("sealed_tensor", megabytes=megabytes)
            samples.add("sealed", OURS, megabytes * 1.048576 / sealed)
            for name, client in far.items():
                samples.add("far", name, megabytes * 1.048576 / client.call("one_way", megabytes=megabytes))
            for name, (server, client) in pairs.items():
                _small(samples, name, server, client)
            if rust is not None:
                _calls(samples, RUST, rust, plan.seconds_a_round / 4)
                samples.add("bulk", RUST, megabytes * 1.048576 / rust.call("one_way", megabytes=megabytes))
            _calls(samples, OURS, pairs[OURS][1], plan.seconds_a_round / 4)
            beside = pairs[OURS][1].call("beside_bulk", megabytes=megabytes)
            samples.add("beside p50", OURS, beside["p50_ms"])
            samples.add("beside p99", OURS, beside["p99_ms"])
    foreign = trio.from_thread.run(partial(foreign_figures, plan, details))
    return Result("net", MEASURES, (*_figures(samples), *foreign), details)


def _bulk(samples: Samples, name: str, server: Peer, client: Peer, megabytes: int) -> None:
    before = cpu_s(server.process.pid) + cpu_s(client.process.pid)
    seconds = client.call("one_way", megabytes=megabytes)
    spent = cpu_s(server.process.pid) + cpu_s(client.process.pid) - before
    samples.add("bulk", name, megabytes * 1.048576 / seconds)
    samples.add("bulk cpu", name, spent / megabytes * 1024 / 1.048576)


def _small(samples: Samples, name: str, server: Peer, client: Peer) -> None:
    _pair_of(samples, "round trip", name, client.call("round_trips", count=ROUND_TRIPS, size=CALL_BYTES))
    if name == TLS:
        return
    _pair_of(samples, "new stream", name, client.call("new_streams", count=NEW_STREAMS))
    _pair_of(samples, "connection", name, client.call("connections", count=CONNECTIONS))


def _pair_of(samples: Samples, what: str, name: str, took: dict[str, float]) -> None:
    samples.add(f"{what} p50", name, took["p50_ms"])
    samples.add(f"{what} p99", name, took["p99_ms"])


def _calls(samples: Samples, name: str, client: Peer, seconds: float) -> None:
    for in_flight in CALLS_IN_FLIGHT:
        samples.add(f"calls {in_flight}", name, client.call("calls", in_flight=in_flight, seconds=seconds))


@contextmanager
def _pair(name: str, *arguments: str) -> Iterator[tuple[Peer, Peer]]:
    """Two processes of one stack, connected."""
    with peer(name, *arguments) as server, peer(name, *arguments) as client:
        client.call("connect", address=server.address)
        yield server, client


@contextmanager
def _far_client(pair: tuple[Peer, Peer]) -> Iterator[Peer]:
    """A client whose packets to the same server take half of LINK_ROUND_TRIP_MS each way."""
    server = pair[0]
    address, _, peer_id = server.address.partition("/p2p/")
    port = address.rpartition("/")[2]
    delay = python_server("bench.net_peers.delay", port, str(LINK_ROUND_TRIP_MS / 2))
    with delay as link, peer(server.name) as client:
        client.call("connect", address=f"/ip4/127.0.0.1/tcp/{link}/p2p/{peer_id}")
        yield client


@contextmanager
def _rust(details: Details) -> Iterator[Peer | None]:
    """Lattica, in a namespace of its own; None where it cannot be had, and details say why."""
    try:
        folder = wheel("rust", "rust-libp2p")
        reason = why_not()
    except Unavailable as unavailable:
        reason = str(unavailable)
    if reason is not None:
        say(f"net: without lattica: {reason}")
        details["lattica"] = f"not measured: {reason}"
        yield None
        return
    with peer(RUST, str(folder), wrapper=ISOLATED) as client:
        yield client


def _figures(samples: Samples) -> Iterator[Figure]:
    get = samples.get
    bulk, tls = get("bulk", OURS), get("bulk", TLS)
    yield Figure("one stream", "MB/s", bulk)
    yield Figure("  trio TLS stream", "MB/s", tls)
    yield Figure("  py-libp2p as shipped", "MB/s", get("bulk", LIBRARY))
    yield Figure("  blocking OpenSSL sockets", "MB/s", get("bulk", "openssl"))
    if samples.has("bulk", RUST):
        yield Figure("  lattica (calls of 1 MB)", "MB/s", get("bulk", RUST))
    yield Figure("one stream / trio TLS", "", ratios(bulk, tls), Aim(">=", 1.2))
    yield Figure("one stream / as shipped", "", ratios(bulk, get("bulk", LIBRARY)), Aim(">=", 4))
    yield Figure("sealed tensor through a data socket", "MB/s", get("sealed", OURS))
    yield Figure(
        "sealed tensor / blocking OpenSSL", "", ratios(get("sealed", OURS), get("bulk", "openssl")), Aim(">=", 1)
    )
    yield Figure("processor time a GB, both ends", "s", get("bulk cpu", OURS))
    yield Figure("  trio TLS stream", "s", get("bulk cpu", TLS))
    yield Figure("  py-libp2p as shipped", "s", get("bulk cpu", LIBRARY))
    far = f"one stream at {LINK_ROUND_TRIP_MS} ms"
    yield Figure(far, "MB/s", get("far", OURS))
    yield Figure(f"{far} / as shipped", "", ratios(get("far", OURS), get("far", LIBRARY)), Aim(">=", 2))
    yield Figure("round trip of 1 KB, p50", "ms", get("round trip p50", OURS), Aim("<=", 0.2))
    yield Figure("round trip of 1 KB, p99", "ms", get("round trip p99", OURS), Aim("<=", 0.5))
    for name, said in ((TLS, "trio TLS"), (LIBRARY, "as shipped")):
        yield Figure(f"  {said}, p50", "ms", get("round trip p50", name))
        yield Figure(f"  {said}, p99", "ms", get("round trip p99", name))
    yield Figure("new stream and one round trip, p50", "ms", get("new stream p50", OURS), Aim("<=", 1))
    yield Figure("  as shipped", "ms", get("new stream p50", LIBRARY))
    yield Figure("connection set-up, p50", "ms", get("connection p50", OURS), Aim("<=", 15))
    yield Figure("  as shipped", "ms", get("connection p50", LIBRARY))
    for in_flight in CALLS_IN_FLIGHT:
        name = f"calls {in_flight}"
        yield Figure(f"small calls, {in_flight} in flight", "/s", get(name, OURS))
        if samples.has(name, RUST):
            yield Figure("  lattica", "/s", get(name, RUST))
            yield Figure("  ours / lattica", "", ratios(get(name, OURS), get(name, RUST)), Aim(">=", 0.5))
    yield Figure("1 KB call beside bulk, p50", "ms", get("beside p50", OURS))
    yield Figure("1 KB call beside bulk, p99", "ms", get("beside p99", OURS), Aim("<=", 10))
