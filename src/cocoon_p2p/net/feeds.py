"""Broadcast to subscribers that may be slow: each has a bounded queue, and the oldest item goes first when it is full."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import trio

Item = TypeVar("Item")


class Subscription(Generic[Item]):
    """An endless async iterator over what was published since it began."""

    def __init__(self, size_max: int) -> None:
        self._items: deque[Item] = deque(maxlen=size_max)
        self._arrived = trio.Event()
        self.dropped = 0

    def put(self, item: Item) -> bool:
        """Never waits; the oldest item is dropped when the queue is full, and then it returns False."""
        full = len(self._items) == self._items.maxlen
        self.dropped += full
        self._items.append(item)
        self._arrived.set()
        return not full

    def __aiter__(self) -> Subscription[Item]:
        return self

    async def __anext__(self) -> Item:
        await trio.lowlevel.checkpoint()  # before the item is taken: a cancelled reader loses nothing
        while not self._items:
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self._items.popleft()


class Feed(Generic[Item]):
    """Where items are published."""

    def __init__(self, queue_max: int) -> None:
        self._queue_max = queue_max
        self._subscriptions: list[Subscription[Item]] = []

    @contextmanager
    def subscribe(self) -> Iterator[Subscription[Item]]:
        subscription: Subscription[Item] = Subscription(self._queue_max)
        self._subscriptions.append(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.remove(subscription)

    def publish(self, item: Item) -> int:
        """How many items of slow subscribers were dropped for it."""
        return sum(not subscription.put(item) for subscription in self._subscriptions)

    def __len__(self) -> int:
        return len(self._subscriptions)
