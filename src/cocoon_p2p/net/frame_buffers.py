"""Memory of one frame each, used again and again: the page faults of a fresh megabyte cost more than sealing it does."""

from __future__ import annotations

import mmap

from cocoon_p2p.limits import CHUNK_OVERHEAD_BYTES, FRAME_BUFFERS_KEPT, FRAME_BYTES_MAX

FRAME_BUFFER_BYTES = FRAME_BYTES_MAX + CHUNK_OVERHEAD_BYTES
"""The longest frame, and the tag of its encrypted body (protocols/data/1 §4.2)."""


class FrameBuffers:
    """Gives out buffers; there is nothing to give back: one is free when nobody holds a view of it any more."""

    def __init__(self, kept_max: int) -> None:
        self._kept_max = kept_max
        self._kept: list[bytearray] = []
        self._next = 0

    def take(self) -> memoryview:
        """A writable view of FRAME_BUFFER_BYTES with anything in them."""
        for _ in range(len(self._kept)):
            self._next = (self._next + 1) % len(self._kept)
            if _is_free(self._kept[self._next]):
                return memoryview(self._kept[self._next])
        if len(self._kept) < self._kept_max:
            self._kept.append(bytearray(FRAME_BUFFER_BYTES))
            return memoryview(self._kept[-1])
        # Mapped memory is there as far as it is written: who announces a thousand long frames and sends none has nothing.
        return memoryview(mmap.mmap(-1, FRAME_BUFFER_BYTES))


def _is_free(buffer: bytearray) -> bool:
    """A bytearray refuses to change its size while there is a view of it. One byte fewer moves nothing."""
    try:
        last = buffer.pop()
    except BufferError:
        return False
    buffer.append(last)
    return True


frame_buffers = FrameBuffers(FRAME_BUFFERS_KEPT)
"""Of this process."""
