"""Exported announcements on the disk (protocols/capacity/1, §7): written as a whole or not at all, read record by record."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cocoon_p2p.errors import ConfigError, RemoteProtocolError
from cocoon_p2p.limits import MARKET_FILE_BYTES_MAX
from cocoon_p2p.wire.market_file import (
    LENGTH_BYTES,
    MAGIC,
    FileEnd,
    FileEntry,
    FileHeader,
    FileRecord,
    decode_file_record,
    record_length,
    with_length,
)


def write_market_file(path: Path, header: FileHeader, entries: Iterable[FileEntry]) -> int:
    """How many entries were written. What stood there before is replaced only by a file that is whole. Raises
    ConfigError."""
    part = path.parent / f".{path.name}.part"
    count = 0
    try:
        with part.open("wb") as file:
            file.write(MAGIC + with_length(header))
            for entry in entries:
                file.write(with_length(entry))
                count += 1
            file.write(with_length(FileEnd(count)))
        part.replace(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        with suppress(OSError, ValueError):  # it is not there any more, unless something went wrong
            part.unlink()
    return count


@contextmanager
def open_market_file(path: Path) -> Iterator[tuple[FileHeader, Iterator[FileEntry]]]:
    """The header, and the entries as they are asked for. Raises ConfigError (code MARKET_FILE), also from the iterator,
    which names the place in the file where something is wrong."""
    try:
        file = path.open("rb")
        size = os.fstat(file.fileno()).st_size
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    with file:
        if size > MARKET_FILE_BYTES_MAX:
            raise ConfigError(f"{path} has {size:,} bytes; at most {MARKET_FILE_BYTES_MAX:,} are read")
        reader = _Reader(path, file)
        yield reader.header(), reader.entries()


class _Reader:
    """Knows where in the file it is."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._offset = 0

    def header(self) -> FileHeader:
        if self._read(len(MAGIC), "the file's first line") != MAGIC:
            raise self._wrong(0, "this is no file of `cocoon-node market export`, or one of a later version")
        start = self._offset
        header = self._record()
        if not isinstance(header, FileHeader):
            raise self._wrong(start, "the header is not where it should be")
        return header

    def entries(self) -> Iterator[FileEntry]:
        count = 0
        while True:
            start = self._offset
            record = self._record()
            match record:
                case FileEntry():
                    count += 1
                    yield record
                case FileHeader():
                    raise self._wrong(start, "a second header")
                case FileEnd():
                    if record.count != count:
                        raise self._wrong(start, f"{record.count:,} announcements should be here; {count:,} are")
                    start = self._offset
                    if self._file.read(1):
                        raise self._wrong(start, "something follows the end")
                    return

    def _record(self) -> FileRecord:
        start = self._offset
        try:
            length = record_length(self._read(LENGTH_BYTES, "a record's length"))
            return decode_file_record(self._read(length, "a record"))
        except RemoteProtocolError as error:
            raise self._wrong(start, error.message) from error

    def _read(self, size: int, what: str) -> bytes:
        start = self._offset
        try:
            data = self._file.read(size)
        except OSError as error:
            raise ConfigError(f"cannot read {self._path}: {error.strerror or error}") from error
        self._offset += len(data)
        if len(data) < size:
            raise self._wrong(start, f"the file is cut short within {what}" if data else "the file is cut short")
        return data

    def _wrong(self, offset: int, what: str) -> ConfigError:
        return ConfigError(
            f"{self._path}, at byte {offset:,}: {what}",
            code="MARKET_FILE",
            hint="have it exported again: cocoon-node market export FILE",
        )
