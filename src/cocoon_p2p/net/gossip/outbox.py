"""What waits to be sent to one neighbour: its own bounded queue, so that a slow one delays and loses nobody else's."""

from __future__ import annotations

from collections import deque

import trio

from cocoon_p2p.limits import (
    GOSSIP_BATCH_BYTES,
    GOSSIP_OUT_BURST,
    GOSSIP_OUT_CONTROL_MAX,
    GOSSIP_OUT_QUEUE_MAX,
    GOSSIP_OUT_S,
)
from cocoon_p2p.net.pb.gossip_pb2 import RPC
from cocoon_p2p.net.rates import Pace
from cocoon_p2p.net.supervisor import Counters

_PACE_STEP_S = 0.02
"""How long the sender sleeps, at least, when it is ahead of its pace: several messages then go in one RPC."""


class Outbox:
    """Control first, then messages in order, as many of them in one RPC as fit into GOSSIP_BATCH_BYTES.

    Messages leave at GOSSIP_OUT_S a second after a burst of GOSSIP_OUT_BURST: slower than what any neighbour takes in, so
    that a long burst arrives whole. Full, it drops the oldest; IHAVE tells the neighbour of that one.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._control: deque[bytes] = deque()
        self._messages: deque[bytes] = deque()
        self._wake = trio.Event()
        self._roused = False
        self._pace = Pace(GOSSIP_OUT_S, GOSSIP_OUT_BURST, trio.current_time())

    def say(self, rpc: RPC) -> None:
        """Control and subscriptions."""
        if len(self._control) >= GOSSIP_OUT_CONTROL_MAX:
            self._counters["gossip_out_control_dropped"] += 1
            self._control.popleft()
        self._control.append(rpc.SerializeToString())
        self._wake.set()

    def send(self, entry: bytes) -> None:
        """One message (`publish_entry`)."""
        if len(self._messages) >= GOSSIP_OUT_QUEUE_MAX:
            self._counters["gossip_out_dropped"] += 1
            self._messages.popleft()
        self._messages.append(entry)
        self._wake.set()

    def put_back(self, rpc: bytes) -> None:
        """What `next` returned and could not be sent: it goes first next time."""
        if rpc:
            self._control.appendleft(rpc)

    def rouse(self) -> None:
        """Let `next` return b"" if it waits, or as soon as it does."""
        self._roused = True
        self._wake.set()

    async def next(self) -> bytes:
        """The next RPC, when there is one and its time has come; b"" after `rouse`."""
        while True:
            if self._roused:
                self._roused = False
                return b""
            if self._control:
                return self._control.popleft()
            if not self._messages:
                self._wake = trio.Event()
                await self._wake.wait()
                continue
            wait_s = self._pace.wait_s(trio.current_time())
            if not wait_s:
                return self._batch()
            await trio.sleep(max(wait_s, _PACE_STEP_S))

    def __len__(self) -> int:
        return len(self._control) + len(self._messages)

    def _batch(self) -> bytes:
        now = trio.current_time()
        entries = [self._messages.popleft()]
        self._pace.spend(now)
        size = len(entries[0])
        while self._messages and self._pace.available(now) >= 1.0:
            size += len(self._messages[0])
            if size > GOSSIP_BATCH_BYTES:
                break
            entries.append(self._messages.popleft())
            self._pace.spend(now)
        return b"".join(entries)
