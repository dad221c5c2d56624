"""The holding machine alone: what fetchers are answered, and whose turn it is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import ModelId, PeerId, peer_id_from_public_key
from cocoon_p2p.limits import BLOB_HAVE_INTERVAL_S, BLOB_REQUESTS_MAX, BLOB_SLOT_IDLE_S, BLOB_TURN_S
from cocoon_p2p.proto.blob_effects import Changed, Found, SendPieces, Tell, TellHashes
from cocoon_p2p.proto.blob_serve import BlobServe
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

MODEL, OTHER = ModelId("ab" * 32), ModelId("cd" * 32)
PEERS = [PeerId(peer_id_from_public_key(bytes([i]) * 32)) for i in range(1, 30)]


@dataclass
class Held:
    layout: BlobLayout
    have: int
    fetching: int = 0
    manifest: bytes = b"{}"


def serving(*, uploads_max: int = 2, pieces: int = 100, have: int | None = None) -> tuple[BlobServe, Held]:
    layout = BlobLayout([5] * pieces)
    held = Held(layout, layout.full if have is None else have)
    return BlobServe(lambda model_id: held if model_id == MODEL else None, uploads_max=uploads_max), held


def come(machine: BlobServe, session: int, *, local: bool = False, now: float = 0.0) -> Status:
    machine.opened(session, PEERS[session], local=local)
    (told,) = machine.handle(session, Open(MODEL, False), now)
    assert isinstance(told, Tell) and isinstance(told.message, Status)
    return told.message


def test_a_fetcher_is_told_what_is_here_and_given_it() -> None:
    machine, held = serving(have=0b101)
    machine.opened(1, PEERS[1], local=False)
    assert machine.handle(1, GetManifest(MODEL), 0.0) == [Tell(1, Manifest(b"{}"))]
    assert machine.handle(1, GetManifest(OTHER), 0.0) == [Tell(1, NoBlob(NoBlobReason.NOT_HERE))]
    status, found = machine.handle(1, Open(MODEL, True), 0.0)
    assert status == Tell(1, Status(held.layout.encode_set(0b101), b"", False)) and found == Found(1)
    assert machine.handle(1, GetHashes(3, 0, 1), 0.0) == [TellHashes(1, 3, 0, 1)]
    assert machine.handle(1, GetPiece(0), 0.0) == [SendPieces(1)]
    assert machine.handle(1, GetPiece(1), 0.0) == [Tell(1, NoPiece(1))]
    assert machine.handle(1, GetPiece(2), 0.0) == [SendPieces(1)]
    assert machine.next_piece(1) == 0
    assert machine.handle(1, Cancel(0), 0.0) == []  # it is on its way
    assert machine.handle(1, Cancel(2), 0.0) == [Tell(1, NoPiece(2))]
    assert machine.next_piece(1) is None
    machine.sent(1, 0, 0.0)
    assert machine.handle(1, GetPiece(0), 0.0) == [SendPieces(1)]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Open(MODEL, False), "UNEXPECTED"),
        (GetPiece(100), "MALFORMED"),
        (GetPiece(7), "UNEXPECTED"),
        (GetHashes(100, 0, 1), "MALFORMED"),
        (GetHashes(0, 0, 2), "MALFORMED"),
        (NoPiece(1), "UNEXPECTED"),
        (Have(b""), "UNEXPECTED"),
    ],
)
def test_what_breaks_the_rules(message: BlobMessage, code: str) -> None:
    machine, _ = serving()
    come(machine, 1)
    machine.handle(1, GetPiece(7), 0.0)
    with pytest.raises(RemoteProtocolError) as caught:
        machine.handle(1, message, 0.0)
    assert caught.value.code == code


def test_nothing_is_answered_before_the_opening() -> None:
    machine, _ = serving()
    machine.opened(1, PEERS[1], local=False)
    for message in (GetPiece(0), Cancel(0), GetHashes(0, 0, 1)):
        with pytest.raises(RemoteProtocolError):
            machine.handle(1, message, 0.0)
    machine.handle(1, GetManifest(MODEL), 0.0)
    machine.handle(1, GetManifest(MODEL), 0.0)
    with pytest.raises(RemoteProtocolError, match="too often"):
        machine.handle(1, GetManifest(MODEL), 0.0)


def test_too_many_requests_are_a_flood() -> None:
    machine, _ = serving()
    come(machine, 1)
    for piece in range(BLOB_REQUESTS_MAX):
        machine.handle(1, GetPiece(piece), 0.0)
    with pytest.raises(RemoteProtocolError) as caught:
        machine.handle(1, GetPiece(BLOB_REQUESTS_MAX), 0.0)
    assert caught.value.code == "FLOOD"


def test_all_get_their_turn_and_the_local_network_needs_none() -> None:
    machine, _ = serving(uploads_max=1)
    assert not come(machine, 1).choked
    assert come(machine, 2).choked and come(machine, 3).choked
    assert not come(machine, 4, local=True).choked
    machine.handle(1, GetPiece(0), 0.0)
    machine.handle(1, GetPiece(1), 0.0)
    assert machine.next_piece(1) == 0
    assert machine.handle(2, GetPiece(0), 0.0) == [Tell(2, NoPiece(0))]
    deadline = machine.next_deadline()
    assert deadline == BLOB_TURN_S
    effects = machine.handle_timer(deadline)
    assert effects == [Tell(1, NoPiece(1)), Tell(1, Choke(True)), Tell(2, Choke(False))]
    # Who asks for nothing gives his place up sooner.
    assert machine.next_deadline() == deadline + BLOB_SLOT_IDLE_S
    assert Tell(3, Choke(False)) in machine.handle_timer(deadline + BLOB_SLOT_IDLE_S)
    assert Tell(1, Choke(False)) in machine.closed(3, 100.0)
    assert machine.uploads() == 1


def test_news_is_gathered_but_for_the_local_network() -> None:
    machine, _ = serving(have=0)
    come(machine, 1)
    come(machine, 2, local=True)
    first = machine.changed(MODEL, Changed((3,), (4, 5), (6,)), 1.0)
    assert first == [
        Tell(2, Have(encode_list([3]))),
        Tell(2, Fetching(encode_list([4, 5]), b"")),
        Tell(2, Fetching(b"", encode_list([6]))),
    ]
    machine.changed(MODEL, Changed((7,), (), ()), 1.1)
    assert machine.next_deadline() == 1.0 + BLOB_HAVE_INTERVAL_S
    assert machine.handle_timer(1.0 + BLOB_HAVE_INTERVAL_S) == [Tell(1, Have(encode_list([3, 7])))]
    assert machine.next_deadline() is None
    machine.handle_timer(9.0)
    many = tuple(range(100)) * 15
    assert len(machine.changed(MODEL, Changed(many, (), ()), 9.0)) == 2  # a list has its bound


def test_what_was_removed_is_gone() -> None:
    machine, _ = serving()
    come(machine, 1)
    machine.handle(1, GetPiece(0), 0.0)
    assert machine.removed(MODEL, 0.0) == [Tell(1, NoPiece(0)), Tell(1, NoBlob(NoBlobReason.NOT_HERE))]
    assert machine.next_piece(1) is None


def test_one_peer_has_so_many_streams() -> None:
    machine, _ = serving(uploads_max=100)
    answers = []
    for session in range(20):
        machine.opened(session, PEERS[0], local=False)
        answers += machine.handle(session, Open(MODEL, False), 0.0)
    full = [each for each in answers if isinstance(each, Tell) and each.message == NoBlob(NoBlobReason.FULL)]
    assert len(full) == 4
