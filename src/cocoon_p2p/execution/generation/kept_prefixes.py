"""What was computed of a chat's last turn, for its next one: of one client and one chat only, and not for long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cocoon_p2p.execution.generation.kv_cache import Row
from cocoon_p2p.limits import GENERATION_PREFIX_KEPT_S

Key = tuple[bytes, str]
"""The client, in the node's words, and the chat in the client's."""


@dataclass(slots=True)
class _Kept:
    row: Row
    ids: list[int]
    """The tokens that the row holds."""
    until: float


class KeptPrefixes:
    """`close` wipes a row and gives it back."""

    def __init__(self, close: Callable[[Row], None]) -> None:
        self._close = close
        self._kept: dict[Key, _Kept] = {}
        """The one that was used longest ago first."""

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: Key, row: Row, ids: Sequence[int], now: float) -> None:
        """Keep the row of a turn that has ended, in place of an older one."""
        self.drop(key)
        self._kept[key] = _Kept(row, list(ids[: row.length]), now + GENERATION_PREFIX_KEPT_S)

    def take(self, key: Key, ids: Sequence[int]) -> tuple[Row, int] | None:
        """The chat's row, and how many of its first tokens are those of `ids`; None where nothing is kept or they differ at once,
        or where nothing of `ids` would be left to compute: the logits behind the last token are not kept."""
        kept = self._kept.pop(key, None)
        if kept is None:
            return None
        same = _common(kept.ids, ids[:-1])
        if same == 0:
            self._close(kept.row)
            return None
        return kept.row, same

    def drop(self, key: Key) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._close(kept.row)

    def drop_oldest(self) -> bool:
        """Make room. False: there is nothing to drop."""
        for key in self._kept:
            self.drop(key)
            return True
        return False

    def expire(self, now: float) -> None:
        for key in [key for key, kept in self._kept.items() if kept.until <= now]:
            self.drop(key)

    def next_expiry(self) -> float | None:
        return min((kept.until for kept in self._kept.values()), default=None)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    for place, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return place
    return min(len(a), len(b))
