"""Durable state of a node in one SQLite file: jobs, receipts, peers, what we know of them, numbers.

`kill -9` at any point loses nothing that a call has returned for; a power cut may lose the last moments, and leaves the file
whole (`store.database`). Calls are synchronous and quick.
Inputs and outputs of jobs are never stored.
"""

from __future__ import annotations

from pathlib import Path

from cocoon_p2p.errors import StoreError
from cocoon_p2p.store.considerations import ConsiderationRecord, Considerations
from cocoon_p2p.store.damaged import DamagedRows
from cocoon_p2p.store.database import Database, Transaction, open_database
from cocoon_p2p.store.experiences import ExperienceRecord, Experiences
from cocoon_p2p.store.jobs import JobRecord, JobRole, Jobs, JobState
from cocoon_p2p.store.known_peers import KnownPeer, KnownPeers
from cocoon_p2p.store.model_names import ModelNames
from cocoon_p2p.store.peers import PeerRecord, Peers
from cocoon_p2p.store.receipts import ReceiptRecord, ReceiptRole, Receipts
from cocoon_p2p.store.schema import STORE_SCHEMA
from cocoon_p2p.store.stream_marks import StreamMarks
from cocoon_p2p.store.values import Values

__all__ = [
    "STORE_SCHEMA",
    "ConsiderationRecord",
    "Considerations",
    "DamagedRows",
    "ExperienceRecord",
    "Experiences",
    "JobRecord",
    "JobRole",
    "JobState",
    "Jobs",
    "KnownPeer",
    "KnownPeers",
    "ModelNames",
    "PeerRecord",
    "Peers",
    "ReceiptRecord",
    "ReceiptRole",
    "Receipts",
    "Store",
    "StreamMarks",
    "Values",
    "open_store",
]


class Store:
    """The tables of one open database. Use it as a context manager, or call `close`. Every method raises StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.jobs = Jobs(database)
        self.receipts = Receipts(database)
        self.peers = Peers(database)
        self.known_peers = KnownPeers(database)
        self.experiences = Experiences(database)
        self.considerations = Considerations(database)
        self.values = Values(database)
        self.model_names = ModelNames(database)
        self.stream_marks = StreamMarks(database)
        self.damaged = DamagedRows(database)

    def transaction(self) -> Transaction:
        """`with store.transaction():` several writes reach the disk together, for the price of one. No `await` within."""
        return self._database.transaction()

    def used(self) -> bool:
        """Whether anything was ever done here: a job, or an announcement."""
        tables = ("jobs", "receipts", "numbers")
        row = self._database.one(f"SELECT {' OR '.join(f'EXISTS (SELECT 1 FROM {table})' for table in tables)}")
        return bool(row and row[0])

    def close(self) -> None:
        """Idempotent."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def open_store(path: Path, *, read_only: bool = False) -> Store:
    """Open the store in the file `path`, making it when it does not exist. With `read_only` nothing is changed on the
    disk, another process may have the file open, and a file that does not exist reads as empty.

    Raises ConfigError, naming the file and what to do, when it is damaged, of another kind or too new.
    """
    return Store(open_database(path, STORE_SCHEMA, failure=StoreError, read_only=read_only))
