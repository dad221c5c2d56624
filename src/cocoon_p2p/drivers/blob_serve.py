"""blob/1 as a holder: a task for each fetcher's stream reads what it asks, another sends it pieces from the disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import assert_never

import trio

from cocoon_p2p.drivers.alarm import Alarm
from cocoon_p2p.drivers.blob_shelf import BlobShelf, Shared
from cocoon_p2p.drivers.clock import Clock
from cocoon_p2p.drivers.disk_threads import DiskThreads
from cocoon_p2p.drivers.outbox import Outbox
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.errors import EndOfStream, RemoteProtocolError, TransportError, one_line
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.net.addresses import Reach, parse_dialable, reach_of
from cocoon_p2p.net.frame_buffers import frame_buffers
from cocoon_p2p.net.port import BulkFrame, Network, Stream
from cocoon_p2p.policy.bandwidth import Bandwidth
from cocoon_p2p.policy.reputation import fault_of_code
from cocoon_p2p.proto.blob_effects import Changed, Found, SendPieces, ServeEffect, Tell, TellHashes
from cocoon_p2p.proto.blob_serve import BlobServe
from cocoon_p2p.wire.blob import GetManifest, Hashes, NoHashes, NoPiece, Open, Piece, decode_message

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BlobPorts:
    """What both ends of blob/1 need."""

    network: Network
    standing: StandingKeeper
    clock: Clock
    threads: DiskThreads


@dataclass(slots=True)
class _Session:
    """One fetcher's stream."""

    number: int
    stream: Stream
    outbox: Outbox
    local: bool
    model_id: ModelId | None = None
    work: trio.Event = field(default_factory=trio.Event)
    """Set when there are pieces to send."""
    expects_bulk: bool = False


class BlobServer:
    """`serve_stream` is the protocol's stream handler; `run` it in a task. `found` is told of peers that fetch a model and
    share it meanwhile. `upload` bounds what goes out of the local network."""

    def __init__(self, ports: BlobPorts, shelf: BlobShelf, *, uploads_max: int, upload: Bandwidth) -> None:
        self._ports = ports
        self._shelf = shelf
        self._upload = upload
        self._machine = BlobServe(shelf.holding, uploads_max=uploads_max)
        self._sessions: dict[int, _Session] = {}
        self._numbers = count(1)
        self._alarm = Alarm(self._machine.next_deadline, self._on_timer, ports.clock.now)
        self.found: Callable[[ModelId, PeerId], None] = lambda model_id, peer: None
        self.sent_bytes = 0

    async def run(self) -> None:
        """Runs until cancelled."""
        await self._alarm.run()

    def uploads(self) -> int:
        """Fetchers outside of the local network that are sent pieces."""
        return self._machine.uploads()

    # --- what changes here ---

    def changed(self, model_id: ModelId, change: Changed) -> None:
        """Of a model that is being fetched."""
        self._carry_out(self._machine.changed(model_id, change, self._ports.clock.now()))

    async def replaced(self, model_id: ModelId) -> None:
        """A model has come whole, or is not being fetched any more."""
        await self._shelf.prepare(model_id)
        if self._shelf.holding(model_id) is None:
            self.removed(model_id)
        else:
            self._machine.replaced(model_id)

    def removed(self, model_id: ModelId) -> None:
        """Nobody gets any more of it."""
        self._shelf.forget(model_id)
        self._carry_out(self._machine.removed(model_id, self._ports.clock.now()))

    # --- streams ---

    async def serve_stream(self, stream: Stream) -> None:
        local = is_local(self._ports.network, stream.peer)
        session = _Session(next(self._numbers), stream, Outbox(stream), local)
        self._sessions[session.number] = session
        self._machine.opened(session.number, stream.peer, local=local)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.outbox.run)
                nursery.start_soon(self._send_pieces, session)
                await self._read(session)
                nursery.cancel_scope.cancel()
        finally:
            del self._sessions[session.number]
            self._carry_out(self._machine.closed(session.number, self._ports.clock.now()))

    async def _read(self, session: _Session) -> None:
        stream = session.stream
        try:
            while True:
                message = decode_message(await stream.receive())
                if isinstance(message, GetManifest | Open):
                    await self._shelf.prepare(message.model_id)
                if isinstance(message, Open):
                    session.model_id = message.model_id
                effects = self._machine.handle(session.number, message, self._ports.clock.now())
                self._carry_out(effects)
                for effect in effects:
                    if isinstance(effect, TellHashes):
                        await self._tell_hashes(session, effect)
        except EndOfStream:
            await stream.aclose()
        except TransportError as error:
            log.debug("the blob stream of peer %s broke: %s", stream.peer, one_line(error))
            await stream.reset()
        except RemoteProtocolError as error:
            log.warning("peer %s broke a rule of blob/1 (%s): %s", stream.peer, error.code, one_line(error))
            self._ports.standing.penalise(stream.peer, fault_of_code(error.code))
            await stream.reset()

    async def _on_timer(self) -> None:
        self._carry_out(self._machine.handle_timer(self._ports.clock.now()))

    # --- effects ---

    def _carry_out(self, effects: Sequence[ServeEffect]) -> None:
        for effect in effects:
            session = self._sessions.get(effect.session)
            if session is None:
                continue
            match effect:
                case Tell(_, message):
                    self._tell(session, message.encode())
                case TellHashes():
                    pass  # whoever asked for them waits until there is room to send them: `_read`
                case SendPieces():
                    session.work.set()
                case Found():
                    if session.model_id is not None:
                        self.found(session.model_id, session.stream.peer)
                case _:
                    assert_never(effect)
        self._alarm.poke()

    def _tell(self, session: _Session, frame: bytes) -> None:
        with suppress(TransportError):  # its reader sees it, too
            session.outbox.put(frame)

    async def _tell_hashes(self, session: _Session, asked: TellHashes) -> None:
        """A mebibyte at most: who asks for more than it reads is not read on. Raises TransportError."""
        # SPEC blob/1 §4.7
        holding = self._holding(session)
        hashes = None if holding is None else holding.store.hashes(asked.file, asked.first, asked.count)
        message = NoHashes(asked.file) if hashes is None else Hashes(asked.file, asked.first, hashes)
        await session.outbox.put_bulk(message.encode())

    def _holding(self, session: _Session) -> Shared | None:
        return None if session.model_id is None else self._shelf.holding(session.model_id)

    # --- pieces ---

    async def _send_pieces(self, session: _Session) -> None:
        """One after the other; the next is read while one is on its way."""
        with suppress(TransportError):
            while True:
                piece = self._machine.next_piece(session.number)
                if piece is None:
                    session.work = trio.Event()
                    await session.work.wait()
                    continue
                await self._send_piece(session, piece)
                self._machine.sent(session.number, piece, self._ports.clock.now())

    async def _send_piece(self, session: _Session, piece: int) -> None:
        # SPEC blob/1 §4.9
        buffer = frame_buffers.take()
        size = await self._read_piece(session, piece, buffer)
        if size is None:
            session.outbox.put(NoPiece(piece).encode())
            return
        if not session.local:
            await self._wait_for_bandwidth(size)
        self._expect_bulk(session)
        self.sent_bytes += size
        data = buffer[:size]
        await session.outbox.put_bulk(BulkFrame(Piece(piece, data).head(), data, b"", sealed=False))

    async def _read_piece(self, session: _Session, piece: int, buffer: memoryview) -> int | None:
        """Twice, where it went from one place to another meanwhile: the model has just become whole."""
        for _ in range(2):
            holding = self._holding(session)
            if holding is None or session.model_id is None:
                break
            try:
                size = holding.store.read_cached(piece, buffer)
                if size is None:
                    size = await self._ports.threads.run(holding.store.read_piece, piece, buffer)
                return size
            except OSError as error:
                log.info("piece %d of model %s could not be read: %s", piece, session.model_id, error)
                await self._shelf.prepare(session.model_id)
        if session.model_id is not None and self._shelf.holding(session.model_id) is None:
            self.removed(session.model_id)
        return None

    async def _wait_for_bandwidth(self, size: int) -> None:
        clock = self._ports.clock
        while True:
            now = clock.now()
            if self._upload.allows(now):
                break
            await trio.sleep(self._upload.ready_at(now) - now)
        self._upload.spend(now, size)

    def _expect_bulk(self, session: _Session) -> None:
        holding = self._holding(session)
        if holding is not None and not session.expects_bulk:
            session.expects_bulk = True
            session.stream.expect_bulk(holding.layout.total_bytes)


def is_local(network: Network, peer: PeerId) -> bool:
    """Whether a peer that we are connected to is on our local network: its address is not public, and no relay is between."""
    # SPEC blob/1 §6
    return any(
        each.peer == peer
        and not each.relayed
        and any(reach_of(address) < Reach.INTERNET for address in parse_dialable([each.address]))
        for each in network.peers()
    )
