"""One neighbour of the gossip: what it wants to hear, what waits for it, and how much it has asked of us lately."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import trio

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import (
    GOSSIP_ANSWERS_PER_ID_MAX,
    GOSSIP_FLOOD_PATIENCE_S,
    GOSSIP_HEARTBEAT_S,
    GOSSIP_IDS_PER_HEARTBEAT_MAX,
    GOSSIP_IHAVES_PER_HEARTBEAT_MAX,
    GOSSIP_KNOWN_MESSAGE_COST,
    GOSSIP_MESSAGES_PER_LINK_BURST,
    GOSSIP_MESSAGES_PER_LINK_S,
    GOSSIP_OVERLAP_S,
    GOSSIP_PROMISE_S,
)
from cocoon_p2p.net.gossip.outbox import Outbox
from cocoon_p2p.net.rates import Pace
from cocoon_p2p.net.supervisor import Counters

_ANSWERS_FORGOTTEN_BEATS = 5
"""As long as messages are kept for those who ask."""
_random = secrets.SystemRandom()
_FIRSTS_KEPT_PER_BEAT = 0.8
"""What is left, after a heartbeat, of the news that a neighbour brought."""
_FORGIVEN_S_PER_BEAT = GOSSIP_HEARTBEAT_S / 4
"""Of the waiting that it caused: who never goes beyond its rate for more than a quarter of the time is none that floods."""


class Neighbour:
    def __init__(self, peer: PeerId, counters: Counters) -> None:
        self.peer = peer
        self.topics: set[str] = set()
        self.outbox = Outbox(counters)
        self.talking = False
        """Whether a task sends what waits in the outbox."""
        self.lost_some = False
        """Whether the last stream to it broke, and with it what was on its way."""
        self._inbound: list[trio.CancelScope] = []
        """Its streams to us, the newest last."""
        self._roused = trio.Event()
        self.firsts = 0.0
        """How many messages it brought first, lately."""
        self._counters = counters
        self._pace = Pace(GOSSIP_MESSAGES_PER_LINK_S, GOSSIP_MESSAGES_PER_LINK_BURST, trio.current_time())
        self._waited_s = 0.0
        self._asked = self._told = self._wanted = 0
        self._answers: Counter[bytes] = Counter()
        self._answers_age = 0
        self._promises: dict[bytes, float] = {}

    # --- its streams -------------------------------------------------------------------------------------------------

    @contextmanager
    def listening(self) -> Iterator[trio.CancelScope]:
        """Round the reading of one of its streams. A second stream takes the place of the first, which is heard out, for
        GOSSIP_OVERLAP_S: its connection may have broken, and what came before has still to be read."""
        # SPEC gossip/1 §4
        for older in self._inbound[:-1]:
            older.cancel()
        for older in self._inbound[-1:]:
            older.deadline = trio.current_time() + GOSSIP_OVERLAP_S
        with trio.CancelScope() as scope:
            self._inbound.append(scope)
            try:
                yield scope
            finally:
                self._inbound.remove(scope)

    def look_up(self) -> None:
        """Wake the task that sends: something has changed about our connections to it."""
        self.outbox.rouse()
        self._roused.set()

    async def looks_up(self, timeout_s: float) -> None:
        """Until then, or `look_up`."""
        self._roused = trio.Event()
        with trio.move_on_after(timeout_s):
            await self._roused.wait()

    # --- messages ----------------------------------------------------------------------------------------------------

    async def take_turn(self) -> bool:
        """Before each message that it sends: waits when it goes beyond its rate, so that it does, too. True when it made
        us wait so long that it is to lose standing."""
        # SPEC gossip/1 §5.2
        wait_s = self._pace.wait_s(trio.current_time())
        if not wait_s:
            return False
        self._counters["gossip_throttled"] += 1
        await trio.sleep(wait_s)
        self._waited_s += wait_s
        for message_id in self._promises:
            self._promises[message_id] += wait_s
        if self._waited_s < GOSSIP_FLOOD_PATIENCE_S:
            return False
        self._waited_s = 0.0
        return True

    def spend(self, *, verified: bool) -> None:
        self._pace.spend(trio.current_time(), 1.0 if verified else GOSSIP_KNOWN_MESSAGE_COST)

    # --- gossip about messages ---------------------------------------------------------------------------------------

    def may_tell(self) -> bool:
        """Whether one more IHAVE of this heartbeat is looked at."""
        self._told += 1
        return self._told <= GOSSIP_IHAVES_PER_HEARTBEAT_MAX

    def ask(self, message_ids: list[bytes], now: float) -> list[bytes]:
        """Which of these to ask it for in this heartbeat. By one of them, it does not know which, it is measured."""
        asked = message_ids[: GOSSIP_IDS_PER_HEARTBEAT_MAX - self._asked]
        if len(asked) < len(message_ids):
            self._counters["gossip_ids_unasked"] += len(message_ids) - len(asked)
        self._asked += len(asked)
        if asked:
            self._promises.setdefault(_random.choice(asked), now + GOSSIP_PROMISE_S)
        return asked

    def answerable(self, message_ids: Iterable[bytes]) -> list[bytes]:
        """Of what it asks for, what it is sent: each message a few times, and so many a heartbeat."""
        found = []
        for message_id in message_ids:
            if self._wanted >= GOSSIP_IDS_PER_HEARTBEAT_MAX or self._answers[message_id] >= GOSSIP_ANSWERS_PER_ID_MAX:
                self._counters["gossip_iwant_refused"] += 1
                continue
            self._wanted += 1
            self._answers[message_id] += 1
            found.append(message_id)
        return found

    def kept(self, message_id: bytes) -> None:
        """A message came, whatever it is worth: no promise was broken."""
        self._promises.pop(message_id, None)

    def broken_promises(self, now: float) -> list[bytes]:
        """What it said it has and did not send in time; each is returned once."""
        late = [message_id for message_id, until in self._promises.items() if until <= now]
        for message_id in late:
            del self._promises[message_id]
        return late

    def beat(self) -> None:
        self._asked = self._told = self._wanted = 0
        self._waited_s = max(0.0, self._waited_s - _FORGIVEN_S_PER_BEAT)
        self.firsts *= _FIRSTS_KEPT_PER_BEAT
        self._answers_age += 1
        if self._answers_age >= _ANSWERS_FORGOTTEN_BEATS:
            self._answers.clear()
            self._answers_age = 0
