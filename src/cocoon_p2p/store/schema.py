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
        (
            """CREATE TABLE experiences (
                peer_id TEXT NOT NULL,
                model_id TEXT NOT NULL,
                good REAL NOT NULL,
                bad REAL NOT NULL,
                at_ms INTEGER NOT NULL,
                tries INTEGER NOT NULL,
                overhead_ms REAL,
                item_us REAL,
                PRIMARY KEY (peer_id, model_id)
            ) STRICT, WITHOUT ROWID""",
            """CREATE TABLE considerations (
                number INTEGER PRIMARY KEY,
                wish TEXT NOT NULL UNIQUE,
                body TEXT NOT NULL
            ) STRICT""",
        ),
        # one job may be given to several peers
        (
            "ALTER TABLE jobs RENAME TO jobs_before",
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
                UNIQUE (job_id, role, peer_id)
            ) STRICT""",
            "INSERT INTO jobs SELECT * FROM jobs_before",
            "DROP TABLE jobs_before",
            "CREATE INDEX jobs_of_peer ON jobs (peer_id, role, number)",
            "ALTER TABLE receipts RENAME TO receipts_before",
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
                UNIQUE (job_id, role, peer_id)
            ) STRICT""",
            "INSERT INTO receipts SELECT * FROM receipts_before",
            "DROP TABLE receipts_before",
            """CREATE INDEX receipts_unacknowledged ON receipts (peer_id, number)
                WHERE role = 'provider' AND client_signature = x''""",
        ),
        # which model a name stood for when it was last used
        (
            """CREATE TABLE model_names (
                number INTEGER PRIMARY KEY,
                name TEXT NOT NULL UNIQUE,
                model_id TEXT NOT NULL
            ) STRICT""",
        ),
        # what was acknowledged of answers that come piece by piece
        (
            """CREATE TABLE stream_marks (
                number INTEGER PRIMARY KEY,
                job_id BLOB NOT NULL,
                peer_id TEXT NOT NULL,
                owed BLOB NOT NULL,
                UNIQUE (job_id, peer_id)
            ) STRICT""",
        ),
        # what a job's work would have cost that was done for nothing
        ("ALTER TABLE jobs ADD COLUMN wasted INTEGER NOT NULL DEFAULT 0",),
        # rows that cannot be read any more, as JSON
        (
            """CREATE TABLE damaged_rows (
                number INTEGER PRIMARY KEY,
                origin TEXT NOT NULL,
                set_aside_at_ms INTEGER NOT NULL,
                content TEXT NOT NULL
            ) STRICT""",
        ),
    ),
)
