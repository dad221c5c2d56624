"""The book that follows from announcements of the past: the same machine that a node keeps its book with, at other times.

A replay knows no more than what was signed. A node leaves out, besides, whom it could not reach and whom it has banned.
"""

from __future__ import annotations

from collections import Counter

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.proto.job_effects import Penalise
from cocoon_p2p.proto.market import BookOffer, MarketBook
from cocoon_p2p.wire.market_file import FileEntry

EQUIVOCATION = "EQUIVOCATION"
"""Two announcements of one peer with one number (capacity/1 §4.3)."""


class MarketReplay:
    """The book of the node `own` at the moment `at_ms` (Unix milliseconds)."""

    def __init__(self, own: PeerId, at_ms: int) -> None:
        self._at_ms = at_ms
        self._book = MarketBook(own)
        self.applied = 0
        self.later = 0
        """Heard after the moment."""
        self.refused: Counter[str] = Counter()
        """Announcements that no node takes, by the code of the reason."""

    def hear(self, entry: FileEntry) -> None:
        """The entries in the order in which they were heard."""
        # SPEC capacity/1 §7.3
        if entry.heard_at_ms > self._at_ms:
            self.later += 1
            return
        now = entry.heard_at_ms / 1000
        self._expire(now)
        try:
            effects = self._book.handle_announcement(entry.raw, now=now)
        except RemoteProtocolError as error:
            self.refused[error.code] += 1
            return
        if any(isinstance(effect, Penalise) for effect in effects):
            self.refused[EQUIVOCATION] += 1
        else:
            self.applied += 1

    def offers(self, model: str | None = None) -> list[BookOffer]:
        """What was on offer then: of a model, by id or name, or (None) in all."""
        return self._book.offers(model, now=self._at_ms / 1000)

    def _expire(self, now: float) -> None:
        deadline = self._book.next_deadline()
        if deadline is not None and deadline <= now:
            self._book.handle_timer(now=now)
