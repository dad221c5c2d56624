"""A peer of py-libp2p's own make: its host, KadDHT and GossipSub as shipped, driven by JSON lines (foreign.py).

Run as a program, with {"listen": "/ip4/…", "network_key": "<text of a swarm.key file>"} as its argument if need be. Nothing
of cocoon_p2p is imported here.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import trio
from libp2p import generate_new_ed25519_identity, new_host
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import parse_identify_response
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.network.stream.exceptions import StreamEOF, StreamError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.peer.peerstore import PeerStoreError
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.records.validator import NamespacedValidator, Validator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import background_trio_service
from libp2p.utils.varint import read_length_prefixed_protobuf
from multiaddr import Multiaddr

ECHO = TProtocol("/test/echo/1")
DIGEST = TProtocol("/test/digest/1")
"""Bytes to the end of one direction, and their SHA-256 back."""
CUT = TProtocol("/test/cut/1")
"""Resets as soon as something has come."""
_PIECE_BYTES = 200_000
KAD = TProtocol("/cocoon/kad/1.0.0")
MESHSUB = [TProtocol("/meshsub/1.1.0"), TProtocol("/meshsub/1.0.0")]
_READ_BYTES = 1 << 20
_POLL_S = 0.01

for _module in ("common", "kad_dht", "peer_routing", "provider_store", "value_store"):  # protocol_prefix has no effect
    importlib.import_module(f"libp2p.kad_dht.{_module}").PROTOCOL_ID = KAD


class Numbered(Validator):
    """b"<sequence number>:<anything>", as `net_contract.numbered`."""

    def validate(self, key: str, value: bytes) -> None:
        int(value.partition(b":")[0])

    def select(self, key: str, values: list[bytes]) -> int:
        return max(range(len(values)), key=lambda i: int(values[i].partition(b":")[0]))


class Peer:
    def __init__(self, listen: str = "/ip4/127.0.0.1/tcp/0", network_key: str | None = None) -> None:
        key = generate_new_ed25519_identity()
        self.listen = [Multiaddr(listen)]
        self.host = new_host(
            key_pair=key,
            sec_opt={NOISE: Noise(key, noise_privkey=create_new_key_pair().private_key)},
            muxer_opt={TProtocol(YAMUX): Yamux},
            listen_addrs=self.listen,
            psk=None if network_key is None else network_key.split()[-1],
        )
        self.router = GossipSub(
            protocols=MESHSUB, degree=6, degree_low=4, degree_high=12, heartbeat_interval=1, heartbeat_initial_delay=0.1
        )
        self.pubsub = Pubsub(self.host, self.router, strict_signing=True)
        validator = NamespacedValidator({"test-records": Numbered()}, strict_validation=True)
        self.dht = KadDHT(
            self.host, DHTMode.SERVER, validator=validator, validator_changed=True, strict_validation=True
        )
        self.host.set_stream_handler(ECHO, self.serve_echo)
        self.host.set_stream_handler(DIGEST, self.serve_digest)
        self.host.set_stream_handler(CUT, self.serve_cut)
        self.feeds: dict[str, Any] = {}

    async def serve_echo(self, stream: Any) -> None:
        with suppress(StreamError):  # an error of one handler ends all serving on that connection
            async for data in _pieces(stream):
                await stream.write(data)
            await stream.close()

    async def serve_digest(self, stream: Any) -> None:
        with suppress(StreamError):
            taken = hashlib.sha256()
            async for data in _pieces(stream):
                taken.update(data)
            await stream.write(taken.digest())
            await stream.close()

    async def serve_cut(self, stream: Any) -> None:
        await stream.read(_READ_BYTES)
        await stream.reset()

    async def do_connect(self, address: str) -> None:
        await self.host.connect(info_from_p2p_addr(Multiaddr(address)))

    async def do_identify(self, peer: str) -> dict[str, Any]:
        """By the library's reader and parser of identify; and what the host's own identify put into the peerstore."""
        peer_id = ID.from_base58(peer)
        stream = await self.host.new_stream(peer_id, [IDENTIFY])
        answer = parse_identify_response(await read_length_prefixed_protobuf(stream, use_varint_format=True))
        store = self.host.get_peerstore()
        while not _protocols(store, peer_id):  # noqa: ASYNC110
            await trio.sleep(_POLL_S)
        return {
            "agent": answer.agent_version,
            "protocols": sorted(set(answer.protocols) & set(_protocols(store, peer_id))),
            "addresses": [str(Multiaddr(raw)) for raw in answer.listen_addrs],
            "observed": str(Multiaddr(answer.observed_addr)),
        }

    async def do_ping(self, peer: str) -> list[int]:
        return await PingService(self.host).ping(ID.from_base58(peer), ping_amt=3)

    async def do_echo(self, peer: str, sizes: list[int]) -> bool:
        """Frames of these sizes, the end frame, and then the end; whether the same came back."""
        stream = await self.host.new_stream(ID.from_base58(peer), [ECHO])
        frames = b"".join(size.to_bytes(4) + os.urandom(size) for size in sizes) + bytes(4)

        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_all, stream, frames)
            async for piece in _pieces(stream):
                received += piece
        return received == frames

    async def do_digest(self, peer: str, size: int) -> bool:
        """Whether they got what was sent before the end of our direction."""
        stream = await self.host.new_stream(ID.from_base58(peer), [DIGEST])
        sent = os.urandom(size)
        await _send_all(stream, sent)
        return b"".join([piece async for piece in _pieces(stream)]) == hashlib.sha256(sent).digest()

    async def do_abort(self, peer: str) -> None:
        """Half a frame, and a reset."""
        stream = await self.host.new_stream(ID.from_base58(peer), [ECHO])
        await stream.write(_PIECE_BYTES.to_bytes(4) + os.urandom(_PIECE_BYTES // 2))
        await stream.reset()

    async def do_cut(self, peer: str) -> str:
        """What a stream that they reset looks like from here."""
        stream = await self.host.new_stream(ID.from_base58(peer), [CUT])
        await stream.write(os.urandom(1000))
        try:
            async for _ in _pieces(stream):
                pass
        except StreamError as error:
            return type(error).__name__
        return "the end"

    async def do_subscribe(self, topic: str) -> None:
        self.feeds[topic] = await self.pubsub.subscribe(topic)

    async def do_wait_mesh(self, topic: str, peer: str) -> None:
        while ID.from_base58(peer) not in self.router.mesh.get(topic, ()):  # noqa: ASYNC110
            await trio.sleep(_POLL_S)

    async def do_publish(self, topic: str, data: str) -> None:
        await self.pubsub.publish(topic, data.encode())

    async def do_receive(self, topic: str) -> list[str]:
        """The next message of another author."""
        while True:
            message = await self.feeds[topic].get()
            if message.from_id != self.host.get_id().to_bytes():
                return [ID(message.from_id).to_base58(), message.data.decode()]

    async def do_wait_dht(self) -> None:
        """Whoever is connected, into the routing table."""
        for peer in self.host.get_connected_peers():
            await self.dht.add_peer(peer)

    async def do_put(self, key: str, value: str) -> None:
        await self.dht.put_value(key, value.encode())

    async def do_get(self, key: str) -> str | None:
        value = await self.dht.get_value(key)
        return None if value is None else value.decode()

    async def do_provide(self, key: str) -> bool:
        return await self.dht.provide(bytes.fromhex(key))

    async def do_find_providers(self, key: str) -> list[list[Any]]:
        found = await self.dht.find_providers(bytes.fromhex(key))
        return [[info.peer_id.to_base58(), [str(address) for address in info.addrs]] for info in found]

    async def run(self) -> None:
        async with (
            self.host.run(listen_addrs=self.listen),
            background_trio_service(self.router),
            background_trio_service(self.pubsub),
            background_trio_service(self.dht),
        ):
            await self.pubsub.wait_until_ready()
            _say(
                peer_id=str(self.host.get_id()),
                addresses=[str(address).partition("/p2p/")[0] for address in self.host.get_addrs()],
                version=f"py-libp2p {importlib.metadata.version('libp2p')}",
            )
            async with trio.open_nursery() as nursery:
                async for line in _lines():
                    nursery.start_soon(self._perform, json.loads(line))
                nursery.cancel_scope.cancel()

    async def _perform(self, request: dict[str, Any]) -> None:
        number, name = request.pop("id"), request.pop("do")
        method: Callable[..., Awaitable[Any]] = getattr(self, f"do_{name}")
        try:
            _say(id=number, ok=await method(**request))
        except Exception as error:  # noqa: BLE001  (whatever it is, the test wants to know)
            _say(id=number, error=repr(error))


async def _send_all(stream: Any, data: bytes) -> None:
    for start in range(0, len(data), _PIECE_BYTES):
        await stream.write(data[start : start + _PIECE_BYTES])
    await stream.close_write()


async def _pieces(stream: Any) -> AsyncIterator[bytes]:
    while True:
        try:
            piece = await stream.read(_READ_BYTES)
        except StreamEOF:
            return
        if not piece:
            return
        yield piece


def _protocols(store: Any, peer: ID) -> list[str]:
    try:
        return list(store.get_protocols(peer))
    except PeerStoreError:
        return []


def _say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


async def _lines() -> Any:
    buffer = b""
    async with trio.lowlevel.FdStream(sys.stdin.fileno()) as stream:
        async for piece in stream:
            *lines, buffer = (buffer + piece).split(b"\n")
            for line in lines:
                yield line


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    trio.run(Peer(**json.loads(sys.argv[1] if sys.argv[1:] else "{}")).run)
