"""A model that is on its way here: <home>/models/.partial-<model id>/, with its files at their full size, the pieces that came in
their places, and a bit for each piece that was verified.

Survives `kill -9`, since what was written is the system's, and a power cut, since nothing of it is believed afterwards: every
piece is hashed again when the folder is opened.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import BLOB_CHUNK_BYTES, BLOB_PARTIAL_KEPT_S
from cocoon_p2p.models.descriptors import Descriptor
from cocoon_p2p.models.disk_room import check_room
from cocoon_p2p.models.file_digest import HASH_BYTES, digest_of, piece_hash, split_hashes
from cocoon_p2p.models.layout import (
    flush_folder,
    models_folder,
    open_plain,
    write_atomically,
    write_pieces,
)
from cocoon_p2p.models.manifest import MANIFEST_NAME, Manifest, ManifestError, parse_manifest
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry, Offer
from cocoon_p2p.models.wanted import forget_wanted
from cocoon_p2p.wire.blob_layout import BlobLayout

PARTIAL_PREFIX = ".partial-"
_BITS_NAME = ".bits"
_HASHES_PREFIX = ".hashes-"
_FOLDER = re.compile(re.escape(PARTIAL_PREFIX) + "[0-9a-f]{64}")

Advance = Callable[[int], None]
"""Told of bytes that were read and hashed again."""


class PartialModel:
    """Made by `open_partial`. All methods read or write the disk; `keep_piece` and `read_piece` may be called by several
    threads at once."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.model_id = manifest.model_id
        self.layout = BlobLayout([entry.size for entry in manifest.files])
        self.have = 0
        """The set of pieces that are here and verified."""
        self._hashes: dict[int, bytes] = {}
        self._bits = bytearray(self.layout.encode_set(0))
        self._bits_file: Descriptor
        self._open: dict[int, Descriptor] = {}
        self._lock = threading.Lock()

    @property
    def hashed(self) -> frozenset[int]:
        """Files whose pieces' hashes are here and verified."""
        return frozenset(self._hashes)

    def keep_hashes(self, file: int, hashes: bytes) -> bool:
        """The hashes of all of a file's pieces; False, and nothing kept, if they are not those of its digest."""
        if not self._keep_hashes(file, hashes):
            return False
        write_atomically(self.folder / f"{_HASHES_PREFIX}{file}", hashes)
        return True

    def _keep_hashes(self, file: int, hashes: bytes) -> bool:
        entry = self.manifest.files[file]
        try:
            right = digest_of(entry.size, split_hashes(hashes)) == entry.digest
        except ValueError:
            right = False
        if right:
            self._hashes[file] = hashes
        return right

    def hashes(self, file: int, first: int, count: int) -> bytes | None:
        """Of some pieces of a file; None while they are not here."""
        known = self._hashes.get(file)
        return None if known is None else known[first * HASH_BYTES : (first + count) * HASH_BYTES]

    def keep_piece(self, piece: int, data: bytes | bytearray | memoryview) -> bool:
        """Put a piece in its place; False, and nothing kept, if it is not the piece. Raises ConfigError: the disk is full, or
        does not take it."""
        if not self._is_right(piece, data):
            return False
        place = self.layout.place(piece)
        try:
            self._descriptor(place.file).write(memoryview(data), place.offset)
            with self._lock:
                self.have |= 1 << piece
                self._bits[piece >> 3] |= 1 << (piece & 7)
                os.pwrite(self._bits_file.number, self._bits[piece >> 3 : (piece >> 3) + 1], piece >> 3)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        return True

    def _is_right(self, piece: int, data: bytes | bytearray | memoryview) -> bool:
        place = self.layout.place(piece)
        found = piece_hash(data)
        known = self._hashes.get(place.file)
        if known is not None:
            return found == known[place.index * HASH_BYTES : (place.index + 1) * HASH_BYTES]
        return self.layout.counts[place.file] == 1 and self._keep_hashes(place.file, found)

    def read_piece(self, piece: int, buffer: memoryview) -> int:
        """Into the beginning of `buffer`; how many bytes. Raises OSError."""
        place = self.layout.place(piece)
        return self._descriptor(place.file).read(buffer[: place.size], place.offset)

    def read_cached(self, piece: int, buffer: memoryview) -> int | None:
        """The same without a wait for the disk; None where there would be one."""
        place = self.layout.place(piece)
        return place.size if self._descriptor(place.file).read_cached(buffer[: place.size], place.offset) else None

    def install(self, registry: ModelRegistry, offer: Offer) -> InstalledModel:
        """All pieces are here: make it a model like any other. Raises ConfigError (the name is another's)."""
        if self.have != self.layout.full:
            raise ConfigError(f"model {self.model_id} is not whole yet", code="MODEL_DAMAGED")
        for file in range(len(self.manifest.files)):
            os.fsync(self._descriptor(file).number)
        write_pieces(
            self.folder,
            self.manifest,
            {entry.path: self._hashes.get(file, b"") for file, entry in enumerate(self.manifest.files)},
        )
        model = registry.install_fetched(self.manifest, offer, self.folder)
        # Not before: had it failed, they would be missed.
        for path in (model.folder / _BITS_NAME, *model.folder.glob(f"{_HASHES_PREFIX}*")):
            path.unlink(missing_ok=True)
        self.remove()  # where the model was there already
        return model

    def remove(self) -> None:
        """Give it up."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- opening ---

    def begin(self) -> None:
        """A new folder. Raises OSError."""
        self.folder.mkdir(parents=True, mode=0o700)
        for entry in self.manifest.files:
            path = self.folder / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                _reserve(file.fileno(), entry.size)
        self._open_bits(os.O_CREAT | os.O_EXCL)
        # Last, and whole: a folder without it is none.
        write_atomically(self.folder / MANIFEST_NAME, self.manifest.encode())
        flush_folder(self.folder.parent)

    def resume(self, advance: Advance) -> None:
        """A folder from before: take what is there and right. Raises OSError."""
        self._open_bits(os.O_CREAT)
        said = int.from_bytes(os.pread(self._bits_file.number, len(self._bits), 0), "little") & self.layout.full
        for file, entry in enumerate(self.manifest.files):
            descriptor = self._descriptor(file).number
            if os.fstat(descriptor).st_size != entry.size:
                _reserve(descriptor, entry.size)
            with suppress(OSError), open_plain(self.folder / f"{_HASHES_PREFIX}{file}", self.folder) as kept:
                self._keep_hashes(file, kept.read(self.layout.counts[file] * HASH_BYTES))
        buffer = memoryview(bytearray(BLOB_CHUNK_BYTES))
        while said:
            piece = said.bit_length() - 1
            said ^= 1 << piece
            size = self.read_piece(piece, buffer)
            if self._is_right(piece, buffer[:size]):
                self.have |= 1 << piece
            advance(size)
        self._bits[:] = self.layout.encode_set(self.have)
        os.pwrite(self._bits_file.number, self._bits, 0)

    def _open_bits(self, flags: int) -> None:
        self._bits_file = Descriptor(self.folder / _BITS_NAME, os.O_RDWR | flags)
        os.ftruncate(self._bits_file.number, len(self._bits))

    def _descriptor(self, file: int) -> Descriptor:
        with self._lock:
            if file not in self._open:
                self._open[file] = Descriptor(self.folder / self.manifest.files[file].path, os.O_RDWR)
            return self._open[file]


def open_partial(home: Path, manifest: Manifest, *, advance: Advance = lambda size: None) -> PartialModel:
    """What is there of a model, or the beginning of it. Raises ConfigError: the disk has no room for it, or does not take it."""
    folder = partial_folder(home, manifest.model_id)
    empty = digest_of(0, ())
    if any(entry.size == 0 and entry.digest != empty for entry in manifest.files):
        raise ConfigError(f"model {manifest.model_id[:12]}… can never be verified: an empty file has another's digest")
    remove_abandoned(home)
    if (folder / MANIFEST_NAME).is_file():
        partial = PartialModel(folder, manifest)
        try:
            partial.resume(advance)
        except OSError:  # somebody was at it
            partial.remove()
        else:
            os.utime(folder)
            return partial
    shutil.rmtree(folder, ignore_errors=True)
    check_room(folder.parent, manifest.size, f"model {manifest.model_id[:12]}…")
    partial = PartialModel(folder, manifest)
    try:
        partial.begin()
    except OSError as error:
        partial.remove()
        raise _unwritable(folder, error) from error
    return partial


def partial_folder(home: Path, model_id: ModelId) -> Path:
    return models_folder(home) / f"{PARTIAL_PREFIX}{model_id}"


def partial_manifest(home: Path, model_id: ModelId) -> Manifest | None:
    """Of a model that is on its way here."""
    try:
        manifest = parse_manifest((partial_folder(home, model_id) / MANIFEST_NAME).read_bytes())
    except (OSError, ManifestError):
        return None
    return manifest if manifest.model_id == model_id else None


def unfinished(home: Path) -> tuple[Manifest, ...]:
    """The models that are on their way here, or were."""
    models = models_folder(home)
    names = sorted(folder.name for folder in models.glob(f"{PARTIAL_PREFIX}*")) if models.is_dir() else []
    found = (
        partial_manifest(home, ModelId(name.removeprefix(PARTIAL_PREFIX))) for name in names if _FOLDER.fullmatch(name)
    )
    return tuple(manifest for manifest in found if manifest is not None)


def remove_partial(home: Path, model_id: ModelId) -> None:
    """All that came of it, and that it was wanted. The caller has seen to it that nobody is at it."""
    shutil.rmtree(partial_folder(home, model_id), ignore_errors=True)
    forget_wanted(home, model_id)


def remove_abandoned(home: Path) -> None:
    """What nobody has gone on with for a month."""
    models = models_folder(home)
    for folder in models.glob(f"{PARTIAL_PREFIX}*") if models.is_dir() else ():
        if _FOLDER.fullmatch(folder.name) and time.time() - folder.stat().st_mtime > BLOB_PARTIAL_KEPT_S:
            shutil.rmtree(folder, ignore_errors=True)


def _reserve(descriptor: int, size: int) -> None:
    """Room on the disk for a file of this size, so that it cannot run out in the middle. Raises OSError."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # a file system that cannot
                raise
    os.ftruncate(descriptor, size)


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{folder} cannot be written: {error.strerror or error}", hint="is there room on the disk?")
