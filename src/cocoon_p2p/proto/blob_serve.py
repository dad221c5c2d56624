"""blob/1, the holding end: what fetchers are answered, and whose turn it is. One machine for all streams of a node."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.limits import (
    BLOB_HAVE_INTERVAL_S,
    BLOB_MANIFESTS_PER_STREAM_MAX,
    BLOB_PIECES_LISTED_MAX,
    BLOB_REQUESTS_MAX,
    BLOB_SLOT_IDLE_S,
    BLOB_STREAMS_MAX,
    BLOB_STREAMS_PER_PEER_MAX,
    BLOB_TURN_S,
)
from cocoon_p2p.proto.blob_effects import Changed, Found, SendPieces, ServeEffect, Tell, TellHashes
from cocoon_p2p.wire.blob import (
    BlobMessage,
    Cancel,
    Choke,
    Fetching,
    GetHashes,
    GetManifest,
    GetPiece,
    Have,
    Manifest,
    NoBlob,
    NoBlobReason,
    NoPiece,
    Open,
    Status,
)
from cocoon_p2p.wire.blob_layout import BlobLayout, encode_list


class Holding(Protocol):
    """A model that others may fetch here, whole or in part."""

    @property
    def layout(self) -> BlobLayout: ...

    @property
    def manifest(self) -> bytes:
        """Canonical."""

    @property
    def have(self) -> int:
        """The set of pieces that are here, verified."""

    @property
    def fetching(self) -> int:
        """Those that are being fetched from outside of the local network."""


@dataclass(slots=True)
class _Session:
    """One fetcher's stream."""

    peer: PeerId
    local: bool
    model_id: ModelId | None = None
    holding: Holding | None = None
    manifests: int = 0
    choked: bool = True
    since: float = -inf
    """When it was given its place."""
    asked_at: float = -inf
    queue: OrderedDict[int, None] = field(default_factory=OrderedDict)
    sending: set[int] = field(default_factory=set)
    news: list[int] = field(default_factory=list)
    """Pieces that it will be told of."""
    news_at: float = inf


class BlobServe:
    """`holding_of` gives what is here and may be shared. `uploads_max`: fetchers outside of the local network that are sent
    pieces at the same time. Sessions go by numbers of the caller's choosing."""

    def __init__(self, holding_of: Callable[[ModelId], Holding | None], *, uploads_max: int) -> None:
        self._holding_of = holding_of
        self._uploads_max = uploads_max
        self._sessions: dict[int, _Session] = {}
        self._served: OrderedDict[int, None] = OrderedDict()
        """Those with a place, the one that got it first in front."""
        self._waiting: OrderedDict[int, None] = OrderedDict()

    # --- sessions ---

    def opened(self, session: int, peer: PeerId, *, local: bool) -> None:
        """A stream is here."""
        self._sessions[session] = _Session(peer, local)

    def closed(self, session: int, now: float) -> list[ServeEffect]:
        """It is over."""
        self._sessions.pop(session, None)
        self._served.pop(session, None)
        self._waiting.pop(session, None)
        return self._give_places(now)

    def uploads(self) -> int:
        """Fetchers that have a place."""
        return len(self._served)

    # --- messages ---

    def handle(self, session: int, message: BlobMessage, now: float) -> list[ServeEffect]:
        """Raises RemoteProtocolError."""
        known = self._sessions[session]
        match message:
            case GetManifest(model_id):
                return self._manifest(session, known, model_id)
            case Open():
                return self._open(session, known, message, now)
        holding = known.holding
        if holding is None:
            raise RemoteProtocolError(f"{type(message).__name__} before OPEN", code="UNEXPECTED")
        match message:
            case GetHashes(file, first, count):
                counts = holding.layout.counts
                if file >= len(counts) or first + count > counts[file]:
                    raise RemoteProtocolError(f"file {file} does not have these pieces", code="MALFORMED")
                return [TellHashes(session, file, first, count)]
            case GetPiece(piece):
                return self._ask(session, known, holding, piece, now)
            case Cancel(piece):
                if piece in known.queue:
                    del known.queue[piece]
                    return [Tell(session, NoPiece(piece))]
                return []
        raise RemoteProtocolError(f"{type(message).__name__} is for a holder to say", code="UNEXPECTED")

    def _manifest(self, session: int, known: _Session, model_id: ModelId) -> list[ServeEffect]:
        # SPEC blob/1 §4.2
        known.manifests += 1
        if known.manifests > BLOB_MANIFESTS_PER_STREAM_MAX:
            raise RemoteProtocolError("asks for manifests too often", code="FLOOD")
        holding = self._holding_of(model_id)
        return [Tell(session, NoBlob(NoBlobReason.NOT_HERE) if holding is None else Manifest(holding.manifest))]

    def _open(self, session: int, known: _Session, message: Open, now: float) -> list[ServeEffect]:
        # SPEC blob/1 §4.3
        if known.holding is not None:
            raise RemoteProtocolError("a second OPEN", code="UNEXPECTED")
        holding = self._holding_of(message.model_id)
        if holding is None:
            return [Tell(session, NoBlob(NoBlobReason.NOT_HERE))]
        if len(self._sessions) > BLOB_STREAMS_MAX or self._streams_of(known.peer) > BLOB_STREAMS_PER_PEER_MAX:
            return [Tell(session, NoBlob(NoBlobReason.FULL))]
        known.holding, known.model_id = holding, message.model_id
        known.choked = not known.local and len(self._served) >= self._uploads_max
        if known.choked:
            self._waiting[session] = None
        elif not known.local:
            self._take_place(session, known, now)
        fetching = holding.layout.encode_set(holding.fetching) if known.local and holding.fetching else b""
        effects: list[ServeEffect] = [
            Tell(session, Status(holding.layout.encode_set(holding.have), fetching, known.choked))
        ]
        if message.shares:
            effects.append(Found(session))
        return effects

    def _streams_of(self, peer: PeerId) -> int:
        return sum(each.peer == peer for each in self._sessions.values())

    def _ask(self, session: int, known: _Session, holding: Holding, piece: int, now: float) -> list[ServeEffect]:
        # SPEC blob/1 §4.8
        if piece >= holding.layout.pieces:
            raise RemoteProtocolError(f"there is no piece {piece}", code="MALFORMED")
        if piece in known.queue or piece in known.sending:
            raise RemoteProtocolError(f"piece {piece} was asked for already", code="UNEXPECTED")
        if len(known.queue) + len(known.sending) >= BLOB_REQUESTS_MAX:
            raise RemoteProtocolError("asks for more pieces than it takes", code="FLOOD")
        known.asked_at = now
        if known.choked or not holding.have >> piece & 1:
            return [Tell(session, NoPiece(piece))]
        known.queue[piece] = None
        return [SendPieces(session)]

    # --- sending ---

    def next_piece(self, session: int) -> int | None:
        """What is to be sent next; it is the caller's from here on, until `sent`."""
        known = self._sessions.get(session)
        if known is None or not known.queue:
            return None
        piece, _ = known.queue.popitem(last=False)
        known.sending.add(piece)
        return piece

    def sent(self, session: int, piece: int, now: float) -> None:
        """Or answered with NO_PIECE."""
        known = self._sessions.get(session)
        if known is not None:
            known.sending.discard(piece)
            known.asked_at = now

    # --- what changes here ---

    def changed(self, model_id: ModelId, change: Changed, now: float) -> list[ServeEffect]:
        """Pieces came, or are being fetched."""
        effects: list[ServeEffect] = []
        for session, known in self._sessions.items():
            if known.model_id != model_id:
                continue
            if known.local:
                # SPEC blob/1 §4.11
                effects += [Tell(session, Have(listed)) for listed in _lists(change.have)]
                effects += [Tell(session, Fetching(listed, b"")) for listed in _lists(change.begun)]
                effects += [Tell(session, Fetching(b"", listed)) for listed in _lists(change.ended)]
            elif change.have:
                known.news += change.have
                known.news_at = min(known.news_at, now + BLOB_HAVE_INTERVAL_S)
        return effects

    def replaced(self, model_id: ModelId) -> None:
        """What is here of it is another object from now on: it is whole, and no half of it any more."""
        for known in self._sessions.values():
            if known.model_id == model_id:
                known.holding = self._holding_of(model_id) or known.holding

    def removed(self, model_id: ModelId, now: float) -> list[ServeEffect]:
        """It is not here, or not to be shared any more."""
        # SPEC blob/1 §4.5
        effects: list[ServeEffect] = []
        for session, known in self._sessions.items():
            if known.model_id == model_id:
                effects += [Tell(session, NoPiece(piece)) for piece in known.queue]
                effects.append(Tell(session, NoBlob(NoBlobReason.NOT_HERE)))
                known.queue.clear()
                known.holding = known.model_id = None
                self._served.pop(session, None)
                self._waiting.pop(session, None)
        return effects + self._give_places(now)

    # --- time and turns ---

    def handle_timer(self, now: float) -> list[ServeEffect]:
        effects: list[ServeEffect] = []
        for session, known in self._sessions.items():
            if known.news_at <= now:
                # SPEC blob/1 §4.10
                effects += [Tell(session, Have(listed)) for listed in _lists(known.news)]
                known.news, known.news_at = [], inf
        return effects + self._give_places(now)

    def next_deadline(self) -> float | None:
        deadlines = [known.news_at for known in self._sessions.values() if known.news_at < inf]
        if self._waiting:
            deadlines += [self._turn_ends(self._sessions[session]) for session in self._served]
        return min(deadlines, default=None)

    def _turn_ends(self, known: _Session) -> float:
        idle_at = inf if known.queue or known.sending else max(known.asked_at, known.since) + BLOB_SLOT_IDLE_S
        return min(known.since + BLOB_TURN_S, idle_at)

    def _give_places(self, now: float) -> list[ServeEffect]:
        """Who waits gets the places of those who need theirs no more, or had them for long."""
        effects: list[ServeEffect] = []
        for session in list(self._served):
            free = self._uploads_max - len(self._served)
            known = self._sessions[session]
            if len(self._waiting) > free and self._turn_ends(known) <= now:
                effects += self._choke(session, known)
        while self._waiting and len(self._served) < self._uploads_max:
            session, _ = self._waiting.popitem(last=False)
            self._take_place(session, self._sessions[session], now)
            effects.append(Tell(session, Choke(False)))
        return effects

    def _take_place(self, session: int, known: _Session, now: float) -> None:
        known.choked, known.since = False, now
        self._served[session] = None

    def _choke(self, session: int, known: _Session) -> list[ServeEffect]:
        # SPEC blob/1 §4.12
        effects: list[ServeEffect] = [Tell(session, NoPiece(piece)) for piece in known.queue]
        known.queue.clear()
        known.choked = True
        del self._served[session]
        self._waiting[session] = None
        return [*effects, Tell(session, Choke(True))]


def _lists(pieces: Iterable[int]) -> list[bytes]:
    given = list(pieces)
    return [encode_list(given[at : at + BLOB_PIECES_LISTED_MAX]) for at in range(0, len(given), BLOB_PIECES_LISTED_MAX)]
