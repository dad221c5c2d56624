"""Peers that die or freeze as processes do: kill -9, SIGSTOP, Ctrl-C."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from subprocess import PIPE

import pytest
import trio
from net_nodes import open_node

from cocoon_p2p.errors import EndOfStream, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.port import PeerDisconnected
from cocoon_p2p.net.yamux import connection
from cocoon_p2p.testing.net_contract import ECHO, PATIENCE_S

pytestmark = [pytest.mark.slow, pytest.mark.processes]

SERVER = f"""
import trio
from cocoon_p2p.net.libp2p import open_libp2p
from cocoon_p2p.testing.net_contract import echo
async def main():
    async with open_libp2p(bytes(32), listen=["/ip4/127.0.0.1/tcp/0"], agent="server") as network:
        network.set_handler("{ECHO}", echo)
        print(network.peer_id, network.addresses()[0], flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


@asynccontextmanager
async def server() -> AsyncIterator[tuple[trio.Process, PeerId, str]]:
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, stdin=PIPE, stdout=PIPE, stderr=PIPE, check=False)
        process: trio.Process = await nursery.start(run, [sys.executable, "-c", SERVER])
        try:
            with trio.fail_after(PATIENCE_S):
                line = b""
                while not line.endswith(b"\n"):
                    line += await process.stdout.receive_some()
                peer, address = line.decode().split()
                yield process, PeerId(peer), address
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


async def test_a_killed_peer_is_noticed_at_once() -> None:
    async with server() as (process, peer, address), open_node(1) as client, client.events() as events:
        await client.connect(peer, [address])
        await anext(events)
        stream = await client.open_stream(peer, ECHO)
        await stream.send(b"alive")
        assert await stream.receive() == b"alive"
        killed_at = trio.current_time()
        process.send_signal(signal.SIGKILL)
        with pytest.raises(TransportError) as caught:
            await stream.receive()
        assert trio.current_time() - killed_at < 1.0
        assert not isinstance(caught.value, EndOfStream)
        assert not caught.value.outcome_known
        assert await anext(events) == PeerDisconnected(peer)
        assert client.peers() == ()
        with pytest.raises(TransportError, match="cannot connect"):  # refused, or reset while the kernel cleans up
            await client.open_stream(peer, ECHO)


async def test_a_stopped_peer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "KEEPALIVE_INTERVAL_S", 0.3)
    async with server() as (process, peer, address), open_node(1) as client:
        await client.connect(peer, [address])
        stream = await client.open_stream(peer, ECHO)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(TransportError):  # although the peer's window and socket are full
            while True:
                await stream.send(bytes(1024**2))
        with pytest.raises(TransportError):
            await stream.receive()


async def test_ctrl_c_ends_a_node_with_streams_in_use() -> None:
    async with server() as (process, peer, address), open_node(1) as client:
        await client.connect(peer, [address])
        streams = [await client.open_stream(peer, ECHO) for _ in range(8)]
        for stream in streams:
            await stream.send(bytes(100_000))  # and nobody reads the echo
        begin = trio.current_time()
        process.send_signal(signal.SIGINT)
        await process.wait()
        assert trio.current_time() - begin < 2.0
