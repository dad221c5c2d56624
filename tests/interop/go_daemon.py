"""go-libp2p through `p2pd`, the daemon in hivemind's wheel, as a `Foreign` (foreign.py).

Its control protocol: length-prefixed protobuf messages on a Unix socket, one request a connection; after STREAM_OPEN,
PUBSUB/SUBSCRIBE and in our listener for its inbound streams the connection carries what its name says. The daemon offers
no ping and no identify command, and its DHT is always /ipfs/kad/1.0.0.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import trio
from foreign import ForeignError

from cocoon_p2p.ids import PeerId, peer_id_from_bytes, peer_id_to_bytes
from cocoon_p2p.net.addresses import address_from_bytes, address_to_bytes, parse_address
from cocoon_p2p.net.multistream import encode_prefixed, read_prefixed
from cocoon_p2p.testing.net_contract import ECHO

GO_KAD = "/ipfs/kad/1.0.0"
CUT = "/test/cut/1"
"""Resets as soon as something has come."""
_HALF_A_FRAME = (200_000).to_bytes(4) + bytes(100_000)
_READ_BYTES = 1 << 20
_MESSAGE_BYTES_MAX = 1 << 22
_POLL_S = 0.02
_RAW_CID = b"\x01\x55"
"""CIDv1, raw; a multihash follows."""


class Pipe:
    """A socket of the daemon's: multistream's reader and writer."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.write = stream.send_all

    async def read_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = await self.stream.receive_some(size - len(data))
            if not piece:
                raise ForeignError("the daemon closed its socket")
            data += piece
        return data

    async def send(self, message: Any) -> None:
        await self.write(encode_prefixed(message.SerializeToString()))

    async def receive(self, message: Any) -> Any:
        message.ParseFromString(await read_prefixed(self, _MESSAGE_BYTES_MAX))
        return message


class GoDaemon:
    def __init__(self, folder: Path, messages: ModuleType, nursery: trio.Nursery) -> None:
        self._folder = folder
        self._echo_path = str(folder / "echo.sock")
        self._pb = messages
        self._nursery = nursery
        self._feeds: dict[str, Pipe] = {}
        self.peer_id = PeerId("")
        self.addresses: list[str] = []
        self.version = "go-libp2p, p2pd of hivemind 1.1.12"

    async def call(self, do: str, **arguments: Any) -> Any:
        method: Callable[..., Awaitable[Any]] = getattr(self, f"do_{do}")
        return await method(**arguments)

    async def begin(self) -> None:
        """Learn who the daemon is, and serve ECHO through it."""
        async with self._asked(self._pb.Request.IDENTIFY) as (_, answer):
            self.peer_id = peer_id_from_bytes(answer.identify.id)
            found = map(address_from_bytes, answer.identify.addrs)
            self.addresses = [str(address) for address in found if address is not None]
        socket = trio.socket.socket(trio.socket.AF_UNIX)
        await socket.bind(self._echo_path)
        socket.listen()
        self._nursery.start_soon(trio.serve_listeners, self._serve_echo, [trio.SocketListener(socket)])
        await self.do_handle(ECHO)

    async def end(self) -> None:
        with trio.CancelScope(shield=True):
            for pipe in self._feeds.values():
                await trio.aclose_forcefully(pipe.stream)

    async def do_handle(self, protocol: str) -> None:
        """By echo."""
        handler = self._pb.StreamHandlerRequest(addr=_unix_address(self._echo_path), proto=[protocol], balanced=False)
        async with self._asked(self._pb.Request.STREAM_HANDLER, streamHandler=handler):
            pass

    async def do_connect(self, address: str) -> None:
        target = parse_address(address)
        assert target.peer is not None
        request = self._pb.ConnectRequest(peer=peer_id_to_bytes(target.peer), addrs=[address_to_bytes(target)])
        async with self._asked(self._pb.Request.CONNECT, connect=request):
            pass

    async def do_echo(self, peer: PeerId, sizes: list[int]) -> bool:
        frames = b"".join(size.to_bytes(4) + os.urandom(size) for size in sizes) + bytes(4)
        request = self._pb.StreamOpenRequest(peer=peer_id_to_bytes(peer), proto=[ECHO])
        async with self._asked(self._pb.Request.STREAM_OPEN, streamOpen=request) as (pipe, _):
            received = bytearray()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pipe.write, frames)  # no end of ours: the daemon would give up both directions
                while piece := await pipe.stream.receive_some(_READ_BYTES):
                    received += piece
            return received == frames

    async def do_abort(self, peer: PeerId) -> None:
        """Half a frame, and the end of the stream: the daemon resets it when its client leaves."""
        request = self._pb.StreamOpenRequest(peer=peer_id_to_bytes(peer), proto=[ECHO])
        async with self._asked(self._pb.Request.STREAM_OPEN, streamOpen=request) as (pipe, _):
            await pipe.write(_HALF_A_FRAME)

    async def do_cut(self, peer: PeerId) -> str:
        """What a stream that they reset looks like from here."""
        request = self._pb.StreamOpenRequest(peer=peer_id_to_bytes(peer), proto=[CUT])
        async with self._asked(self._pb.Request.STREAM_OPEN, streamOpen=request) as (pipe, _):
            await pipe.write(_HALF_A_FRAME)
            while await pipe.stream.receive_some(_READ_BYTES):
                pass
        return "the end"  # of the daemon's socket, whatever it was before

    async def do_subscribe(self, topic: str) -> None:
        request = self._pb.PSRequest(type=self._pb.PSRequest.SUBSCRIBE, topic=topic)
        pipe = await self._connect()
        self._feeds[topic] = pipe
        await self._ask(pipe, self._pb.Request.PUBSUB, pubsub=request)

    async def do_wait_subscribed(self, topic: str, peer: PeerId) -> None:
        """The daemon shows who subscribed, not its mesh."""
        request = self._pb.PSRequest(type=self._pb.PSRequest.LIST_PEERS, topic=topic)
        while True:
            async with self._asked(self._pb.Request.PUBSUB, pubsub=request) as (_, answer):
                if peer_id_to_bytes(peer) in answer.pubsub.peerIDs:
                    return
            await trio.sleep(_POLL_S)

    do_wait_mesh = do_wait_subscribed

    async def do_publish(self, topic: str, data: str) -> None:
        request = self._pb.PSRequest(type=self._pb.PSRequest.PUBLISH, topic=topic, data=data.encode())
        async with self._asked(self._pb.Request.PUBSUB, pubsub=request):
            pass

    async def do_receive(self, topic: str) -> list[str]:
        while True:
            message = await self._feeds[topic].receive(self._pb.PSMessage())
            author = peer_id_from_bytes(getattr(message, "from"))
            if author != self.peer_id:
                return [author, message.data.decode()]

    async def do_wait_dht(self) -> None:
        """Until the daemon's routing table has somebody."""
        while not await self.do_dht_peers():  # noqa: ASYNC110
            await trio.sleep(_POLL_S)

    async def do_dht_peers(self) -> list[PeerId]:
        """Those in the daemon's routing table, 20 at most."""
        try:
            found = await self._dht(self._pb.DHTRequest.GET_CLOSEST_PEERS, key=b"any")
        except ForeignError as error:
            if "failed to find any peer in table" in str(error):
                return []
            raise
        return [peer_id_from_bytes(answer.value) for answer in found]

    async def do_provide(self, key: str) -> None:
        await self._dht(self._pb.DHTRequest.PROVIDE, cid=_RAW_CID + bytes.fromhex(key))

    async def do_find_providers(self, key: str) -> list[list[Any]]:
        kind = self._pb.DHTRequest.FIND_PROVIDERS
        answers = await self._dht(kind, cid=_RAW_CID + bytes.fromhex(key), count=20)
        return [[peer_id_from_bytes(answer.peer.id), _texts(answer.peer.addrs)] for answer in answers]

    async def _dht(self, kind: int, **fields: Any) -> list[Any]:
        """The answers of one DHT request: one or a series of them."""
        request = self._pb.DHTRequest(type=kind, timeout=10, **fields)
        async with self._asked(self._pb.Request.DHT, dht=request) as (pipe, answer):
            if answer.dht.type != self._pb.DHTResponse.BEGIN or not answer.HasField("dht"):
                return [answer.dht]
            answers = []
            while (found := await pipe.receive(self._pb.DHTResponse())).type != self._pb.DHTResponse.END:
                answers.append(found)
            return answers

    async def _serve_echo(self, stream: trio.SocketStream) -> None:
        async with stream:
            await Pipe(stream).receive(self._pb.StreamInfo())
            with suppress(trio.BrokenResourceError):  # the daemon closes both directions when the peer closes one
                await self._echo(stream)

    async def _echo(self, stream: trio.SocketStream) -> None:
        while piece := await stream.receive_some(_READ_BYTES):
            await stream.send_all(piece)

    @asynccontextmanager
    async def _asked(self, kind: int, **fields: Any) -> AsyncIterator[tuple[Pipe, Any]]:
        pipe = await self._connect()
        async with pipe.stream:
            yield pipe, await self._ask(pipe, kind, **fields)

    async def _connect(self) -> Pipe:
        return Pipe(await trio.open_unix_socket(self._folder / "control.sock"))

    async def _ask(self, pipe: Pipe, kind: int, **fields: Any) -> Any:
        await pipe.send(self._pb.Request(type=kind, **fields))
        answer = await pipe.receive(self._pb.Response())
        if answer.type != self._pb.Response.OK:
            raise ForeignError(answer.error.msg)
        return answer


@asynccontextmanager
async def open_go_daemon(
    hivemind: Path, *, listen: str = "/ip4/127.0.0.1/tcp/0", enter: Sequence[str] = (), **more: str | int
) -> AsyncIterator[GoDaemon]:
    """`hivemind` is the package's folder, unpacked; `more` goes before the options given here, `enter` before the command."""
    with tempfile.TemporaryDirectory(prefix="p2pd") as name:  # short: the path of a Unix socket has 107 characters
        folder = Path(name)
        options = {
            "listen": f"/unix{folder}/control.sock", "hostAddrs": listen, "dhtServer": 1, "pubsub": 1,
            "gossipsubHeartbeatInterval": "1s", "tls": 0, "quic": 0, "relay": 0, "relayService": 0, "autonat": 0,
            **more,
        }  # fmt: skip
        command = [
            *enter,
            str(hivemind / "hivemind_cli" / "p2pd"),
            *(f"-{key}={value}" for key, value in options.items()),
        ]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            assert process.stdout is not None
            said = b""
            while b"Peer Addrs" not in said:
                piece = await process.stdout.receive_some(_READ_BYTES)
                if not piece:
                    raise ForeignError(f"p2pd ended: {said.decode(errors='replace')}")
                said += piece
            async with trio.open_nursery() as nursery:
                daemon = GoDaemon(folder, _load_messages(hivemind), nursery)
                await daemon.begin()
                nursery.start_soon(partial(_drain, process.stdout))
                try:
                    yield daemon
                finally:
                    await daemon.end()
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()


async def _drain(output: trio.abc.ReceiveStream) -> None:
    while await output.receive_some(_READ_BYTES):
        pass


_loaded: dict[Path, ModuleType] = {}


def _load_messages(hivemind: Path) -> ModuleType:
    """The generated protobuf classes, which may be made once only."""
    path = hivemind / "proto" / "p2pd_pb2.py"
    if path not in _loaded:
        spec = importlib.util.spec_from_file_location("interop_p2pd_pb2", path)
        assert spec is not None and spec.loader is not None
        _loaded[path] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(_loaded[path])
    return _loaded[path]


def _unix_address(path: str) -> bytes:
    """/unix/<path>: code 400 as varint, length, text."""
    return b"\x90\x03" + encode_prefixed(path.encode())


def _texts(addresses: list[bytes]) -> list[str]:
    found = map(address_from_bytes, addresses)
    return [str(address) for address in found if address is not None]
