"""Where models stand on disk: <home>/models/<model id>/ with manifest.json, offer.json, pieces.bin and the manifest's files.

A model's folder appears at once, complete and flushed to the disk, by a rename; it never changes but for offer.json.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from cocoon_p2p.errors import CocoonError
from cocoon_p2p.ids import ModelId, model_id_of
from cocoon_p2p.limits import BLOB_CHUNK_BYTES, MANIFEST_BYTES_MAX
from cocoon_p2p.models.file_digest import HASH_BYTES, PieceHashes, digest_of, piece_count, piece_matches, split_hashes
from cocoon_p2p.models.manifest import MANIFEST_NAME, PIECES_NAME, FileEntry, Manifest, ManifestError, parse_manifest

INCOMING_PREFIX = ".incoming-"
_AGAIN = "remove the model and add it again"


class ModelDamaged(CocoonError):
    """What stands on disk is not what the manifest says."""

    default_code = "MODEL_DAMAGED"


def models_folder(home: Path) -> Path:
    return home / "models"


def model_folder(home: Path, model_id: ModelId) -> Path:
    return models_folder(home) / model_id


def read_manifest(folder: Path, model_id: ModelId | None = None) -> Manifest:
    """The manifest of a model's folder. Raises ModelDamaged when it is unreadable or is not that of `model_id`."""
    path = folder / MANIFEST_NAME
    try:
        with path.open("rb") as file:
            data = file.read(MANIFEST_BYTES_MAX + 1)
        manifest = parse_manifest(data)
    except (OSError, ManifestError) as error:
        raise ModelDamaged(f"{path}: {error}", hint=_AGAIN) from error
    if model_id is not None and model_id_of(data) != model_id:
        raise ModelDamaged(f"{path} is the manifest of another model", hint=_AGAIN)
    return manifest


def verify_files(folder: Path, manifest: Manifest, *, progress: Callable[[int], None] | None = None) -> None:
    """Read every byte of a model's files. Raises ModelDamaged at the first that is missing, or piece that is altered (a file
    whose pieces' hashes are not known is read to its end first). `progress` is told of each read's bytes."""
    known = read_pieces(folder, manifest)
    for entry in manifest.files:
        path = folder / entry.path
        try:
            with open_plain(path, folder) as file:
                size = os.fstat(file.fileno()).st_size
                if size != entry.size:
                    was = f"{path} was altered after it was added: it has {size} bytes, not {entry.size}"
                    raise ModelDamaged(was, hint=_AGAIN)
                _verify_open(file, path, entry, known.get(entry.path), progress)
        except OSError as error:
            raise ModelDamaged(f"{path}: {error.strerror}", hint=_AGAIN) from error


def _verify_open(
    file: BinaryIO,
    path: Path,
    entry: FileEntry,
    known: tuple[bytes, ...] | None,
    progress: Callable[[int], None] | None,
) -> None:
    found, buffer = PieceHashes(), memoryview(bytearray(BLOB_CHUNK_BYTES))
    index = 0
    while count := _read_full(file, buffer):
        if progress is not None:
            progress(count)
        if known is None:
            found.feed(buffer[:count])
        elif index >= len(known) or not piece_matches(buffer[:count], known[index]):
            first = index * BLOB_CHUNK_BYTES
            where = f"between bytes {first} and {first + count - 1}"
            raise ModelDamaged(f"{path} was altered after it was added, {where}", hint=_AGAIN)
        index += 1
    if index < piece_count(entry.size) if known is not None else found.digest != entry.digest:
        raise ModelDamaged(f"{path} was altered after it was added", hint=_AGAIN)


def read_pieces(folder: Path, manifest: Manifest) -> dict[str, tuple[bytes, ...]]:
    """The hashes of each file's pieces (models.file_digest) by its path, as far as they are kept beside the files and are those
    that the manifest's digests are made of: nobody who writes there can make them others."""
    try:
        with open_plain(folder / PIECES_NAME, folder) as file:
            data = file.read(HASH_BYTES * sum(piece_count(entry.size) for entry in manifest.files))
    except OSError:
        return {}
    pieces, start = {}, 0
    for entry in manifest.files:
        end = start + HASH_BYTES * piece_count(entry.size)
        if end <= len(data):
            hashes = split_hashes(data[start:end])
            if digest_of(entry.size, hashes) == entry.digest:
                pieces[entry.path] = hashes
        start = end
    return pieces


def write_pieces(folder: Path, manifest: Manifest, pieces: Mapping[str, bytes]) -> None:
    """Keep the hashes (one after the other) of each file's pieces beside the files, in the manifest's order."""
    write_atomically(folder / PIECES_NAME, b"".join(pieces[entry.path] for entry in manifest.files))


def open_plain(path: Path, folder: Path) -> BinaryIO:
    """Open a regular file that lies within `folder` by itself: not by a symlink, "..", or a hard link to a file outside.
    Raises OSError, PermissionError where it does not."""
    inside = path.relative_to(folder)
    step = folder
    for part in inside.parts:
        step /= part
        if part == ".." or step.is_symlink():
            raise PermissionError(1, "it is a link, or leads out of the model's folder", str(path))
    # The last part may have become a link since: O_NOFOLLOW; a pipe must not hang us: O_NONBLOCK.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = open(os.open(path, flags), "rb")  # noqa: SIM115 - the caller closes it
    try:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise PermissionError(1, "it is not a regular file", str(path))
        if facts.st_nlink > 1 and facts.st_nlink > _links_within(folder, facts):
            raise PermissionError(1, "it is a hard link to a file outside of the model's folder", str(path))
    except OSError:
        file.close()
        raise
    return file


def hash_file(file: BinaryIO) -> PieceHashes:
    """Of the rest of an open file."""
    found, buffer = PieceHashes(), memoryview(bytearray(BLOB_CHUNK_BYTES))
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        found.feed(buffer[:count])
    return found


def copy_file(source: BinaryIO, destination: Path, *, progress: Callable[[int], None] | None = None) -> PieceHashes:
    """Copy the rest of an open file to a new one and flush it to the disk; what was copied. `progress` is told of each part's
    bytes."""
    found, buffer = PieceHashes(), memoryview(bytearray(BLOB_CHUNK_BYTES))
    destination.parent.mkdir(parents=True, exist_ok=True)
    with destination.open("xb") as file:
        while count := source.readinto(buffer):  # type: ignore[attr-defined]
            found.feed(buffer[:count])
            file.write(buffer[:count])
            if progress is not None:
                progress(count)
        file.flush()
        os.fsync(file.fileno())
    return found


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file `path` so that a reader, or a power cut, finds either the old content or the new."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Make renames in `folder` durable; not needed, nor possible, on Windows."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_full(file: BinaryIO, buffer: memoryview) -> int:
    """Fill `buffer` as far as the file goes; the bytes read."""
    filled = 0
    while filled < len(buffer):
        count: int = file.readinto(buffer[filled:])  # type: ignore[attr-defined]
        if not count:
            break
        filled += count
    return filled


def _links_within(folder: Path, facts: os.stat_result) -> int:
    count = 0
    for path in folder.rglob("*"):
        other = path.lstat()
        count += (other.st_dev, other.st_ino) == (facts.st_dev, facts.st_ino)
    return count
