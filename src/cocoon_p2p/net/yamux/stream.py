"""One stream of a connection: bytes in both directions, each closed by itself (spec.md, "Message Flow").

It costs objects only, no task. What the peer sent waits here, at most a window of it, as it was decrypted, until it is
read; who reads or writes waits here until the peer sends or reads on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import STREAM_WINDOW_BYTES_INITIAL
from cocoon_p2p.net.port import Bytes
from cocoon_p2p.net.yamux.frames import ACK, DATA, FIN, HEADER_BYTES, RST, SYN, WINDOW_UPDATE, encode_header
from cocoon_p2p.net.yamux.outbox import Outbox, Waiter
from cocoon_p2p.net.yamux.window import ReceiveWindow

PIECE_BYTES = 2 * 65519 - HEADER_BYTES
"""Of one data frame, at most: with its header two whole Noise messages. Larger ones move no more (measured, 64 KB to 1 MB,
2.2 GB/s each), and hold up what others send: a small call beside them takes 0.3 ms with these, 1.8 with 1 MB."""
_SMALL_BYTES = 4 * 1024
"""Received pieces up to this size are copied, several into one object: they would keep the whole read alive that they came
with, and a window full of single bytes would take fifty times its size."""
_GATHERED_BYTES = 64 * 1024
_UNYIELDED_BYTES_MAX = 1024 * 1024
"""What a reader takes of what is there before others get their turn."""
_CALL_COST_BYTES = 1024
"""What a call that reads little weighs in that."""


class Carrier(Protocol):
    """What a stream needs of its connection."""

    outbox: Outbox

    @property
    def peer(self) -> PeerId: ...

    @property
    def address(self) -> str: ...

    @property
    def transport(self) -> Literal["tcp", "websocket"]: ...

    @property
    def relayed(self) -> bool: ...

    @property
    def is_outbound(self) -> bool: ...

    @property
    def round_trip_s(self) -> float | None: ...

    @property
    def send(self) -> Callable[..., Awaitable[None]]:
        """The session's: parts of a frame. Raises TransportError."""

    def stream_ended(self, stream: MuxStream) -> None:
        """Nothing more comes or goes under its number."""

    def stream_done(self, stream: MuxStream) -> None:
        """It holds nothing any more."""

    def linger(self, stream: MuxStream) -> None:
        """Reset it unless the peer ends it in time."""


class MuxStream:
    """A stream of bytes on a connection. One reader and one writer at a time.

    Raises TransportError(code="CUT_OFF") when the stream was reset by either side or the connection ended; what came
    before can still be read.
    """

    __slots__ = (
        "_buffered", "_connection", "_counted", "_cut_off", "_discarding", "_ended", "_fin_pending", "_fin_received",
        "_fin_sent", "_flags", "_head", "_pieces", "_readable", "_send_window", "_taken", "_window", "_writable",
        "_write_closed", "_writing", "inbound", "number",
    )  # fmt: skip

    def __init__(self, connection: Carrier, number: int, window: ReceiveWindow, *, inbound: bool) -> None:
        self.inbound = inbound
        self.number = number
        self._connection = connection
        self._flags = ACK if inbound else SYN
        """To go with the next frame."""
        self._counted = True
        self._ended = False
        """Nothing more comes or goes under its number."""
        # writing
        self._send_window = STREAM_WINDOW_BYTES_INITIAL
        self._writable = Waiter()
        self._writing = False
        self._write_closed = False
        """By close, reset, a write that failed or was cancelled, or the connection's end."""
        self._fin_sent = False
        self._fin_pending = False
        """It counts as sent, and waits for its turn."""
        # reading
        self._window = window
        self._readable = Waiter()
        self._pieces: deque[bytes | bytearray | memoryview] = deque()
        self._head = 0
        """Bytes of the first piece that are read already."""
        self._buffered = 0
        self._taken = 0
        """Bytes read since the reader last let others run."""
        self._fin_received = False
        self._discarding = False
        """We closed it: what still comes is of no interest."""
        self._cut_off = False
        """It was reset, or the connection ended, before the peer ended it."""

    def __repr__(self) -> str:
        return f"<stream {self.number} with {self.peer}>"

    @property
    def connection(self) -> Carrier:
        return self._connection

    @property
    def peer(self) -> PeerId:
        return self._connection.peer

    # --- reading -----------------------------------------------------------------------------------------------------

    async def read(self, bytes_max: int) -> bytes:
        """1 to `bytes_max` bytes; b"" at the end of the stream. Cancelling it loses nothing."""
        if not await self._wait_for_data():
            return b""
        return self._take(min(bytes_max, self._buffered))

    async def read_into(self, buffer: memoryview) -> int:
        """How many bytes were put at the start of `buffer`; 0 at the end of the stream. They are copied once, from where
        they were decrypted. Cancelling it loses nothing."""
        if not await self._wait_for_data():
            return 0
        size = min(len(buffer), self._buffered)
        filled = 0
        while filled < size:
            piece = self._take_piece(size - filled)
            buffer[filled : filled + len(piece)] = piece
            filled += len(piece)
        self._note_read(size)
        return size

    async def read_exactly(self, size: int) -> bytes:
        """Raises TransportError when the stream ends before; a cancelled one may have taken some."""
        if self._buffered >= size and self._taken < _UNYIELDED_BYTES_MAX:
            return self._take(size)
        parts: list[Bytes] = []
        missing = size
        while missing:
            if not await self._wait_for_data():
                raise self._error()
            parts.append(self._take_piece(missing))
            missing -= len(parts[-1])
            self._note_read(len(parts[-1]))
        return b"".join(parts)

    async def _wait_for_data(self) -> bool:
        """False at the end."""
        if self._taken >= _UNYIELDED_BYTES_MAX:
            self._taken = 0
            await trio.lowlevel.checkpoint()
        while not self._buffered:
            if self._cut_off:
                raise self._error()
            if self._fin_received or self._discarding:
                await trio.lowlevel.checkpoint()
                return False
            if self._flags:  # nothing was written yet, so the peer may not know of this stream
                self._connection.outbox.ask(self)
            self._taken = 0
            await self._readable.wait()
        return True

    def _take(self, size: int) -> bytes:
        """`size` of the buffered bytes."""
        if not size:
            return b""
        piece = self._take_piece(size)
        if len(piece) < size:
            parts = [piece]
            missing = size - len(piece)
            while missing:
                parts.append(self._take_piece(missing))
                missing -= len(parts[-1])
            piece = b"".join(parts)
        self._note_read(size)
        return piece if isinstance(piece, bytes) else bytes(piece)

    def _take_piece(self, bytes_max: int) -> Bytes:
        """Bytes of the first piece only."""
        piece, head = self._pieces[0], self._head
        end = head + bytes_max
        if end < len(piece):
            self._head = end
            return piece[head:end]
        self._pieces.popleft()
        self._head = 0
        return piece[head:] if head else piece

    def _note_read(self, size: int) -> None:
        self._buffered -= size
        self._taken += size + _CALL_COST_BYTES
        if self._window.note_read(size) and not self._fin_received and not self._ended:
            self._connection.outbox.ask(self)
        if self._ended and not self._buffered:
            self._release()

    # --- writing -----------------------------------------------------------------------------------------------------

    async def write(self, *parts: Bytes) -> None:
        """All of `parts`, in order; waits while the peer's window is full and while the system takes no more.

        When it fails or is cancelled nobody knows how much the peer gets: only a reset can follow.
        """
        if self._writing:
            raise trio.BusyResourceError("another task is writing to this stream")
        if self._write_closed:
            raise self._error()
        size = sum(map(len, parts))
        if not size:
            await trio.lowlevel.checkpoint()
            return
        self._writing = True
        whole = False
        try:
            if size <= self._send_window and size <= PIECE_BYTES:
                await self._send_frame(size, parts)
            else:
                await self._write_in_pieces(deque(memoryview(part).cast("B") for part in parts if len(part)), size)
            whole = True
        except TransportError as error:
            raise self._error() from error
        finally:
            self._writing = False
            if not whole:
                self._write_closed = True

    async def _send_frame(self, size: int, parts: tuple[Bytes, ...] | list[memoryview]) -> None:
        flags, self._flags = self._flags, 0
        self._send_window -= size
        await self._connection.send(encode_header(DATA, flags, self.number, size), *parts)

    async def _write_in_pieces(self, rest: deque[memoryview], size: int) -> None:
        while size:
            while self._send_window <= 0 and not self._write_closed:
                if self._flags:
                    self._connection.outbox.ask(self)
                await self._writable.wait()
            if self._write_closed:
                raise self._error()
            count = -(-size // PIECE_BYTES)  # of equal size: a small one at the end costs as much
            taken = min(self._send_window, -(-size // count))
            await self._send_frame(taken, _split_off(rest, taken))
            size -= taken
            if size:
                await trio.lowlevel.checkpoint()

    # --- ending ------------------------------------------------------------------------------------------------------

    def close_write(self) -> None:
        """End our direction only; the peer may write on, and be read. Idempotent."""
        if self._fin_sent or self._ended:
            return
        if self._write_closed or self._writing:  # the peer lacks something: this must not look like a clean end
            self.reset_soon()
            return
        self._write_closed = self._fin_sent = self._fin_pending = True
        self._connection.outbox.ask(self)
        if self._fin_received:
            self._end()

    async def close(self) -> None:
        """End our direction, and discard what the peer still sends, for STREAM_LINGER_S at most; then it is reset.
        Idempotent, raises nothing of the network."""
        self.close_soon()
        await trio.lowlevel.checkpoint()

    def close_soon(self) -> None:
        """`close` without a checkpoint."""
        self.close_write()
        self._discard()
        self._readable.wake()
        if self._ended:
            self._release()
        else:
            self._connection.linger(self)

    async def reset(self) -> None:
        """Abort both directions. Idempotent, raises nothing of the network."""
        self.reset_soon()
        await trio.lowlevel.checkpoint()

    def reset_soon(self) -> None:
        """`reset` without a checkpoint."""
        outbox = self._connection.outbox
        if not self._ended:
            outbox.forget(self)
            if not self._flags & SYN:  # else the peer has never heard of it
                outbox.post(encode_header(WINDOW_UPDATE, RST, self.number, 0))
        self._discard()
        self._cut_off = True
        self._break()

    def release(self) -> None:
        """Nobody will serve this stream."""
        self.reset_soon()

    def _discard(self) -> None:
        self._discarding = True
        if self._buffered and not self._ended and self._window.note_read(self._buffered):
            self._connection.outbox.ask(self)
        self._pieces.clear()
        self._head = self._buffered = 0

    def _break(self) -> None:
        """Nothing more can be written, and only what is there be read."""
        self._write_closed = True
        self._cut_off = self._cut_off or not self._fin_received
        self._end()
        self._readable.wake()
        self._writable.wake()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._window.end()
            self._connection.stream_ended(self)
        if not self._buffered:
            self._release()

    def _release(self) -> None:
        if self._counted:
            self._counted = False
            self._connection.stream_done(self)

    def _error(self) -> TransportError:
        return TransportError(f"a stream with {self.peer} was cut off", outcome_known=False, code="CUT_OFF")

    # --- what the connection tells it ----------------------------------------------------------------------------------

    def take_control(self) -> bytes:
        """Opening, acceptance, credit and end, as far as the peer has not been told."""
        flags, self._flags = self._flags, 0
        credit = 0
        if not self._fin_received and not self._ended:
            credit = self._window.grant(trio.current_time(), self._connection.round_trip_s)
        frames = encode_header(WINDOW_UPDATE, flags, self.number, credit) if flags or credit else b""
        if self._fin_pending:
            self._fin_pending = False
            # A frame of its own: py-libp2p overlooks a FIN beside an ACK.
            frames += encode_header(WINDOW_UPDATE, FIN, self.number, 0)
        return frames

    def take_credit(self, size: int) -> None:
        """The peer's window has opened."""
        self._send_window += size
        if self._send_window > 0:
            self._writable.wake()

    def allows(self, size: int) -> bool:
        """Whether the peer may send a data frame of so many bytes, as it is about to do."""
        return not self._fin_received and self._window.receive(size)

    def take_data(self, payload: memoryview, pinned_bytes: int) -> None:
        """What has come of a data frame; holding on to it would keep `pinned_bytes` from being freed."""
        if self._discarding:
            if self._window.note_read(len(payload)):
                self._connection.outbox.ask(self)
            return
        self._buffered += len(payload)
        last = self._pieces[-1] if self._pieces else None
        if len(payload) > _SMALL_BYTES:
            self._pieces.append(payload if 2 * len(payload) >= pinned_bytes else bytes(payload))
        elif isinstance(last, bytearray) and len(last) < _GATHERED_BYTES:
            last += payload
        else:
            self._pieces.append(bytes(payload) if last is None else bytearray(payload))
        self._readable.wake()

    def take_end(self) -> None:
        """FIN: the peer sends nothing more."""
        self._fin_received = True
        self._readable.wake()
        if self._fin_sent:
            self._end()

    def take_reset(self) -> None:
        """RST, or the end of the connection."""
        self._connection.outbox.forget(self)
        self._break()


def _split_off(rest: deque[memoryview], size: int) -> list[memoryview]:
    """The first `size` bytes of `rest`, which loses them."""
    taken = []
    while size:
        part = rest[0]
        if len(part) <= size:
            rest.popleft()
        else:
            part, rest[0] = part[:size], part[size:]
        taken.append(part)
        size -= len(part)
    return taken
