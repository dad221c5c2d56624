"""What waits to be sent for a job that is over is forgotten, and only that."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from cocoon_p2p.drivers.outbox import BULK_BYTES_MAX, Outbox
from cocoon_p2p.limits import MIB

A, B = b"a" * 16, b"b" * 16


class SlowStream:
    """Sends when it is told to."""

    def __init__(self) -> None:
        self.go = trio.Event()
        self.sent: list[bytes] = []

    async def send(self, *frames: bytes) -> None:
        self.sent += [bytes(frame[:1]) for frame in frames]
        await self.go.wait()


async def test_what_is_dropped_is_not_sent_and_makes_room() -> None:
    stream = SlowStream()
    outbox = Outbox(stream)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        for purpose in (A, A, B, A):
            await outbox.put_bulk(purpose[:1] * (BULK_BYTES_MAX // 2 - MIB // 2), purpose=purpose)
        nursery.start_soon(outbox.put_bulk, b"x" * MIB)
        nursery.start_soon(outbox.put_bulk, b"y" * MIB)
        await wait_all_tasks_blocked()
        assert len(stream.sent) <= 2, "the first frames are on their way"
        already = list(stream.sent)
        outbox.drop(A)
        await wait_all_tasks_blocked()
        outbox.put(b"short")
        stream.go.set()
        await outbox.flushed()
        assert sorted(stream.sent[len(already) :]) == [b"b", b"s", b"x", b"y"]
        nursery.cancel_scope.cancel()
    assert outbox._bulk_bytes == 0
