"""Receipts: the exact bytes that both sides signed, and a few columns of them for lists.

A receipt that `put` has returned for is on the disk. As a provider we hold it from the moment we signed it; the client's
signature is added when its acknowledgement comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from cocoon_p2p.ids import JobId, ModelId, PeerId
from cocoon_p2p.limits import API_LIST_ROWS_MAX, RECEIPTS_KEPT_MAX
from cocoon_p2p.store.database import Database, Row

ReceiptRole = Literal["client", "provider"]

_COLUMNS = "job_id, role, peer_id, model_id, price, items, finished_at_ms, body, provider_signature, client_signature"
_PRUNE_EVERY = 256


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """`body` is what was signed; the columns repeat it. `client_signature` is b"" until the client acknowledged."""

    job_id: JobId
    role: ReceiptRole
    """Ours."""
    peer_id: PeerId
    """The other side."""
    model_id: ModelId
    price: int
    items: int
    finished_at_ms: int
    body: bytes
    provider_signature: bytes
    client_signature: bytes = b""


class Receipts:
    """The table of receipts: the newest `kept_max`."""

    def __init__(self, database: Database, *, kept_max: int = RECEIPTS_KEPT_MAX) -> None:
        self._database = database
        self._kept_max = kept_max
        self._stored = 0

    def put(self, record: ReceiptRecord) -> bool:
        """Keep a receipt. Idempotent: the same one again changes nothing but adds a client's signature that was missing.
        False, and nothing is changed, when another body is kept for this job in this role with this peer."""
        database = self._database
        with database.transaction():
            kept = database.one(
                "SELECT body FROM receipts WHERE job_id=? AND role=? AND peer_id=?",
                (record.job_id, record.role, record.peer_id),
            )
            if kept is None:
                self._add(record)
                return True
            if kept[0] != record.body:
                return False
            if record.client_signature:
                self.acknowledge(record.job_id, record.client_signature, role=record.role, peer=record.peer_id)
            return True

    def replace(self, record: ReceiptRecord) -> None:
        """As a provider: this receipt in place of an earlier one of the same job and client, for which more is owed now."""
        with self._database.transaction():
            self.take_back(record.job_id, record.peer_id)
            self.put(record)

    def acknowledge(
        self, job_id: JobId, client_signature: bytes, *, role: ReceiptRole = "provider", peer: PeerId | None = None
    ) -> bool:
        """Add the client's (verified) signature; the first one stays. False when there is no such receipt."""
        with self._database.transaction():
            kept = self._database.one(
                "SELECT number FROM receipts WHERE job_id=? AND role=? AND peer_id=coalesce(?, peer_id)",
                (job_id, role, peer),
            )
            if kept is not None:
                self._database.execute(
                    "UPDATE receipts SET client_signature=? WHERE number=? AND client_signature=x''",
                    (client_signature, kept[0]),
                )
            return kept is not None

    def take_back(self, job_id: JobId, client: PeerId) -> bool:
        """As a provider: forget a receipt that this client has not signed. False when there is none such."""
        return (
            self._database.execute(
                "DELETE FROM receipts WHERE job_id=? AND role='provider' AND peer_id=? AND client_signature=x''",
                (job_id, client),
            )
            == 1
        )

    def by_job(
        self, job_id: JobId, *, role: ReceiptRole | None = None, peer: PeerId | None = None
    ) -> ReceiptRecord | None:
        """In this role, with this peer; where these are not said, the newest there is (our own as a client first)."""
        row = self._database.one(
            f"SELECT {_COLUMNS} FROM receipts WHERE job_id=? AND role=coalesce(?, role) AND peer_id=coalesce(?, peer_id) "
            "ORDER BY role, number DESC LIMIT 1",
            (job_id, role, peer),
        )
        return _record_of(row) if row else None

    def unacknowledged(self, client: PeerId, limit: int) -> tuple[ReceiptRecord, ...]:
        """As a provider: receipts that this client has not signed yet, oldest first."""
        rows = self._database.all(
            f"SELECT {_COLUMNS} FROM receipts "
            "WHERE peer_id=? AND role='provider' AND client_signature=x'' ORDER BY number LIMIT ?",
            (client, max(limit, 0)),
        )
        return tuple(_record_of(row) for row in rows)

    def unsigned(self, client: PeerId, limit: int) -> tuple[ReceiptRecord, ...]:
        """As a provider: the newest receipts that this client has not signed yet, oldest first."""
        rows = self._database.all(
            f"SELECT {_COLUMNS} FROM receipts "
            "WHERE peer_id=? AND role='provider' AND client_signature=x'' ORDER BY number DESC LIMIT ?",
            (client, max(limit, 0)),
        )
        return tuple(_record_of(row) for row in reversed(rows))

    def unsigned_of_all(self, limit: int) -> list[ReceiptRecord]:
        """As a provider: the newest receipts that no client has signed yet, newest first."""
        rows = self._database.all(
            f"SELECT {_COLUMNS} FROM receipts INDEXED BY receipts_unacknowledged "  # SQLite would read the whole table
            "WHERE role='provider' AND client_signature=x'' ORDER BY number DESC LIMIT ?",
            (max(limit, 0),),
        )
        return [_record_of(row) for row in rows]

    def newest(self, limit: int = 100) -> list[ReceiptRecord]:
        """The newest receipts, newest first; at most `limits.API_LIST_ROWS_MAX`."""
        rows = self._database.all(
            f"SELECT {_COLUMNS} FROM receipts ORDER BY number DESC LIMIT ?",
            (min(max(limit, 0), API_LIST_ROWS_MAX),),
        )
        return [_record_of(row) for row in rows]

    def prune(self) -> int:
        """Forget the oldest receipts beyond the bound; how many. `put` does it now and then by itself."""
        return self._database.execute(
            "DELETE FROM receipts WHERE number <= (SELECT number FROM receipts ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (self._kept_max,),
        )

    def _add(self, record: ReceiptRecord) -> None:
        self._database.execute(
            f"INSERT INTO receipts ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)",
            (
                record.job_id,
                record.role,
                record.peer_id,
                record.model_id,
                record.price,
                record.items,
                record.finished_at_ms,
                record.body,
                record.provider_signature,
                record.client_signature,
            ),
        )
        if self._stored % _PRUNE_EVERY == 0:
            self.prune()
        self._stored += 1


def _record_of(row: Row) -> ReceiptRecord:
    job_id, role, peer_id, model_id, price, items, finished_at_ms, body, provider_signature, client_signature = row
    return ReceiptRecord(
        job_id=JobId(cast(bytes, job_id)),
        role=cast(ReceiptRole, role),
        peer_id=PeerId(cast(str, peer_id)),
        model_id=ModelId(cast(str, model_id)),
        price=cast(int, price),
        items=cast(int, items),
        finished_at_ms=cast(int, finished_at_ms),
        body=cast(bytes, body),
        provider_signature=cast(bytes, provider_signature),
        client_signature=cast(bytes, client_signature),
    )
