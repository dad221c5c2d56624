"""The models that others may fetch here: whole ones, and those that are on their way."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from cocoon_p2p.drivers.disk_threads import DiskThreads
from cocoon_p2p.errors import CocoonError, one_line
from cocoon_p2p.ids import ModelId
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.models.whole import WholeModel, open_whole
from cocoon_p2p.wire.blob_layout import BlobLayout

log = logging.getLogger(__name__)

_OPEN_MAX = 16
"""Models that are kept open to be read: their hashes take 32 bytes a megabyte."""


class PieceStore(Protocol):
    """A model's pieces on disk. All but `read_cached` block."""

    def hashes(self, file: int, first: int, count: int) -> bytes | None: ...

    def read_piece(self, piece: int, buffer: memoryview) -> int:
        """Raises OSError."""

    def read_cached(self, piece: int, buffer: memoryview) -> int | None:
        """None where it would block. Raises OSError."""


class Shared(Protocol):
    """`proto.blob_serve.Holding`, and where its pieces are."""

    @property
    def layout(self) -> BlobLayout: ...
    @property
    def manifest(self) -> bytes: ...
    @property
    def have(self) -> int: ...
    @property
    def fetching(self) -> int: ...
    @property
    def store(self) -> PieceStore: ...


@dataclass(frozen=True, slots=True)
class SharedWhole:
    """A model that is here."""

    store: WholeModel
    manifest: bytes

    @property
    def layout(self) -> BlobLayout:
        return self.store.layout

    @property
    def have(self) -> int:
        return self.store.have

    @property
    def fetching(self) -> int:
        return 0


class BlobShelf:
    """`shares` false: nothing is here for anybody."""

    def __init__(self, registry: ModelRegistry, threads: DiskThreads, *, shares: bool) -> None:
        self.shares = shares
        self.arriving: dict[ModelId, Shared] = {}
        """Models that are being fetched."""
        self._registry = registry
        self._threads = threads
        self._whole: OrderedDict[ModelId, SharedWhole] = OrderedDict()

    def holding(self, model_id: ModelId) -> Shared | None:
        """What is here of a model; before, `prepare`."""
        if not self.shares:
            return None
        return self.arriving.get(model_id) or self._whole.get(model_id)

    async def prepare(self, model_id: ModelId) -> None:
        """Look on the disk, and open what is there and may be shared."""
        if not self.shares or model_id in self.arriving:
            return
        known = self._whole.get(model_id)
        if known is not None and await self._threads.run(known.store.folder.is_dir):
            self._whole.move_to_end(model_id)
            return
        self._whole.pop(model_id, None)
        opened = await self._threads.run(self._opened, model_id)
        if opened is not None:
            self._whole[model_id] = opened
            if len(self._whole) > _OPEN_MAX:
                self._whole.popitem(last=False)

    def forget(self, model_id: ModelId) -> None:
        """It was removed, or is not to be shared any more."""
        self._whole.pop(model_id, None)

    def _opened(self, model_id: ModelId) -> SharedWhole | None:
        model = self._registry.find(model_id)
        if model is None or model.model_id != model_id or not model.offer.share:
            return None
        try:
            return SharedWhole(open_whole(model), model.manifest.encode())
        except CocoonError as error:
            log.error("model %s is not shared: %s", model.name, one_line(error))
            return None
