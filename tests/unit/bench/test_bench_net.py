"""The peers of the network benchmark: both ends of each stack do what they are asked to. The shape, not the speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.net import ISOLATED, why_not
from bench.net_peers.lines import Peer, peer
from bench.nodes import python_server
from bench.tls_echo import make_certificate

pytestmark = [pytest.mark.slow, pytest.mark.processes]


def measures_bulk_and_round_trips(client: Peer) -> None:
    assert client.call("one_way", megabytes=2) > 0
    took = client.call("round_trips", count=20, size=1024)
    assert 0 < took["p50_ms"] <= took["p99_ms"]


@pytest.mark.parametrize("stack", ["ours", "library"])
def test_libp2p_peers(stack: str) -> None:
    with peer(stack) as server, peer(stack) as client:
        client.call("connect", address=server.address)
        measures_bulk_and_round_trips(client)
        for figures in (
            client.call("new_streams", count=5),
            client.call("connections", count=2),
            client.call("beside_bulk", megabytes=4),
        ):
            assert 0 < figures["p50_ms"] <= figures["p99_ms"]
        assert client.call("calls", in_flight=4, seconds=0.1) > 0


def test_the_baseline_of_tls(tmp_path: Path) -> None:
    certificate = str(make_certificate(tmp_path / "tls.pem"))
    with peer("trio_tls", certificate) as server, peer("trio_tls", certificate) as client:
        client.call("connect", address=server.address)
        measures_bulk_and_round_trips(client)


def test_the_slow_link_delays_both_ways() -> None:
    with peer("ours") as server, peer("ours") as client:
        address, _, peer_id = server.address.partition("/p2p/")
        port = address.rpartition("/")[2]
        with python_server("bench.net_peers.delay", port, "20") as link:
            client.call("connect", address=f"/ip4/127.0.0.1/tcp/{link}/p2p/{peer_id}")
            assert client.call("round_trips", count=3, size=64)["p50_ms"] >= 40


def test_a_namespace_has_no_way_out() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no network namespace here: {reason}")
    import subprocess

    reach = "import socket; socket.create_connection(('10.9.9.1', 9), 1)"
    tried = subprocess.run([*ISOLATED, "python3", "-c", reach], capture_output=True, text=True, check=False)
    assert "Connection refused" in tried.stderr  # the namespace's own address, and nobody listens there
