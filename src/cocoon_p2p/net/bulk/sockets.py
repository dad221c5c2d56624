"""The two ends of a data socket: an outlet sends parts, an inlet receives them (data/1 §4)."""

from __future__ import annotations

import select
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cocoon_p2p.errors import TransportError
from cocoon_p2p.limits import DATA_STALL_TIMEOUT_S
from cocoon_p2p.net.bulk.messages import Invitation
from cocoon_p2p.net.external_frames import TAG_BYTES, ExternalHeader, PartKind
from cocoon_p2p.net.frame_buffers import frame_buffers
from cocoon_p2p.net.port import BulkFrame, Bytes
from cocoon_p2p.net.transport.pipe import LINGER_NOT, TcpPipe

_NONCE = struct.Struct("!IQ")
_ACKNOWLEDGEMENTS_BYTES = 64


class Said(IntEnum):
    """The bytes that a receiver sends (data/1 §4.3). The numbers are on the wire and never change."""

    TAKEN = 1
    STOPPING = 2
    ENOUGH = 3


@dataclass(slots=True)
class Traffic:
    """Bytes of parts, of all data sockets that a connection had."""

    sent: int = 0
    received: int = 0


class DataOutlet:
    """We send. `listen` runs as long as the socket lives."""

    def __init__(self, pipe: TcpPipe, invitation: Invitation, traffic: Traffic) -> None:
        self.socket_id = invitation.socket_id
        self.user: object | None = None
        """The stream whose frames go over it; None when it is free."""
        self.is_busy = False
        """In the middle of a part."""
        self.used_at = trio.current_time()
        self.may_begin = True
        """Whether another part may be begun."""
        self.broke = False
        """It ended in the middle of something, and neither side said that it would."""
        self._pipe = pipe
        self._traffic = traffic
        self._cipher = AESGCM(invitation.key)
        self._offset = 0
        self._sent = 0
        self._taken = 0
        self._was_stopped = False

    @property
    def is_over(self) -> bool:
        return self._pipe.is_closed

    @property
    def is_clear(self) -> bool:
        """All parts were taken: another stream may use it."""
        # SPEC data/1 §4.3
        return self._taken == self._sent and not self.is_busy

    def header(self, frame: BulkFrame) -> ExternalHeader:
        kind = PartKind.SEALED if frame.sealed else PartKind.ENCRYPTED
        part_bytes = len(frame.body) + (0 if frame.sealed else TAG_BYTES)
        return ExternalHeader(frame.size, kind, self.socket_id, self._offset, part_bytes, len(frame.head))

    async def send(self, frame: BulkFrame) -> None:
        part = frame.body if frame.sealed else self._encrypt(frame.body)
        self._offset += len(part)
        self._sent += 1
        self.is_busy = True
        try:
            await self._send_all(memoryview(part).cast("B"))
            self.is_busy = False
        finally:
            if self.is_busy:  # half a part cannot be taken back
                self.close()
        self.used_at = trio.current_time()

    def _encrypt(self, body: Bytes) -> memoryview:
        # SPEC data/1 §4.2
        record = frame_buffers.take()[: len(body) + TAG_BYTES]
        self._cipher.encrypt_into(nonce_at(self._offset), body, None, record)
        return record

    async def _send_all(self, rest: memoryview) -> None:
        """Not TcpPipe.send_all, which finishes what was begun although it is cancelled: here the socket is closed, so
        that the peer learns of it."""
        await trio.lowlevel.checkpoint()  # a system that takes all at once would let no other task run
        try:
            while rest:
                taken = self._pipe.send_now(rest)
                rest = rest[taken:]
                self._traffic.sent += taken
                if rest:
                    await trio.lowlevel.wait_writable(self._pipe.sock)
        except (TransportError, trio.ClosedResourceError, OSError, ValueError) as error:
            self._note_end()
            raise TransportError("the data socket broke", outcome_known=False, code="DATA_SOCKET") from error

    async def listen(self) -> None:
        """Take what the receiver says, until the socket ends."""
        # SPEC data/1 §4.3
        buffer = memoryview(bytearray(_ACKNOWLEDGEMENTS_BYTES))
        try:
            while size := await self._pipe.receive_into(buffer):
                if not all(map(self._hear, buffer[:size])):
                    return
            self._note_end()
        except TransportError:
            self._note_end()
        finally:
            self.close()

    def _note_end(self) -> None:
        """The other end is gone. What it said last may not be heard yet."""
        if self.is_over:
            return  # we closed it
        with suppress(OSError):
            for byte in self._pipe.sock.recv(_ACKNOWLEDGEMENTS_BYTES):
                self._hear(byte)
        self.broke = not self._was_stopped and not self.is_clear

    def _hear(self, byte: int) -> bool:
        """False for what no receiver may say."""
        match byte:
            case Said.TAKEN if self._taken < self._sent:
                self._taken += 1
                self.used_at = trio.current_time()
            case Said.STOPPING:
                self._was_stopped = True
                self.may_begin = False
            case Said.ENOUGH:
                self.may_begin = False
            case _:
                return False
        return True

    def close(self) -> None:
        self.may_begin = False
        if not self.is_over and not self.is_clear:
            # What was not taken is of no use: a reset tells the receiver now, and the system keeps none of it.
            self._pipe.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self._pipe.abort()


class DataInlet:
    """We receive."""

    def __init__(self, pipe: TcpPipe, invitation: Invitation, traffic: Traffic) -> None:
        self.socket_id = invitation.socket_id
        self.user: object | None = None
        """The stream that took the last part."""
        self.is_busy = False
        """In the middle of a part."""
        self.position = 0
        self.abandoned_at = float("inf")
        """When its stream's reader closed without waiting for the sender's end."""
        self.used_at = trio.current_time()
        self._pipe = pipe
        self._traffic = traffic
        self._cipher = AESGCM(invitation.key)

    @property
    def is_over(self) -> bool:
        return self._pipe.is_closed

    def is_left(self) -> bool:
        """The sender has closed it, which it does when all is taken, or when it gives up."""
        if not hasattr(select, "POLLRDHUP"):  # only Linux sees the end behind what is still to be read
            return self._peek() == b""
        poll = select.poll()
        poll.register(self._pipe.sock, select.POLLRDHUP)
        return bool(poll.poll(0))

    def is_empty(self) -> bool:
        """Nothing is here that a slow reader has still to take."""
        return not self._peek()

    def _peek(self) -> bytes | None:
        """The next byte; b"" at the end; None when there is none now, or never will be."""
        try:
            return self._pipe.sock.recv(1, socket.MSG_PEEK)
        except OSError:
            return None

    async def receive_into(self, view: memoryview) -> int:
        size = -1
        with trio.move_on_after(DATA_STALL_TIMEOUT_S):
            try:
                size = await self._pipe.receive_into(view)
            except TransportError as error:
                raise TransportError("the data socket broke", outcome_known=False, code="DATA_SOCKET") from error
        if size <= 0:
            why = "nothing came" if size < 0 else "it ended in the middle of a part"
            raise TransportError(f"data socket: {why}", outcome_known=False, code="DATA_SOCKET")
        self.position += size
        self._traffic.received += size
        self.used_at = trio.current_time()
        return size

    def decrypt(self, offset: int, record: memoryview, out: memoryview) -> None:
        # SPEC data/1 §4.2
        try:
            self._cipher.decrypt_into(nonce_at(offset), record, None, out)
        except InvalidTag as error:
            raise TransportError(
                "what came on a data socket was altered", outcome_known=False, code="DATA_SOCKET"
            ) from error

    def taken(self) -> None:
        self.is_busy = False
        self._say(Said.TAKEN)

    def refuse_more(self) -> None:
        """The sender shall begin no further part."""
        self._say(Said.ENOUGH)

    def stop(self) -> None:
        """Close on purpose."""
        if not self.is_over:
            self._say(Said.STOPPING)
            self._pipe.abort()

    def _say(self, byte: int) -> None:
        with suppress(TransportError):  # the sender has closed it, and hears nothing any more
            self._pipe.send_now(bytes((byte,)))


def nonce_at(offset: int) -> bytes:
    return _NONCE.pack(0, offset)
