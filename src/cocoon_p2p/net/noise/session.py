"""What follows the Noise handshake: messages of at most 65,519 bytes, each behind its length and with its tag
(https://github.com/libp2p/specs/blob/master/noise/README.md#wire-format).

Memory of one session: 64 KiB to receive into. While more comes in than that holds, 512 KiB of the shared buffers
(buffers.py) instead; while more than 16 KiB go out in one call, 512 KiB until the system has taken them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import SEND_FINISH_TIMEOUT_S
from cocoon_p2p.net.noise.buffers import LARGE_BYTES, MESSAGE_BYTES_MAX, borrow, give_back
from cocoon_p2p.net.noise.handshake import NONCE_MAX, TAG_BYTES, TransportKeys, nonce_of
from cocoon_p2p.net.port import Bytes
from cocoon_p2p.net.transport.pipe import UNYIELDED_CALLS_MAX, Pipe, finishes_sends

PLAINTEXT_BYTES_MAX = MESSAGE_BYTES_MAX - 2 - TAG_BYTES
_SMALL_SEND_BYTES = 16 * 1024
_DRAINED_BYTES = 64 * 1024
"""A read that brings less has emptied the socket: the large buffer goes back."""
_EMPTY = memoryview(b"")


class NoiseSession:
    """An authenticated, encrypted pipe to `peer`. One reader; any number of writers.

    `received` are bytes of the pipe that were read beyond the end of the handshake.
    """

    def __init__(
        self, pipe: Pipe, peer: PeerId, keys: TransportKeys, *, is_initiator: bool, received: Bytes = b""
    ) -> None:
        self.pipe = pipe
        self.peer = peer
        self.is_initiator = is_initiator
        self.bytes_received = len(received)
        self.bytes_sent = 0
        self._opener = ChaCha20Poly1305(keys.receive)
        self._sealer = ChaCha20Poly1305(keys.send)
        self._next_received = 0
        self._next_sent = 0
        self._failure: TransportError | None = None
        self._send_failure: TransportError | None = None
        """Nothing more can be sent; what the other end sent before can still be received."""

        self._small = memoryview(bytearray(MESSAGE_BYTES_MAX))
        self._buffer = self._small
        self._buffer[: len(received)] = received
        self._start, self._end = 0, len(received)
        """What of the buffer is not decrypted yet."""
        self._large_next = False
        self._put_back = _EMPTY

        self._sending = trio.Lock()
        self._sends_unyielded = 0

    def __repr__(self) -> str:
        return f"<NoiseSession with {self.peer} at {self.pipe.address}>"

    def abort(self) -> None:
        """Close at once; readers and writers wake up with a TransportError. Idempotent."""
        if self._failure is None:
            self._failure = TransportError("the connection is closed", outcome_known=False, code="DISCONNECTED")
        self.pipe.abort()

    # --- receiving ---------------------------------------------------------------------------------------------------

    async def receive(self) -> memoryview:
        """The next decrypted bytes, never empty; an empty view at the end of the stream. A cancelled call loses nothing.

        A view stays valid as long as it is held, and holds all that was decrypted with it, up to 512 KiB: whoever keeps
        a small piece copies it.

        Raises TransportError: CUT_OFF when the other end closed within a message, UNAUTHENTIC for a message that the
        other end has not sealed. After either the session is over.
        """
        if self._put_back:
            view, self._put_back = self._put_back, _EMPTY
            return view
        while self._failure is None:
            view = self._decrypt()
            if view:
                return view
            if self._failure is None and not await self._read():
                return _EMPTY
        self._use(self._small)
        raise _again(self._failure)

    def put_back(self, view: memoryview) -> None:
        """Let the next `receive` return these bytes, the rest of what the last one returned."""
        assert not self._put_back
        self._put_back = view

    async def _read(self) -> bool:
        """False at the end of the stream."""
        if self._large_next != (self._buffer is not self._small):
            self._use(borrow() if self._large_next else self._small)
        elif self._start:
            self._use(self._buffer)
        room = self._buffer[self._end :]
        try:
            size = await self.pipe.receive_into(room)
        except TransportError as error:
            self._fail(error)
            return True
        self._end += size
        self.bytes_received += size
        if self._buffer is self._small:
            self._large_next = size == len(room)
        else:
            self._large_next = size >= _DRAINED_BYTES
        if not size and self._start < self._end:
            self._fail(TransportError("cut off within a message", outcome_known=False, code="CUT_OFF"))
            return True
        return size > 0

    def _use(self, buffer: memoryview) -> None:
        """Move what is left to the front of `buffer`."""
        rest = self._end - self._start
        buffer[:rest] = self._buffer[self._start : self._end]
        if self._buffer is not buffer and self._buffer is not self._small:
            give_back(self._buffer)
        self._buffer = buffer
        self._start, self._end = 0, rest

    def _decrypt(self) -> memoryview:
        """All whole messages of the buffer, those before one that is not authentic included."""
        buffer, position, end = self._buffer, self._start, self._end
        messages: list[tuple[int, int]] = []
        total = 0
        while position + 2 <= end:
            start = position + 2
            stop = start + (buffer[position] << 8 | buffer[position + 1])
            if stop > end:
                break
            messages.append((start, stop))
            total += max(0, stop - start - TAG_BYTES)
            position = stop
        if not messages:
            return _EMPTY
        return self._decrypt_messages(messages, memoryview(bytearray(total)))

    def _decrypt_messages(self, messages: Sequence[tuple[int, int]], plaintext: memoryview) -> memoryview:
        filled = 0
        try:
            for start, stop in messages:
                if stop - start < TAG_BYTES or self._next_received > NONCE_MAX:
                    raise InvalidTag
                until = filled + stop - start - TAG_BYTES
                self._opener.decrypt_into(
                    nonce_of(self._next_received), self._buffer[start:stop], None, plaintext[filled:until]
                )
                self._next_received += 1
                self._start = stop
                filled = until
        except InvalidTag:
            self._fail(TransportError("a message does not authenticate", outcome_known=False, code="UNAUTHENTIC"))
        return plaintext[:filled]

    # --- sending -----------------------------------------------------------------------------------------------------

    async def send(self, *parts: Bytes) -> None:
        """Seal the parts, one after the other, and send them together; waits only while the system takes no more.

        Any number of tasks may send: the parts of one call stay together. What a cancelled call had begun still goes
        out, within SEND_FINISH_TIMEOUT_S, or the session is aborted. Raises TransportError.
        """
        size = sum(map(len, parts))
        self._sends_unyielded += 1
        if self._sends_unyielded > UNYIELDED_CALLS_MAX:
            self._sends_unyielded = 0
            await trio.lowlevel.checkpoint()
        try:
            self._sending.acquire_nowait()
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            failure = self._failure or self._send_failure
            if failure is not None:
                raise _again(failure)
            if not size:
                return
            if size <= _SMALL_SEND_BYTES:
                sealed: Iterator[Bytes] = iter((self._seal_small(b"".join(parts)),))
            else:
                sealed = self._seal_large(parts)
            await self._send_sealed(sealed)
        finally:
            self._sending.release()

    async def _send_sealed(self, sealed: Iterator[Bytes]) -> None:
        try:
            for batch in sealed:
                await self._send_batch(batch)
        except trio.Cancelled:
            await self._finish(sealed)
            raise
        except TransportError as error:
            # The other end may have said something before it closed: the reader comes to the end by itself.
            self._send_failure = self._send_failure or self._failure or error
            raise _again(self._send_failure) from error

    async def _finish(self, sealed: Iterator[Bytes]) -> None:
        """Send the rest of what a cancelled call began."""
        done = False
        try:
            if finishes_sends(self.pipe):
                with trio.CancelScope(shield=True), trio.move_on_after(SEND_FINISH_TIMEOUT_S):
                    for batch in sealed:
                        await self._send_batch(batch)
                    done = True
        except TransportError as error:
            self._send_failure = self._send_failure or error  # who cancelled wants to hear of nothing else
            done = True
        finally:
            if not done:
                self.abort()

    async def _send_batch(self, batch: Bytes) -> None:
        self.bytes_sent += len(batch)
        taken = self.pipe.send_now(batch)
        if taken < len(batch):
            await self.pipe.send_all(memoryview(batch)[taken:])
            self._sends_unyielded = 0

    def _seal_small(self, plaintext: bytes) -> bytes:
        sealed = self._sealer.encrypt(self._take_nonce(), plaintext, None)
        return len(sealed).to_bytes(2) + sealed

    def _seal_large(self, parts: Sequence[Bytes]) -> Iterator[memoryview]:
        """As many messages at once as the buffer holds, each as long as may be."""
        buffer, filled = borrow(), 0
        for plaintext in _cut(parts):
            size = len(plaintext) + TAG_BYTES
            if filled + 2 + size > LARGE_BYTES:
                yield buffer[:filled]
                filled = 0
            buffer[filled : filled + 2] = size.to_bytes(2)
            self._sealer.encrypt_into(self._take_nonce(), plaintext, None, buffer[filled + 2 : filled + 2 + size])
            filled += 2 + size
        yield buffer[:filled]
        give_back(buffer)  # not after a failure: who knows what a pipe still holds

    def _take_nonce(self) -> bytes:
        if self._next_sent > NONCE_MAX:
            raise self._fail(TransportError("the connection has used up its numbers", outcome_known=True))
        self._next_sent += 1
        return nonce_of(self._next_sent - 1)

    def _fail(self, error: TransportError) -> TransportError:
        """The session is over. The first failure is the one that everybody hears of."""
        if self._failure is None:
            self._failure = error
        self.pipe.abort()
        return _again(self._failure)


def _again(error: TransportError) -> TransportError:
    """A new exception, for one that is raised twice grows its traceback."""
    return TransportError(error.message, outcome_known=error.outcome_known, code=error.code)


def _cut(parts: Sequence[Bytes]) -> Iterator[Bytes]:
    """Pieces of PLAINTEXT_BYTES_MAX, only the last one shorter. What lies in one piece already is not copied."""
    gathered: list[memoryview] = []
    missing = PLAINTEXT_BYTES_MAX
    for part in parts:
        rest = memoryview(part)
        while len(rest) >= missing:
            yield b"".join((*gathered, rest[:missing])) if gathered else rest[:missing]
            gathered, rest, missing = [], rest[missing:], PLAINTEXT_BYTES_MAX
        if rest:
            gathered.append(rest)
            missing -= len(rest)
    if gathered:
        yield b"".join(gathered)
