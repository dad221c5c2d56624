"""Two streams of two peers, joined: what a relay does with a circuit.

Each direction holds one buffer, and reads on when the other stream has taken it, so that a slow end slows its peer and
nobody else. The windows of the two streams bound the rest.
"""

from __future__ import annotations

from typing import Literal

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.limits import RELAY_COPY_BYTES
from cocoon_p2p.net.yamux.stream import MuxStream

CircuitEnd = Literal["closed", "cut_off", "over_data_limit", "over_time_limit"]


class Circuit:
    """Runs once."""

    def __init__(self, one: MuxStream, other: MuxStream, *, bytes_max: int) -> None:
        self.bytes_forwarded = 0
        """In both directions."""
        self._one = one
        self._other = other
        self._bytes_max = bytes_max

    async def run(self, duration_s: float) -> CircuitEnd:
        """Until either end closes or breaks, or a limit is reached. The streams are the caller's to close."""
        ends: list[CircuitEnd] = []

        async def forward(source: MuxStream, sink: MuxStream) -> None:
            ends.append(await self._forward(source, sink))
            nursery.cancel_scope.cancel()

        with trio.move_on_after(duration_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(forward, self._one, self._other)
                nursery.start_soon(forward, self._other, self._one)
        return ends[0] if ends else "over_time_limit"

    async def _forward(self, source: MuxStream, sink: MuxStream) -> CircuitEnd:
        buffer = memoryview(bytearray(RELAY_COPY_BYTES))
        left = self._bytes_max
        try:
            while size := await source.read_into(buffer):
                if size > left:
                    return "over_data_limit"
                left -= size
                await sink.write(buffer[:size])
                self.bytes_forwarded += size
        except TransportError:
            return "cut_off"
        return "closed"
