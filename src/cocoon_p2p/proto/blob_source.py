"""blob/1, the fetching end: what is known of one holder."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import BLOB_DEPTH_MAX, BLOB_DEPTH_MIN, BLOB_DEPTH_S, BLOB_STALL_S

_DEPTH_FIRST = 4
_PIECE_UNKNOWN_S = 0.25
_NEWEST = 0.25
"""Weight of the newest piece in the moving average of what one takes."""


@dataclass(slots=True)
class Source:
    """A holder that a stream is open to."""

    peer: PeerId
    local: bool
    """On our local network."""
    start: int
    """Where in the model we go on to ask it."""
    joined_at: float
    answered: bool = False
    """Its STATUS is here."""
    have: int = 0
    fetching: int = 0
    choked: bool = True
    requests: dict[int, float] = field(default_factory=dict)
    """When each piece that it owes us was asked for, the oldest first."""
    cancelled: set[int] = field(default_factory=set)
    """What it may still answer."""
    without_hashes: set[int] = field(default_factory=set)
    """Files whose hashes it does not have."""
    hash_requests: int = 0
    news_at: float = -inf
    """When it last had something new."""
    piece_at: float = -inf
    """When its last piece came."""
    piece_s: float | None = None
    """What a piece takes on average while several are asked for."""
    stalled_at: float | None = None

    @property
    def depth(self) -> int:
        """Pieces to ask it for ahead."""
        if self.stalled_at is not None:
            return 1
        if self.piece_s is None:
            return _DEPTH_FIRST
        wanted = BLOB_DEPTH_MIN + BLOB_DEPTH_S / max(self.piece_s, 1e-6)
        return int(min(wanted, BLOB_DEPTH_MAX))

    @property
    def has_room(self) -> bool:
        return self.answered and not self.choked and len(self.requests) < self.depth

    def asked(self, piece: int, now: float) -> None:
        self.requests[piece] = now
        self.cancelled.discard(piece)
        self.start = piece + 1

    def came(self, piece: int, now: float) -> None:
        """A piece is here, asked for or cancelled."""
        asked_at = self.requests.pop(piece, None)
        self.cancelled.discard(piece)
        if asked_at is not None:
            took_s = now - max(asked_at, self.piece_at)
            self.piece_s = took_s if self.piece_s is None else self.piece_s + _NEWEST * (took_s - self.piece_s)
        self.piece_at = self.news_at = now
        self.stalled_at = None

    def cancel(self, piece: int) -> None:
        del self.requests[piece]
        self.cancelled.add(piece)

    @property
    def usual_s(self) -> float:
        """What a piece takes, as far as is known."""
        return _PIECE_UNKNOWN_S if self.piece_s is None else self.piece_s

    def wait_s(self, piece: int) -> float:
        """How long it will be until a piece that was asked for is here, by what came so far: others come before it."""
        return self.usual_s * next(place for place, each in enumerate(self.requests, 1) if each == piece)

    def waits_since(self) -> float | None:
        """Since when it owes us something without a piece having come; None when it owes nothing."""
        return max(next(iter(self.requests.values())), self.piece_at) if self.requests else None

    def is_lively(self, now: float) -> bool:
        """Whether what it says that it fetches may be counted on."""
        return now - max(self.news_at, self.joined_at) < BLOB_STALL_S
