"""Peers that were met: where they were reached, and how they behaved. Survives a restart; bounded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import cast

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import ADDRESSES_PER_ANNOUNCEMENT_MAX, API_LIST_ROWS_MAX, BOOK_PEERS_MAX
from cocoon_p2p.store.database import Database, Row

_COLUMNS = "peer_id, addresses, last_seen_ms, standing, standing_at_ms, banned_until_ms"
_PRUNE_EVERY = 256


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """`standing` is the penalty of policy.reputation as of `standing_at_ms`; times are Unix milliseconds, 0 for never."""

    peer_id: PeerId
    addresses: tuple[str, ...] = ()
    """Multiaddrs without the /p2p/ part."""
    last_seen_ms: int = 0
    standing: float = 0.0
    standing_at_ms: int = 0
    banned_until_ms: int = 0


class Peers:
    """The table of peers: the `kept_max` most recently seen, banned ones last to go."""

    def __init__(self, database: Database, *, kept_max: int = BOOK_PEERS_MAX) -> None:
        self._database = database
        self._kept_max = kept_max
        self._written = 0

    def seen(self, peer: PeerId, addresses: tuple[str, ...], *, at_ms: int) -> None:
        """The peer was reached at these addresses; no addresses leave the known ones as they are."""
        kept = json.dumps(addresses[:ADDRESSES_PER_ANNOUNCEMENT_MAX])
        with self._database.transaction():
            self._database.execute(
                f"INSERT INTO peers ({_COLUMNS}) VALUES (?,?,?,0.0,0,0) "
                "ON CONFLICT (peer_id) DO UPDATE SET last_seen_ms=max(last_seen_ms, excluded.last_seen_ms), "
                "addresses=CASE WHEN excluded.addresses='[]' THEN addresses ELSE excluded.addresses END",
                (peer, kept, at_ms),
            )
            self._prune_now_and_then()

    def set_standing(self, peer: PeerId, standing: float, *, at_ms: int, banned_until_ms: int) -> None:
        with self._database.transaction():
            self._database.execute(
                f"INSERT INTO peers ({_COLUMNS}) VALUES (?,'[]',0,?,?,?) "
                "ON CONFLICT (peer_id) DO UPDATE SET standing=excluded.standing, "
                "standing_at_ms=excluded.standing_at_ms, banned_until_ms=excluded.banned_until_ms",
                (peer, standing, at_ms, banned_until_ms),
            )
            self._prune_now_and_then()

    def get(self, peer: PeerId) -> PeerRecord | None:
        row = self._database.one(f"SELECT {_COLUMNS} FROM peers WHERE peer_id=?", (peer,))
        return _record_of(row) if row else None

    def newest(self, limit: int = 100) -> list[PeerRecord]:
        """The most recently seen, newest first; at most `limits.API_LIST_ROWS_MAX`."""
        rows = self._database.all(
            f"SELECT {_COLUMNS} FROM peers ORDER BY last_seen_ms DESC, peer_id LIMIT ?",
            (min(max(limit, 0), API_LIST_ROWS_MAX),),
        )
        return [_record_of(row) for row in rows]

    def banned(self, *, now_ms: int) -> tuple[PeerRecord, ...]:
        """Peers whose ban is not over."""
        rows = self._database.all(
            f"SELECT {_COLUMNS} FROM peers WHERE banned_until_ms > ?",
            (now_ms,),
        )
        return tuple(_record_of(row) for row in rows)

    def prune(self) -> int:
        """Forget the peers beyond the bound; how many. A ban that lies in the future keeps a peer longer."""
        return self._database.execute(
            "DELETE FROM peers WHERE peer_id IN (SELECT peer_id FROM peers "
            "ORDER BY max(last_seen_ms, banned_until_ms) DESC, peer_id LIMIT -1 OFFSET ?)",
            (self._kept_max,),
        )

    def _prune_now_and_then(self) -> None:
        if self._written % _PRUNE_EVERY == 0:
            self.prune()
        self._written += 1


def _record_of(row: Row) -> PeerRecord:
    peer_id, addresses, last_seen_ms, standing, standing_at_ms, banned_until_ms = row
    return PeerRecord(
        peer_id=PeerId(cast(str, peer_id)),
        addresses=tuple(json.loads(cast(str, addresses))),
        last_seen_ms=cast(int, last_seen_ms),
        standing=cast(float, standing),
        standing_at_ms=cast(int, standing_at_ms),
        banned_until_ms=cast(int, banned_until_ms),
    )
