"""Where models stand on disk: <home>/models/<model id>/ with manifest.json, offer.json and the manifest's files.

A model's folder appears at once, complete and flushed to the disk, by a rename; it never changes but for offer.json.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from cocoon_p2p.errors import CocoonError
from cocoon_p2p.ids import ModelId, model_id_of
from cocoon_p2p.limits import MANIFEST_BYTES_MAX, MIB
from cocoon_p2p.models.manifest import MANIFEST_NAME, Manifest, ManifestError, parse_manifest

INCOMING_PREFIX = ".incoming-"
_PIECE_BYTES = MIB


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
        raise ModelDamaged(f"{path}: {error}", hint="remove the model and add it again") from error
    if model_id is not None and model_id_of(data) != model_id:
        raise ModelDamaged(f"{path} is the manifest of another model", hint="remove the model and add it again")
    return manifest


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Read every byte of a model's files. Raises ModelDamaged for the first that is missing or altered."""
    for entry in manifest.files:
        path = folder / entry.path
        try:
            with open_plain(path, folder) as file:
                size, digest = hash_file(file)
        except OSError as error:
            raise ModelDamaged(f"{path}: {error.strerror}", hint="remove the model and add it again") from error
        if (size, digest) != (entry.size, entry.sha256):
            raise ModelDamaged(f"{path} was altered after it was added", hint="remove the model and add it again")


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


def hash_file(file: BinaryIO) -> tuple[int, str]:
    """Bytes and SHA-256 of the rest of an open file."""
    digest = hashlib.sha256()
    size = 0
    buffer = memoryview(bytearray(_PIECE_BYTES))
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(buffer[:count])
        size += count
    return size, digest.hexdigest()


def copy_file(source: BinaryIO, destination: Path) -> tuple[int, str]:
    """Copy the rest of an open file to a new one and flush it to the disk; its bytes and SHA-256."""
    digest = hashlib.sha256()
    size = 0
    buffer = memoryview(bytearray(_PIECE_BYTES))
    destination.parent.mkdir(parents=True, exist_ok=True)
    with destination.open("xb") as file:
        while count := source.readinto(buffer):  # type: ignore[attr-defined]
            digest.update(buffer[:count])
            file.write(buffer[:count])
            size += count
        file.flush()
        os.fsync(file.fileno())
    return size, digest.hexdigest()


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


def _links_within(folder: Path, facts: os.stat_result) -> int:
    count = 0
    for path in folder.rglob("*"):
        other = path.lstat()
        count += (other.st_dev, other.st_ino) == (facts.st_dev, facts.st_ino)
    return count
