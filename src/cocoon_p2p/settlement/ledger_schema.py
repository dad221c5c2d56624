"""The tables of the ledger: one wallet, its channels in both roles, and the reservations of jobs."""

from __future__ import annotations

from cocoon_p2p.limits import LOCAL_GRANT_NANOGRAM
from cocoon_p2p.store.database import Schema

LEDGER_SCHEMA = Schema(
    title="the ledger of channels and vouchers",
    application_id=0x6370326C,  # "cp2l"
    migrations=(
        (
            """CREATE TABLE wallet (
                only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
                owner TEXT NOT NULL,
                available INTEGER NOT NULL CHECK (available >= 0),
                spent INTEGER NOT NULL,
                earned INTEGER NOT NULL,
                claimed INTEGER NOT NULL
            ) STRICT""",
            f"INSERT INTO wallet VALUES (1, '', {LOCAL_GRANT_NANOGRAM}, 0, 0, 0)",
            # `number` grows with every write of a row, so that it tells which channel was used longest ago
            """CREATE TABLE channels (
                number INTEGER PRIMARY KEY,
                role TEXT NOT NULL,
                channel BLOB NOT NULL,
                other TEXT NOT NULL,
                config BLOB NOT NULL,
                payer_key BLOB NOT NULL,
                opening BLOB NOT NULL,
                challenge_period_s INTEGER NOT NULL,
                deposit INTEGER NOT NULL,
                claimed INTEGER NOT NULL,
                balance INTEGER NOT NULL CHECK (balance >= 0),
                closing_at INTEGER NOT NULL,
                closed INTEGER NOT NULL,
                retired INTEGER NOT NULL,
                cumulative INTEGER NOT NULL CHECK (cumulative <= deposit),
                signature BLOB NOT NULL,
                settled INTEGER NOT NULL CHECK (settled >= 0),
                reserved INTEGER NOT NULL CHECK (reserved >= 0),
                CHECK (settled + reserved <= cumulative),
                UNIQUE (role, channel)
            ) STRICT""",
            "CREATE INDEX channels_open ON channels (role, other) WHERE closed = 0",
            """CREATE TABLE reservations (
                number INTEGER PRIMARY KEY,
                role TEXT NOT NULL,
                job_id BLOB NOT NULL,
                other TEXT NOT NULL,
                channel BLOB NOT NULL,
                amount INTEGER NOT NULL CHECK (amount >= 0),
                state TEXT NOT NULL,
                price INTEGER NOT NULL CHECK (price BETWEEN 0 AND amount),
                UNIQUE (role, job_id)
            ) STRICT""",
            "CREATE INDEX reservations_open ON reservations (number) WHERE state = 'reserved'",
        ),
        # one job may be given to several payees
        (
            "DROP INDEX reservations_open",
            "ALTER TABLE reservations RENAME TO reservations_before",
            """CREATE TABLE reservations (
                number INTEGER PRIMARY KEY,
                role TEXT NOT NULL,
                job_id BLOB NOT NULL,
                other TEXT NOT NULL,
                channel BLOB NOT NULL,
                amount INTEGER NOT NULL CHECK (amount >= 0),
                state TEXT NOT NULL,
                price INTEGER NOT NULL CHECK (price BETWEEN 0 AND amount),
                UNIQUE (role, job_id, other)
            ) STRICT""",
            "INSERT INTO reservations SELECT * FROM reservations_before",
            "DROP TABLE reservations_before",
            "CREATE INDEX reservations_open ON reservations (number) WHERE state = 'reserved'",
        ),
    ),
)
