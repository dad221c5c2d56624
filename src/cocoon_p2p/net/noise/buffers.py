"""Large buffers, shared by all sessions: a session holds one only while it moves much, so that idle ones cost little."""

from __future__ import annotations

from collections import deque

from cocoon_p2p.limits import NOISE_BUFFERS_KEPT_MAX

MESSAGE_BYTES_MAX = 2 + 65535
"""A Noise message behind its length (libp2p's noise specification, "Wire format")."""
LARGE_BYTES = 8 * MESSAGE_BYTES_MAX
"""Eight whole messages, 512 KiB: what one system call moves."""

_kept: deque[memoryview] = deque(maxlen=NOISE_BUFFERS_KEPT_MAX)
"""append() and pop() of a deque are atomic, and one that is full forgets its oldest: threads may share it. The buffer
used last is used first, for it is still in the processor's cache."""


def borrow() -> memoryview:
    """LARGE_BYTES, with something in them."""
    try:
        return _kept.pop()
    except IndexError:
        return memoryview(bytearray(LARGE_BYTES))


def give_back(buffer: memoryview) -> None:
    """Nobody may look at it or write into it any more."""
    assert len(buffer) == LARGE_BYTES
    _kept.append(buffer)
