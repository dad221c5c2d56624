"""A pipe through a relay: bytes of a stream to the relay, which hands them on. What goes through it is Noise from end to
end, so the relay sees ciphertext and its length."""

from __future__ import annotations

from typing import Literal

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.limits import SEND_FINISH_TIMEOUT_S
from cocoon_p2p.net.port import Bytes
from cocoon_p2p.net.yamux.stream import MuxStream


class CircuitPipe:
    """A `Pipe` (net/transport/pipe.py) over a stream whose other end the relay has joined to a stream of the peer."""

    relayed = True
    finishes_sends = True

    def __init__(self, stream: MuxStream, address: str) -> None:
        self.address = address
        self.transport: Literal["tcp", "websocket"] = stream.connection.transport
        self._stream = stream

    async def receive_into(self, buffer: memoryview) -> int:
        """1..len(buffer) bytes; 0 at the end. Raises TransportError when the circuit was cut off."""
        return await self._stream.read_into(buffer)

    def send_now(self, data: Bytes) -> int:
        """Always 0: a stream has to ask for its window first."""
        return 0

    async def send_all(self, data: Bytes) -> None:
        """Waits while the windows on the way are full. A cancelled one still sends what it began, for
        SEND_FINISH_TIMEOUT_S at most: a stream of which a part was written is lost. Raises TransportError."""
        failures: list[TransportError] = []
        done = trio.Event()
        shield = trio.CancelScope(shield=True)

        async def write() -> None:
            with shield:
                try:
                    await self._stream.write(data)
                except TransportError as error:
                    failures.append(error)
            if shield.cancelled_caught:
                self.abort()
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            try:
                await done.wait()
            except trio.Cancelled:
                shield.deadline = trio.current_time() + SEND_FINISH_TIMEOUT_S
                raise
        if failures:
            raise failures[0]

    def abort(self) -> None:
        self._stream.reset_soon()
