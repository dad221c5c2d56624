"""A model that is here, read piece by piece for others."""

from __future__ import annotations

import errno
import os
import threading

from cocoon_p2p.models.descriptors import Descriptor
from cocoon_p2p.models.file_digest import HASH_BYTES
from cocoon_p2p.models.layout import ModelDamaged, hash_file, open_plain, read_pieces, write_pieces
from cocoon_p2p.models.manifest import PIECES_NAME
from cocoon_p2p.models.registry import InstalledModel
from cocoon_p2p.wire.blob_layout import BlobLayout


class WholeModel:
    """Made by `open_whole`. `read_piece` may be called by several threads at once."""

    def __init__(self, model: InstalledModel, hashes: list[bytes]) -> None:
        self.folder = model.folder
        self.manifest = model.manifest
        self.layout = BlobLayout([entry.size for entry in model.manifest.files])
        self.have = self.layout.full
        self._hashes = hashes
        self._open: dict[int, Descriptor] = {}
        self._lock = threading.Lock()

    def hashes(self, file: int, first: int, count: int) -> bytes | None:
        """Of some pieces of a file."""
        return self._hashes[file][first * HASH_BYTES : (first + count) * HASH_BYTES]

    def read_piece(self, piece: int, buffer: memoryview) -> int:
        """Into the beginning of `buffer`; how many bytes. Raises OSError, also where the model was removed meanwhile."""
        place = self.layout.place(piece)
        return self._descriptor(place.file).read(buffer[: place.size], place.offset)

    def read_cached(self, piece: int, buffer: memoryview) -> int | None:
        """The same without a wait for the disk; None where there would be one. Raises OSError as `read_piece`."""
        place = self.layout.place(piece)
        return place.size if self._descriptor(place.file).read_cached(buffer[: place.size], place.offset) else None

    def _descriptor(self, file: int) -> Descriptor:
        if not self.folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the model was removed", str(self.folder))
        with self._lock:
            if file not in self._open:
                self._open[file] = Descriptor(self.folder / self.manifest.files[file].path, os.O_RDONLY)
            return self._open[file]


def open_whole(model: InstalledModel) -> WholeModel:
    """Reads all of a model whose pieces' hashes are not kept yet, or are older than its files. Raises ModelDamaged."""
    try:
        known = {} if _is_newer_than_hashes(model) else read_pieces(model.folder, model.manifest)
        found: list[bytes] = []
        for entry in model.manifest.files:
            path = model.folder / entry.path
            if entry.path in known:
                if path.stat().st_size != entry.size:
                    raise ModelDamaged(f"{path} was altered after it was added")
                found.append(b"".join(known[entry.path]))
                continue
            with open_plain(path, model.folder) as file:
                hashed = hash_file(file)
            if hashed.digest != entry.digest:
                raise ModelDamaged(f"{path} was altered after it was added")
            found.append(hashed.joined)
        if len(known) < len(found):
            pairs = zip(model.manifest.files, found, strict=True)
            write_pieces(model.folder, model.manifest, {entry.path: joined for entry, joined in pairs})
    except OSError as error:
        raise ModelDamaged(f"{model.folder}: {error.strerror or error}") from error
    return WholeModel(model, found)


def _is_newer_than_hashes(model: InstalledModel) -> bool:
    """Whether somebody wrote to a file since. Raises OSError for a file that is gone."""
    try:
        hashed_at = (model.folder / PIECES_NAME).stat().st_mtime_ns
    except FileNotFoundError:
        return True
    return any((model.folder / entry.path).stat().st_mtime_ns > hashed_at for entry in model.manifest.files)
