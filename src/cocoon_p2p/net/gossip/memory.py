"""What a gossiper remembers: ids it has seen, recent messages for those who missed them, and how fast others talk."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import BOOK_PEERS_MAX, GOSSIP_SEEN_MAX, GOSSIP_SEEN_S

Message = TypeVar("Message")
# gossipsub-v1.0.md, "Parameters": mcache_len and mcache_gossip, in heartbeats
_KEPT_TURNS, _TOLD_TURNS = 5, 3


class MessageMemory(Generic[Message]):
    """Ids for GOSSIP_SEEN_S; whole messages for five heartbeats, of which the last three are told to others."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._turns: deque[dict[bytes, tuple[str, Message]]] = deque([{}], maxlen=_KEPT_TURNS)

    def has(self, message_id: bytes) -> bool:
        return message_id in self._seen

    def first_time(self, message_id: bytes, now: float) -> None:
        self._seen[message_id] = now + GOSSIP_SEEN_S
        while len(self._seen) > GOSSIP_SEEN_MAX:
            self._seen.popitem(last=False)

    def remember(self, message_id: bytes, topic: str, message: Message) -> None:
        self._turns[-1][message_id] = (topic, message)

    def recall(self, message_id: bytes) -> Message | None:
        for turn in self._turns:
            if message_id in turn:
                return turn[message_id][1]
        return None

    def recent(self, topic: str) -> list[bytes]:
        """Ids worth telling, oldest first."""
        turns = list(self._turns)[-_TOLD_TURNS:]
        return [message_id for turn in turns for message_id, (of, _) in turn.items() if of == topic]

    def turn(self, now: float) -> None:
        """A heartbeat went by."""
        self._turns.append({})
        while self._seen:
            message_id, until = next(iter(self._seen.items()))
            if until > now:
                break
            del self._seen[message_id]


class RateLimiter:
    """A token bucket a peer: `per_second` on average, two seconds' worth at once."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._burst = 2 * per_second
        self._buckets: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()

    def allows(self, peer: PeerId, now: float) -> bool:
        tokens, at = self._buckets.get(peer, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._per_second)
        allowed = tokens >= 1.0
        self._buckets[peer] = (tokens - 1.0 if allowed else tokens, now)
        self._buckets.move_to_end(peer)
        while len(self._buckets) > BOOK_PEERS_MAX:
            self._buckets.popitem(last=False)
        return allowed

    def forget(self, peer: PeerId) -> None:
        self._buckets.pop(peer, None)
