"""blob/1, the fetching end: the hashes of pieces, each file's from one holder, checked against the file's digest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import BLOB_HASHES_PER_MESSAGE_MAX, BLOB_HASHES_TIMEOUT_S
from cocoon_p2p.policy.selection import Random
from cocoon_p2p.proto.blob_effects import Ask, CheckHashes, FetchEffect
from cocoon_p2p.proto.blob_source import Source
from cocoon_p2p.wire.blob import GetHashes, Hashes
from cocoon_p2p.wire.blob_layout import BlobLayout
from cocoon_p2p.wire.codec import HASH_BYTES

_AT_ONCE_MAX = 8
"""Files that one holder is asked about at the same time."""


@dataclass(slots=True)
class _Request:
    """A file whose hashes one holder is giving us."""

    peer: PeerId
    asked_at: float
    count: int
    """Of the last question."""
    here: bytearray = field(default_factory=bytearray)


class HashCollector:
    """`pieces` is the set of those that can be checked: of files whose hashes are known, and of files of one piece."""

    def __init__(self, layout: BlobLayout, known: Collection[int]) -> None:
        self._layout = layout
        self._missing = [file for file, count in enumerate(layout.counts) if count > 1 and file not in known]
        self._requests: dict[int, _Request] = {}
        self._checking: set[int] = set()
        self.pieces = layout.full
        for file in self._missing:
            self.pieces &= ~layout.of_file(file)

    def ask(self, sources: Collection[Source], rng: Random, now: float) -> Iterator[FetchEffect]:
        """Ask for what is missing, those on the local network first."""
        # SPEC blob/1 §4.6
        for file in self._missing:
            if file in self._requests or file in self._checking:
                continue
            able = [
                source
                for source in sources
                if source.answered and file not in source.without_hashes and source.hash_requests < _AT_ONCE_MAX
            ]
            able = [source for source in able if source.local] or able
            if not able:
                continue
            source = able[int(rng.random() * len(able))]
            source.hash_requests += 1
            self._requests[file] = _Request(source.peer, now, 0)
            yield self._next(file, self._requests[file])

    def _next(self, file: int, request: _Request) -> FetchEffect:
        first = len(request.here) // HASH_BYTES
        request.count = min(self._layout.counts[file] - first, BLOB_HASHES_PER_MESSAGE_MAX)
        return Ask(request.peer, GetHashes(file, first, request.count))

    def take(self, source: Source, message: Hashes, now: float) -> list[FetchEffect]:
        """Raises RemoteProtocolError for what was not asked for."""
        # SPEC blob/1 §4.7
        request = self._requests.get(message.file)
        if request is None or request.peer != source.peer:
            if message.file in source.without_hashes:
                return []  # given up before it came
            raise RemoteProtocolError("hashes that were not asked for", code="UNEXPECTED")
        if message.first != len(request.here) // HASH_BYTES or message.count != request.count:
            raise RemoteProtocolError("other hashes than were asked for", code="UNEXPECTED")
        request.here += message.hashes
        request.asked_at = now
        if len(request.here) // HASH_BYTES < self._layout.counts[message.file]:
            return [self._next(message.file, request)]
        self._end(source, message.file)
        self._checking.add(message.file)
        return [CheckHashes(source.peer, message.file, bytes(request.here))]

    def refused(self, source: Source, file: int) -> None:
        """It does not have them."""
        request = self._requests.get(file)
        if request is not None and request.peer == source.peer:
            self._end(source, file)
        source.without_hashes.add(file)

    def checked(self, file: int, ok: bool) -> None:
        self._checking.discard(file)
        if ok and file in self._missing:
            self._missing.remove(file)
            self.pieces |= self._layout.of_file(file)

    def left(self, peer: PeerId) -> None:
        """Somebody else is asked for what it had not given."""
        self._requests = {file: each for file, each in self._requests.items() if each.peer != peer}

    def expire(self, sources: Iterable[Source], now: float) -> None:
        """Nothing came for long: ask another."""
        by_peer = {source.peer: source for source in sources}
        for file, request in list(self._requests.items()):
            if now >= request.asked_at + BLOB_HASHES_TIMEOUT_S:
                self.refused(by_peer[request.peer], file)

    def deadlines(self) -> list[float]:
        return [request.asked_at + BLOB_HASHES_TIMEOUT_S for request in self._requests.values()]

    def _end(self, source: Source, file: int) -> None:
        del self._requests[file]
        source.hash_requests -= 1
