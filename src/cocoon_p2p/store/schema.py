"""The tables of the store. Inputs and outputs of jobs are in none of them: they are never written to the disk."""

from __future__ import annotations

from cocoon_p2p.store.database import Schema

STORE_SCHEMA = Schema(
    title="the store of jobs, receipts and peers",
    application_id=0x63703273,  # "cp2s"
    migrations=(
        (
            """CREATE TABLE jobs (
                number INTEGER PRIMARY KEY,
                job_id BLOB NOT NULL,
                role TEXT NOT NULL,
                model_id TEXT NOT NULL,
                model_name TEXT NOT NULL,
                peer_id TEXT NOT NULL,
                tier INTEGER NOT NULL,
                state TEXT NOT NULL,
                price INTEGER NOT NULL,
                items INTEGER NOT NULL,
                created_at_ms INTEGER NOT NULL,
                finished_at_ms INTEGER,
                error TEXT NOT NULL,
                UNIQUE (job_id, role)
            ) STRICT""",
            "CREATE INDEX jobs_of_peer ON jobs (peer_id, role, number)",
            """CREATE TABLE receipts (
                number INTEGER PRIMARY KEY,
                job_id BLOB NOT NULL,
                role TEXT NOT NULL,
                peer_id TEXT NOT NULL,
                model_id TEXT NOT NULL,
                price INTEGER NOT NULL,
                items INTEGER NOT NULL,
                finished_at_ms INTEGER NOT NULL,
                body BLOB NOT NULL,
                provider_signature BLOB NOT NULL,
                client_signature BLOB NOT NULL,
                UNIQUE (job_id, role)
            ) STRICT""",
            """CREATE INDEX receipts_unacknowledged ON receipts (peer_id, number)
                WHERE role = 'provider' AND client_signature = x''""",
            """CREATE TABLE peers (
                peer_id TEXT PRIMARY KEY,
                addresses TEXT NOT NULL,
                last_seen_ms INTEGER NOT NULL,
                standing REAL NOT NULL,
                standing_at_ms INTEGER NOT NULL,
                banned_until_ms INTEGER NOT NULL
            ) STRICT, WITHOUT ROWID""",
            "CREATE TABLE numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID",
        ),
        (
            """CREATE TABLE known_peers (
                network TEXT NOT NULL,
                peer_id TEXT NOT NULL,
                addresses TEXT NOT NULL,
                reached_at_ms INTEGER NOT NULL,
                PRIMARY KEY (network, peer_id)
            ) STRICT, WITHOUT ROWID""",
        ),
    ),
)
