"""One SQLite file: how it is opened, checked, migrated and written, and what its failures are called.

WAL mode with synchronous=NORMAL: what was committed survives the end of the process, `kill -9` included, and the file stays
whole even in a power cut. A power cut may take back the last commits, though, but for those that a `Flusher` (flushing.py)
has brought to the disk since. A commit costs about 10 µs, so everything is called directly on the trio thread; a transaction
must not contain an `await`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cocoon_p2p.errors import CocoonError, ConfigError, LocalProtocolError
from cocoon_p2p.limits import DATABASE_CHECK_BYTES_MAX, DATABASE_LOCK_TIMEOUT_S, DATABASE_WAL_BYTES_KEPT_MAX

Value = bytes | str | int | float | None
Row = tuple[Value, ...]
Migration = tuple[str, ...]
"""The statements that lead from one schema version to the next. A published migration is never edited."""

NO_ANSWER = "DATABASE"
"""The code of an error of the file or its disk: nothing can be done with the database."""
CONTRADICTION = "DATABASE_ROWS"
"""The code of a change that a constraint of the tables refused."""

_STATEMENTS_CACHED = 256
_sync = getattr(os, "fdatasync", os.fsync)
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@dataclass(frozen=True, slots=True)
class Schema:
    """What a database of one kind contains."""

    title: str
    """For people: "the store of jobs and receipts"."""
    application_id: int
    """SQLite's application id, so that one kind of file is never taken for another."""
    migrations: tuple[Migration, ...]

    @property
    def version(self) -> int:
        return len(self.migrations)


class Database:
    """An open database. Made by `open_database`; close it, or use it as a context manager.

    Raises `failure`, with code NO_ANSWER when the disk is full, damaged or gone, CONTRADICTION when the tables do not take a row.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, failure: type[CocoonError]) -> None:
        self.path = path
        self._connection = connection
        self._failure = failure
        self._depth = 0
        self._doomed = False

    def execute(self, sql: str, values: Sequence[Value] = ()) -> int:
        """Run one statement and return the number of rows it changed."""
        try:
            return self._connection.execute(sql, values).rowcount
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def one(self, sql: str, values: Sequence[Value] = ()) -> Row | None:
        """The first row, or None."""
        try:
            row: Row | None = self._connection.execute(sql, values).fetchone()
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return row

    def all(self, sql: str, values: Sequence[Value] = ()) -> list[Row]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def transaction(self) -> Transaction:
        """`with database.transaction():` all of it is written afterwards, or, after an exception, none of it.

        Transactions nest: the outermost one commits. An exception that leaves an inner one undoes the outermost too.
        """
        return Transaction(self)

    def flush(self) -> None:
        """Bring all that was committed to the disk: a round trip to it. From any thread."""
        try:
            with suppress(FileNotFoundError):  # nothing was written since the last checkpoint, which flushes by itself
                descriptor = os.open(f"{self.path}-wal", os.O_RDWR | os.O_CLOEXEC)
                try:
                    _sync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError as error:
            raise self._failure(f"{self.path}: {error.strerror}", code="DATABASE", hint="is the disk gone?") from error

    def close(self) -> None:
        """Idempotent."""
        try:
            self._connection.close()
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def begin(self) -> None:
        """Used by `Transaction`."""
        if self._depth == 0:
            self.execute("BEGIN IMMEDIATE")
            self._doomed = False
        self._depth += 1

    def end(self, *, commit: bool) -> None:
        """Used by `Transaction`. Raises LocalProtocolError when an inner transaction failed and the outer one hid it."""
        self._depth -= 1
        if not commit:
            self._doomed = True
        if self._depth:
            return
        if self._doomed:
            with suppress(sqlite3.Error):  # nothing to undo when SQLite already did, for a full disk for instance
                self._connection.execute("ROLLBACK")
            if commit:
                raise LocalProtocolError("a transaction hid the failure of one within it; nothing was written")
            return
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> CocoonError:
        if _is_damage(error):
            return self._failure(f"{self.path} is damaged: {error}", code=NO_ANSWER, hint=_damage_hint(self.path))
        if isinstance(error, sqlite3.IntegrityError):
            return self._failure(
                f"{self.path}: {error}", code=CONTRADICTION, hint="what its rows say cannot all be true"
            )
        return self._failure(f"{self.path}: {error}", code=NO_ANSWER, hint="is the disk full, or gone?")


class Transaction:
    """The context manager of `Database.transaction`."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.end(commit=kind is None)


def open_database(path: Path, schema: Schema, *, failure: type[CocoonError], read_only: bool = False) -> Database:
    """Open, check and migrate a database; a file that does not exist is made, readable by its owner only.

    With `read_only` nothing on the disk is changed, and a file that does not exist yet reads as an empty database.
    Raises ConfigError, naming the file and what to do, when it is damaged, of another kind or of a newer version; the
    file is left as it is.
    """
    if read_only and not path.exists():
        connection = _connect(":memory:")
        _migrate(connection, path, schema)
        connection.execute("PRAGMA query_only = ON")
        return Database(connection, path, failure)
    try:
        connection = _connect_file(path, read_only=read_only)
    except (sqlite3.Error, OSError) as error:
        raise _unusable(path, schema, error) from error
    try:
        _check(connection, path, schema)
        if read_only:
            _require_current(connection, path, schema)
        else:
            _set_up(connection)
            _migrate(connection, path, schema)
    except sqlite3.Error as error:
        connection.close()
        raise _unusable(path, schema, error) from error
    except ConfigError:
        connection.close()
        raise
    return Database(connection, path, failure)


def _connect_file(path: Path, *, read_only: bool) -> sqlite3.Connection:
    if not read_only:
        # made here and not by SQLite, for its mode; the files -wal and -shm take their mode from it
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return _connect(path.absolute().as_uri() + ("?mode=ro" if read_only else "?mode=rw"))


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=DATABASE_LOCK_TIMEOUT_S,
        isolation_level=None,  # transactions begin and end where this module says
        cached_statements=_STATEMENTS_CACHED,
    )
    # one damaged text must not keep a whole list from being read; whoever reads it finds that it names nothing
    connection.text_factory = _text
    return connection


def _text(raw: bytes) -> str:
    return str(raw, "utf-8", "replace")


def _set_up(connection: sqlite3.Connection) -> None:
    for pragma in (
        "journal_mode = WAL",
        "synchronous = NORMAL",
        f"journal_size_limit = {DATABASE_WAL_BYTES_KEPT_MAX}",
        "foreign_keys = ON",
        "trusted_schema = OFF",
        "temp_store = MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _check(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    """Raises sqlite3.Error or ConfigError."""
    application_id = _number(connection, "PRAGMA application_id")
    version = _number(connection, "PRAGMA user_version")
    tables = _number(connection, "SELECT count(*) FROM sqlite_master")
    if application_id != schema.application_id and (application_id or tables):
        raise ConfigError(
            f"{path} is a database, but not {schema.title}", hint="another file stands in its place; move it away"
        )
    if version > schema.version:
        raise ConfigError(
            f"{path} has schema version {version}; this program knows versions up to {schema.version}",
            hint="a newer release wrote it: use that release, or move the file away",
        )
    if path.stat().st_size <= DATABASE_CHECK_BYTES_MAX:
        report = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if report != "ok":
            raise sqlite3.DatabaseError(str(report).replace("\n", " "))


def _require_current(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    version = _number(connection, "PRAGMA user_version")
    if version < schema.version:
        raise ConfigError(
            f"{path} has schema version {version}; this program reads version {schema.version}",
            hint="start the node once, which brings the file up to date",
        )


def _migrate(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    """Each step, with its version number, in a transaction of its own."""
    version = _number(connection, "PRAGMA user_version")
    for number, migration in enumerate(schema.migrations[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in migration:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {schema.application_id}")
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise ConfigError(
                f"{path} cannot be brought to schema version {number}: {error}", hint="nothing was changed in it"
            ) from error


def _number(connection: sqlite3.Connection, sql: str) -> int:
    return int(connection.execute(sql).fetchone()[0])


def _is_damage(error: Exception) -> bool:
    # the primary code is the low byte (sqlite.org/rescode.html)
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def _unusable(path: Path, schema: Schema, error: Exception) -> ConfigError:
    if isinstance(error, sqlite3.OperationalError | OSError) and not _is_damage(error):
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return ConfigError(f"{path} ({schema.title}) cannot be opened: {reason}", code="DATABASE")
    return ConfigError(f"{path} ({schema.title}) is damaged: {error}", code="DATABASE_DAMAGED", hint=_damage_hint(path))


def _damage_hint(path: Path) -> str:
    return (
        f"nothing was deleted; restore {path.name} from a backup, or move it and its -wal and -shm files away "
        "to begin with an empty one"
    )
