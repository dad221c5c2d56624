"""The seal keys of a provider: a new one every ten minutes, an old one kept until no honest envelope can come for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cocoon_p2p.limits import SEAL_KEY_GRACE_S, SEAL_KEY_ROTATION_S
from cocoon_p2p.sealing.envelope import SealKey

RecordMaker = Callable[[SealKey, int, int], bytes]
"""(key, not_before_ms, not_after_ms) -> the record, signed by the peer and encoded: `wire.seal.make_seal_key_record`."""

ROTATION_MS = int(SEAL_KEY_ROTATION_S * 1000)
GRACE_MS = int(SEAL_KEY_GRACE_S * 1000)


@dataclass(frozen=True, slots=True)
class _Entry:
    key: SealKey
    record: bytes
    made_at_ms: int
    not_after_ms: int


class SealKeyRing:
    """Keys in memory only. Times are Unix milliseconds. Call `rotate` before `current`, or on a timer."""

    def __init__(self, make_record: RecordMaker, now_ms: int) -> None:
        self._make_record = make_record
        self._entries: list[_Entry] = []
        self._add(now_ms)

    def rotate(self, now_ms: int) -> bool:
        """Make a new key if the newest is ROTATION_MS old (or the clock was set back before it), and forget those whose
        grace is over. Whether there is a new one."""
        # SPEC seal/1 §3.4
        age_ms = now_ms - self._entries[-1].made_at_ms
        due = not 0 <= age_ms < ROTATION_MS
        self._entries = [entry for entry in self._entries if now_ms < entry.not_after_ms]
        if due or not self._entries:
            self._add(now_ms)
            return True
        return False

    def current(self) -> tuple[SealKey, bytes]:
        """The newest key and its signed record."""
        entry = self._entries[-1]
        return entry.key, entry.record

    def find(self, key_id: bytes, now_ms: int) -> SealKey | None:
        """The key of this id while it may open envelopes, else None."""
        for entry in self._entries:
            if entry.key.key_id == key_id and now_ms < entry.not_after_ms:
                return entry.key
        return None

    def next_rotation_ms(self) -> int:
        """When `rotate` will next make a key."""
        return self._entries[-1].made_at_ms + ROTATION_MS

    def _add(self, now_ms: int) -> None:
        key = SealKey.generate()
        not_after_ms = now_ms + ROTATION_MS + GRACE_MS
        record = self._make_record(key, now_ms, not_after_ms)
        self._entries.append(_Entry(key, record, now_ms, not_after_ms))
