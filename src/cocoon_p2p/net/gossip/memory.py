"""What a gossiper remembers: ids it has seen, and recent messages for those who missed them. Bounded in number and bytes."""

from __future__ import annotations

from collections import OrderedDict, deque

from cocoon_p2p.limits import GOSSIP_KEPT_BYTES_MAX, GOSSIP_SEEN_MAX, GOSSIP_SEEN_S

# gossipsub-v1.0.md, "Parameters": mcache_len and mcache_gossip, in heartbeats
_KEPT_TURNS, _TOLD_TURNS = 5, 3


class MessageMemory:
    """Ids for GOSSIP_SEEN_S; whole messages, encoded, for five heartbeats, of which the last three are told to others."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._turns: deque[dict[bytes, tuple[str, bytes]]] = deque([{}], maxlen=_KEPT_TURNS)
        self._kept_bytes = 0

    def has(self, message_id: bytes) -> bool:
        return message_id in self._seen

    def first_time(self, message_id: bytes, now: float) -> None:
        self._seen[message_id] = now + GOSSIP_SEEN_S
        while len(self._seen) > GOSSIP_SEEN_MAX:
            self._seen.popitem(last=False)

    def remember(self, message_id: bytes, topic: str, entry: bytes) -> None:
        """Keep a message for those who ask; beyond GOSSIP_KEPT_BYTES_MAX the oldest goes."""
        self._turns[-1][message_id] = (topic, entry)
        self._kept_bytes += len(entry)
        for turn in self._turns:
            while turn and self._kept_bytes > GOSSIP_KEPT_BYTES_MAX:
                self._kept_bytes -= len(turn.pop(next(iter(turn)))[1])

    def recall(self, message_id: bytes) -> bytes | None:
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
        if len(self._turns) == _KEPT_TURNS:
            self._kept_bytes -= sum(len(entry) for _, entry in self._turns[0].values())
        self._turns.append({})
        while self._seen:
            message_id, until = next(iter(self._seen.items()))
            if until > now:
                break
            del self._seen[message_id]
