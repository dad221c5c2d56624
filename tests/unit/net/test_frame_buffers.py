"""Memory that is used again, and never while somebody looks at it."""

from __future__ import annotations

import pytest

from cocoon_p2p.net.frame_buffers import FRAME_BUFFER_BYTES, FrameBuffers


def test_a_buffer_is_used_again_when_nobody_holds_it() -> None:
    buffers = FrameBuffers(2)
    first = buffers.take()
    first[:4] = b"mine"
    assert len(first) == FRAME_BUFFER_BYTES
    del first
    assert bytes(buffers.take()[:4]) == b"mine"


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_what_is_held_in_whatever_form_is_not_given_out(kept: int) -> None:
    buffers = FrameBuffers(kept)
    held = [buffers.take()[10:20].toreadonly() for _ in range(5)]
    for number in range(20):
        taken = buffers.take()
        taken[:] = bytes((number + 1,)) * FRAME_BUFFER_BYTES
    assert all(bytes(view) == bytes(10) for view in held)


def test_what_is_kept_is_bounded() -> None:
    buffers = FrameBuffers(3)
    held = [buffers.take() for _ in range(10)]
    assert len(buffers._kept) == 3
    del held
    assert sum(map(len, buffers._kept)) == 3 * FRAME_BUFFER_BYTES
