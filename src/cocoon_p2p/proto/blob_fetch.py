"""blob/1, the fetching end: which piece is asked of whom. One machine for one model and all holders (protocols/blob/1).

Sets of pieces are ints (wire/blob_layout.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId, peer_id_to_bytes
from cocoon_p2p.limits import (
    BLOB_GIVE_UP_ALONE_S,
    BLOB_GIVE_UP_S,
    BLOB_IN_FLIGHT_MAX,
    BLOB_LOCAL_ANSWER_S,
    BLOB_LOCAL_PATIENCE_S,
    BLOB_STALL_S,
    BLOB_STATUS_TIMEOUT_S,
)
from cocoon_p2p.policy.bandwidth import Bandwidth
from cocoon_p2p.policy.local_group import share_of
from cocoon_p2p.policy.rarest import Rarity
from cocoon_p2p.policy.selection import Random
from cocoon_p2p.proto.blob_effects import Ask, Changed, CheckPiece, Done, FetchEffect, Leave
from cocoon_p2p.proto.blob_hashes import HashCollector
from cocoon_p2p.proto.blob_source import Source
from cocoon_p2p.wire.blob import (
    Answer,
    Cancel,
    Choke,
    Fetching,
    GetPiece,
    Hashes,
    Have,
    Manifest,
    NoBlob,
    NoHashes,
    NoPiece,
    Open,
    Piece,
    Status,
)
from cocoon_p2p.wire.blob_layout import BlobLayout, numbers_of

TICK_S = 0.25
"""How often it is looked whether a piece is late at the end, when others have nothing to do."""
_COPIES_MAX = 2
_STAGES_MAX = 3


@dataclass(frozen=True, slots=True)
class FetchFacts:
    """What stands at the beginning."""

    model: Open
    """What every holder is told."""
    own: PeerId
    have: int = 0
    """Pieces that are here already."""
    hashed: Collection[int] = ()
    """Files whose hashes are."""


class BlobFetch:
    """Every method that takes the time returns what is to be done. `bandwidth` is for what comes from outside of the local
    network."""

    def __init__(self, layout: BlobLayout, facts: FetchFacts, *, rng: Random, bandwidth: Bandwidth) -> None:
        self.layout = layout
        self.have = facts.have
        self.fetching = 0
        """Pieces that are asked for outside of the local network."""
        self.local_bytes = 0
        self.outside_bytes = 0
        """Verified, from where."""
        self._facts = facts
        self._own = peer_id_to_bytes(facts.own)
        self._rng = rng
        self._bandwidth = bandwidth
        self._hashes = HashCollector(layout, facts.hashed)
        self._sources: dict[PeerId, Source] = {}
        self._rarity = Rarity(layout.pieces)
        self._checking = 0
        self._asked = 0
        self._flight: dict[int, list[PeerId]] = {}
        """Whom each piece that is asked for is asked of."""
        self._awaited: set[PeerId] = set()
        """On the local network, and asked whether they have it."""
        self._awaited_until = 0.0
        self._openers: dict[PeerId, float] = {}
        """Others on the local network that fetch it, too, and whose STATUS is not here, and until when they are counted."""
        self._idle_since: float | None = None
        """Since when nothing of our share of the local network's work is left."""
        self._news: tuple[list[int], list[int], list[int]] = ([], [], [])
        self._look_at: float | None = None
        """When it is looked again whether somebody may be asked for something."""
        self._over = self.have == layout.full

    # --- holders come and go ---

    def sources(self) -> Collection[Source]:
        """Holders that a stream is open to."""
        return self._sources.values()

    def is_supplied(self) -> bool:
        """Whether anybody has, or is getting, something of what is missing."""
        missing = self.layout.full & ~self.have
        return any(missing & (source.have | source.fetching) for source in self._sources.values())

    def expect_local(self, peers: Iterable[PeerId], now: float) -> None:
        """Before the first outside is asked for a piece these may say what they have."""
        # SPEC blob/1 §6
        self._awaited |= set(peers)
        self._awaited_until = now + BLOB_LOCAL_ANSWER_S

    def opened_by(self, peer: PeerId, now: float) -> None:
        """One on the local network fetches it from us, and shares what it gets."""
        if peer not in self._sources:
            self._openers[peer] = now + BLOB_LOCAL_ANSWER_S

    def joined(self, peer: PeerId, now: float, *, local: bool) -> list[FetchEffect]:
        """A stream to it is open."""
        start = int(self._rng.random() * self.layout.pieces)
        self._sources[peer] = Source(peer, local, start, now)
        return [Ask(peer, self._facts.model)]

    def left(self, peer: PeerId, now: float) -> list[FetchEffect]:
        """Its stream is over, or could not be had."""
        self._forget(peer)
        return self._proceed(now)

    def _forget(self, peer: PeerId) -> None:
        self._awaited.discard(peer)
        self._openers.pop(peer, None)
        source = self._sources.get(peer)
        if source is not None:
            self._rarity.remove(source.have)
            self._hashes.left(peer)
            for piece in list(source.requests):
                self._release(piece, peer)
            del self._sources[peer]

    def _leave(self, peer: PeerId, why: str, *, fault: str = "") -> FetchEffect:
        """From here on it is as if it had never been there."""
        self._forget(peer)
        return Leave(peer, fault, why)

    # --- messages ---

    def handle(self, peer: PeerId, message: Answer, now: float) -> list[FetchEffect]:
        """Raises RemoteProtocolError: the peer broke a rule, and is to be left."""
        source = self._sources.get(peer)
        if source is None:
            return []
        if isinstance(message, NoBlob):
            return [self._leave(peer, "it does not have it, or not for us now"), *self._proceed(now)]
        if isinstance(message, Manifest) or source.answered == isinstance(message, Status):
            raise RemoteProtocolError(f"{type(message).__name__} was not asked for", code="UNEXPECTED")
        effects = self._take(source, message, now)
        return effects + self._proceed(now)

    def _take(self, source: Source, message: Answer, now: float) -> list[FetchEffect]:
        match message:
            case Status():
                self._take_status(source, message, now)
            case Piece(piece, data):
                return self._take_piece(source, piece, CheckPiece(source.peer, piece, data), now)
            case NoPiece(piece):
                self._take_no_piece(source, piece)
            case Have(listed):
                self._take_have(source, self.layout.decode_list(listed), now)
            case Fetching(begun, ended):
                if source.local:
                    source.fetching |= _set_of(self.layout.decode_list(begun)) & ~source.have
                    source.fetching &= ~_set_of(self.layout.decode_list(ended))
            case Choke(choked):
                source.choked = choked
                if choked:  # what it has begun to send still comes
                    for piece in list(source.requests):
                        self._release(piece, source.peer)
                        source.cancelled.add(piece)
            case Hashes():
                return self._hashes.take(source, message, now)
            case NoHashes(file):
                self._hashes.refused(source, file)
        return []

    def _take_status(self, source: Source, status: Status, now: float) -> None:
        # SPEC blob/1 §4.4
        source.have = self.layout.decode_set(status.have)
        source.fetching = self.layout.decode_set(status.fetching) & ~source.have if status.fetching else 0
        source.choked, source.answered, source.news_at = status.choked, True, now
        self._rarity.add(source.have)
        self._awaited.discard(source.peer)
        self._openers.pop(source.peer, None)

    def _take_have(self, source: Source, pieces: list[int], now: float) -> None:
        new = _set_of(pieces) & ~source.have
        if new:
            source.have |= new
            source.fetching &= ~new
            source.news_at = now
            self._rarity.add(new)

    def _take_piece(self, source: Source, piece: int, check: CheckPiece, now: float) -> list[FetchEffect]:
        # SPEC blob/1 §4.9
        if piece not in source.requests and piece not in source.cancelled:
            raise RemoteProtocolError(f"piece {piece} was not asked for", code="UNEXPECTED")
        if len(check.data) != self.layout.size(piece):
            raise RemoteProtocolError(f"piece {piece} has {len(check.data)} bytes", code="MALFORMED")
        self._release(piece, source.peer, told=False)
        source.came(piece, now)
        if (self.have | self._checking) >> piece & 1:
            return []
        self._checking |= 1 << piece
        return [check]

    def _take_no_piece(self, source: Source, piece: int) -> None:
        if piece in source.cancelled:
            source.cancelled.discard(piece)
            return
        if piece not in source.requests:
            raise RemoteProtocolError(f"piece {piece} was not asked for", code="UNEXPECTED")
        self._release(piece, source.peer)
        if not source.choked:
            self._rarity.remove(source.have & 1 << piece)
            source.have &= ~(1 << piece)

    # --- what was checked ---

    def hashes_checked(self, peer: PeerId, file: int, ok: bool, now: float) -> list[FetchEffect]:
        # SPEC blob/1 §4.7
        self._hashes.checked(file, ok)
        if not ok:
            left = self._leave(peer, f"hashes of file {file} that are not the model's", fault="PIECE")
            return [left, *self._proceed(now)]
        return self._proceed(now)

    def piece_checked(self, peer: PeerId, piece: int, ok: bool, now: float) -> list[FetchEffect]:
        # SPEC blob/1 §4.9
        self._checking &= ~(1 << piece)
        if not ok:
            if self.fetching >> piece & 1 and piece not in self._flight:
                self._end_fetching(piece)
            return [self._leave(peer, f"piece {piece} is not the model's", fault="PIECE"), *self._proceed(now)]
        self.have |= 1 << piece
        self.fetching &= ~(1 << piece)
        self._news[0].append(piece)
        source = self._sources.get(peer)
        if source is not None and source.local:
            self.local_bytes += self.layout.size(piece)
        else:
            self.outside_bytes += self.layout.size(piece)
        cancelled = self._cancel(piece, self._flight.get(piece, ()))
        return cancelled + self._proceed(now)

    # --- time ---

    def handle_timer(self, now: float) -> list[FetchEffect]:
        """Pieces and answers that do not come."""
        effects: list[FetchEffect] = []
        self._openers = {peer: until for peer, until in self._openers.items() if until > now}
        self._hashes.expire(self._sources.values(), now)
        for source in list(self._sources.values()):
            waits = source.waits_since()
            if not source.answered and now >= source.joined_at + BLOB_STATUS_TIMEOUT_S:
                effects.append(self._leave(source.peer, "it does not answer"))
            elif source.stalled_at is not None and now >= self._given_up_at(source, source.stalled_at):
                effects.append(self._leave(source.peer, "it sends nothing"))
            elif source.stalled_at is None and waits is not None and now >= waits + BLOB_STALL_S:
                source.stalled_at = now
                for piece in list(source.requests):
                    if self._has_another(piece, source):
                        effects += self._cancel(piece, [source.peer])
        return effects + self._proceed(now)

    def _has_another(self, piece: int, but: Source) -> bool:
        """Whether somebody else would send it: what only a slow holder has is waited for."""
        return any(
            other is not but and other.stalled_at is None and not other.choked and other.have >> piece & 1
            for other in self._sources.values()
        )

    def _given_up_at(self, source: Source, stalled_at: float) -> float:
        return stalled_at + (BLOB_GIVE_UP_ALONE_S if source.requests else BLOB_GIVE_UP_S)

    def next_deadline(self, now: float) -> float | None:
        """When `handle_timer` is to be called, if nothing happens before."""
        if self._over:
            return None
        deadlines = [*self._openers.values(), *self._hashes.deadlines()]
        for source in self._sources.values():
            waits = source.waits_since()
            if not source.answered:
                deadlines.append(source.joined_at + BLOB_STATUS_TIMEOUT_S)
            elif source.stalled_at is not None:
                deadlines.append(self._given_up_at(source, source.stalled_at))
            elif waits is not None:
                deadlines.append(waits + BLOB_STALL_S)
        if self._awaited and self._awaited_until > now:
            deadlines.append(self._awaited_until)
        if self._look_at is not None:
            deadlines.append(self._look_at)
        return min(deadlines, default=None)

    # --- asking ---

    def _proceed(self, now: float) -> list[FetchEffect]:
        """Ask for whatever can be asked for now."""
        effects: list[FetchEffect] = list(self._hashes.ask(self._sources.values(), self._rng, now))
        if not self._over:
            if self.have == self.layout.full:
                self._over = True
                effects.append(Done())
            else:
                effects += self._fill(now)
                self._look_at = self._next_look(now)
        if any(self._news):
            have, begun, ended = self._news
            self._news = ([], [], [])
            effects.append(Changed(tuple(have), tuple(begun), tuple(ended)))
        return effects

    def _next_look(self, now: float) -> float | None:
        """Something hinders those who could send: the bandwidth, the local network's turn, or another that is late."""
        if not any(source.has_room for source in self._sources.values()):
            return None
        return now + TICK_S if self._bandwidth.allows(now) else self._bandwidth.ready_at(now)

    def _fill(self, now: float) -> list[FetchEffect]:
        effects: list[FetchEffect] = []
        free = self._hashes.pieces & ~self.have & ~self._checking & ~self._asked
        ready = [source for source in self._sources.values() if source.has_room]
        local = sorted((source for source in ready if source.local), key=_busyness)
        for source in local:
            free = self._ask_all(source, free, free, now, effects)
        if len(ready) > len(local) and not (self._awaited and now < self._awaited_until):
            allowed = self._outside_work(free, now)
            for source in sorted((source for source in ready if not source.local), key=_busyness):
                left = self._ask_all(source, free, allowed, now, effects)
                allowed &= left
                free = left
        if not free:
            for source in ready:
                effects += self._ask_late(source, now)
        return effects

    def _ask_all(self, source: Source, free: int, allowed: int, now: float, effects: list[FetchEffect]) -> int:
        """Fill its pipeline out of `allowed`; what is left of `free`."""
        candidates = allowed & source.have & ~_set_of(source.cancelled)
        while candidates and source.has_room and len(self._flight) < BLOB_IN_FLIGHT_MAX:
            if not source.local and not self._bandwidth.allows(now):
                break
            piece = self._rarity.pick(candidates, source.start)
            assert piece is not None
            effects.append(self._ask(source, piece, now))
            free &= ~(1 << piece)
            candidates &= ~(1 << piece)
        return free

    def _ask(self, source: Source, piece: int, now: float) -> FetchEffect:
        source.asked(piece, now)
        self._flight.setdefault(piece, []).append(source.peer)
        self._asked |= 1 << piece
        if not source.local:
            self._bandwidth.spend(now, self.layout.size(piece))
            if not self.fetching >> piece & 1:
                self.fetching |= 1 << piece
                self._news[1].append(piece)
        return Ask(source.peer, GetPiece(piece))

    def _outside_work(self, free: int, now: float) -> int:
        """What of `free` may be asked for outside of the local network."""
        # SPEC blob/1 §6
        near = [source for source in self._sources.values() if source.local and source.answered]
        if not near and not self._openers:
            return free
        members = {peer_id_to_bytes(peer) for peer in self._openers}
        for source in near:
            if source.stalled_at is None and not source.choked:
                free &= ~source.have
            if source.is_lively(now):
                free &= ~source.fetching
                if source.have != self.layout.full:
                    members.add(peer_id_to_bytes(source.peer))
        if not self._facts.model.shares:
            return free  # nobody waits for us
        ours = free & share_of(self._own, members, self.layout.pieces)
        if ours or not free:
            self._idle_since = None
            return ours
        if self._idle_since is None:
            self._idle_since = now
        stage = int((now - self._idle_since) / BLOB_LOCAL_PATIENCE_S)
        if stage > _STAGES_MAX:
            return free
        return free & share_of(self._own, members, self.layout.pieces, stage) if stage else 0

    def _ask_late(self, source: Source, now: float) -> list[FetchEffect]:
        """At the end: ask whoever has nothing to do for what is late to come from another."""
        if not source.has_room or source.requests:
            return []
        for piece, peers in self._flight.items():
            if (
                len(peers) >= _COPIES_MAX
                or source.peer in peers
                or not source.have >> piece & 1
                or piece in source.cancelled
            ):
                continue
            asked = self._sources[peers[0]]
            if (asked.local and not source.local) or not _is_late(asked, piece, source, now):
                continue
            if source.local or self._bandwidth.allows(now):
                return [self._ask(source, piece, now)]
        return []

    # --- giving up ---

    def _cancel(self, piece: int, peers: Iterable[PeerId]) -> list[FetchEffect]:
        effects: list[FetchEffect] = []
        for peer in list(peers):
            self._release(piece, peer)
            self._sources[peer].cancelled.add(piece)
            effects.append(Ask(peer, Cancel(piece)))
        return effects

    def _release(self, piece: int, peer: PeerId, *, told: bool = True) -> None:
        """It is not asked of this peer any more. `told`: the others on the local network hear if it is asked of nobody."""
        source = self._sources.get(peer)
        if source is not None and told:
            source.requests.pop(piece, None)
        peers = self._flight.get(piece)
        if peers is None or peer not in peers:
            return
        peers.remove(peer)
        if not peers:
            del self._flight[piece]
            self._asked &= ~(1 << piece)
            if told and self.fetching >> piece & 1:
                self._end_fetching(piece)

    def _end_fetching(self, piece: int) -> None:
        self.fetching &= ~(1 << piece)
        self._news[2].append(piece)

    @property
    def in_flight(self) -> list[int]:
        """Pieces that are asked for."""
        return numbers_of(self._asked)


def _is_late(asked: Source, piece: int, other: Source, now: float) -> bool:
    """Whether who is asked for a piece has sent nothing for longer than usual, or will take much longer than the other."""
    since = asked.waits_since()
    silent_s = 0.0 if since is None else now - since
    return silent_s > 2 * asked.usual_s + TICK_S or asked.wait_s(piece) > 4 * (other.usual_s + TICK_S)


def _busyness(source: Source) -> int:
    return len(source.requests)


def _set_of(pieces: Iterable[int]) -> int:
    found = 0
    for piece in pieces:
        found |= 1 << piece
    return found
