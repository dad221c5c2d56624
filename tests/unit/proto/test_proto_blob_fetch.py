"""The fetching machine alone: whom it asks for what, with a number for a clock."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import ModelId, PeerId, peer_id_from_public_key
from cocoon_p2p.limits import BLOB_GIVE_UP_ALONE_S, BLOB_GIVE_UP_S, BLOB_STALL_S, BLOB_STATUS_TIMEOUT_S
from cocoon_p2p.policy.bandwidth import Bandwidth
from cocoon_p2p.proto.blob_effects import Ask, CheckHashes, CheckPiece, Done, FetchEffect, Leave
from cocoon_p2p.proto.blob_fetch import TICK_S, BlobFetch, FetchFacts
from cocoon_p2p.wire.blob import (
    Cancel,
    Choke,
    GetHashes,
    GetPiece,
    Hashes,
    Have,
    NoHashes,
    NoPiece,
    Open,
    Piece,
    Status,
)
from cocoon_p2p.wire.blob_layout import BlobLayout, encode_list

MIB = 1 << 20
MODEL = ModelId("ab" * 32)
OWN, A, B, C = (PeerId(peer_id_from_public_key(bytes([i]) * 32)) for i in range(1, 5))
OPEN = Open(MODEL, True)


def machine(sizes: Sequence[int], *, per_s: float = 0, hashed: Sequence[int] = (), seed: int = 0) -> BlobFetch:
    facts = FetchFacts(OPEN, OWN, 0, hashed)
    return BlobFetch(BlobLayout(sizes), facts, rng=random.Random(seed), bandwidth=Bandwidth(per_s))


def join(
    fetch: BlobFetch, peer: PeerId, now: float, *, local: bool = False, have: int | None = None
) -> list[FetchEffect]:
    """Its STATUS is here; what it is asked then."""
    assert fetch.joined(peer, now, local=local) == [Ask(peer, OPEN)]
    held = fetch.layout.full if have is None else have
    return fetch.handle(peer, Status(fetch.layout.encode_set(held), b"", False), now)


def asked(effects: Sequence[FetchEffect], peer: PeerId) -> list[int]:
    return [
        each.message.piece
        for each in effects
        if isinstance(each, Ask) and each.peer == peer and isinstance(each.message, GetPiece)
    ]


def give(fetch: BlobFetch, peer: PeerId, piece: int, now: float, *, ok: bool = True) -> list[FetchEffect]:
    size = fetch.layout.size(piece)
    effects = fetch.handle(peer, Piece(piece, bytes(size)), now)
    assert any(isinstance(each, CheckPiece) for each in effects)
    return effects + fetch.piece_checked(peer, piece, ok, now)


def test_all_pieces_are_fetched_and_each_once() -> None:
    fetch = machine([5] * 50)
    waiting = {A: asked(join(fetch, A, 0.0), A)}
    effects = join(fetch, B, 0.0)
    waiting[B] = asked(effects, B)
    now, got = 0.0, []
    done: list[FetchEffect] = []
    while any(waiting.values()):
        for peer in (A, B):
            if waiting[peer]:
                now += 0.01
                piece = waiting[peer].pop(0)
                got.append(piece)
                effects = give(fetch, peer, piece, now)
                done += effects
                for each in (A, B):
                    waiting[each] += asked(effects, each)
    assert sorted(got) == list(range(50))
    assert done[-2:].count(Done()) == 1 and fetch.have == fetch.layout.full
    assert fetch.next_deadline(now) is None


def test_the_rarest_come_first() -> None:
    fetch = machine([5] * 8)
    join(fetch, A, 0.0, have=0b0000_1111)
    fetch.handle(A, Choke(True), 0.0)  # it counts, and gives nothing
    first = asked(join(fetch, B, 0.0, have=0xFF), B)
    assert set(first) == {4, 5, 6, 7}


def test_hashes_come_before_the_pieces_of_a_large_file_and_from_one_holder() -> None:
    fetch = machine([3 * MIB, 7])
    effects = join(fetch, A, 0.0)
    assert Ask(A, GetHashes(0, 0, 3)) in effects and asked(effects, A) == [3]
    with pytest.raises(RemoteProtocolError, match="other hashes"):
        fetch.handle(A, Hashes(0, 0, bytes(64)), 0.0)
    effects = fetch.handle(A, Hashes(0, 0, bytes(96)), 0.0)
    assert effects == [CheckHashes(A, 0, bytes(96))]
    assert sorted(asked(fetch.hashes_checked(A, 0, True, 0.0), A)) == [0, 1, 2]


def test_who_gives_wrong_hashes_is_left_and_another_is_asked() -> None:
    fetch = machine([3 * MIB])
    join(fetch, A, 0.0)
    join(fetch, B, 0.0)
    fetch.handle(A, Hashes(0, 0, bytes(96)), 0.0) if asked_hashes(fetch, A) else fetch.handle(
        B, Hashes(0, 0, bytes(96)), 0.0
    )
    first = (
        A
        if A in {source.peer for source in fetch.sources() if source.hash_requests == 0} and not asked_hashes(fetch, B)
        else B
    )
    effects = fetch.hashes_checked(first, 0, False, 0.0)
    assert any(isinstance(each, Leave) and each.fault == "PIECE" for each in effects)
    assert any(isinstance(each, Ask) and isinstance(each.message, GetHashes) for each in effects)


def asked_hashes(fetch: BlobFetch, peer: PeerId) -> bool:
    return any(source.peer == peer and source.hash_requests for source in fetch.sources())


def test_a_holder_without_hashes_is_not_asked_again() -> None:
    fetch = machine([2 * MIB])
    join(fetch, A, 0.0)
    assert fetch.handle(A, NoHashes(0), 0.0) == []
    assert fetch.handle_timer(100.0) == []
    assert Ask(B, GetHashes(0, 0, 2)) in join(fetch, B, 100.0)


def test_a_wrong_piece_is_fetched_elsewhere() -> None:
    fetch = machine([5])
    assert asked(join(fetch, A, 0.0), A) == [0]
    join(fetch, B, 0.0)
    effects = give(fetch, A, 0, 0.1, ok=False)
    assert Leave(A, "PIECE", "piece 0 is not the model's") in effects
    assert asked(effects, B) == [0]


@pytest.mark.parametrize(
    "message",
    [Piece(3, b"12345"), Piece(0, b"1234"), NoPiece(3), Have(b"\x00\x00\x00\x09"), Status(b"\x01", b"", False)],
)
def test_what_breaks_the_rules(message: Piece | NoPiece | Have | Status) -> None:
    fetch = machine([5, 5])
    join(fetch, A, 0.0)
    with pytest.raises(RemoteProtocolError):
        fetch.handle(A, message, 0.0)


def test_a_bitfield_of_another_model_breaks_the_rules() -> None:
    fetch = machine([5] * 9)
    fetch.joined(A, 0.0, local=False)
    for bad in (b"\x01", b"\xff\xff", bytes(3)):
        with pytest.raises(RemoteProtocolError):
            fetch.handle(A, Status(bad, b"", False), 0.0)


def test_a_piece_that_does_not_come_is_asked_of_another() -> None:
    fetch = machine([5] * 3)
    slow = asked(join(fetch, A, 0.0, have=0b111), A)
    assert sorted(slow) == [0, 1, 2]
    assert asked(join(fetch, B, 0.0), B) == []  # all is asked for
    now = 0.0
    while not (late := asked(fetch.handle_timer(now), B)):
        now += TICK_S
    assert now < BLOB_STALL_S
    effects = give(fetch, B, late[0], now)
    assert Ask(A, Cancel(late[0])) in effects
    assert fetch.handle(A, NoPiece(late[0]), now) == []
    # It comes all the same: nobody is to blame, and it counts once.
    fetch.handle(A, Piece(slow[1] if slow[0] == late[0] else slow[0], b"12345"), now)


@pytest.mark.parametrize("alone", [True, False])
def test_who_sends_nothing_is_left_in_the_end(alone: bool) -> None:
    """What only it has is waited for longer."""
    fetch = machine([5] * 3)
    join(fetch, A, 0.0)
    if not alone:
        join(fetch, B, 0.0)
    now, left = 0.0, False
    while not left and now < 1000:
        deadline = fetch.next_deadline(now)
        assert deadline is not None
        now = max(deadline, now + 0.001)
        effects = fetch.handle_timer(now)
        left = any(isinstance(each, Leave) and each.peer == A for each in effects)
    give_up_s = BLOB_GIVE_UP_ALONE_S if alone else BLOB_GIVE_UP_S
    assert give_up_s <= now <= give_up_s + 2 * BLOB_STALL_S


def test_who_does_not_answer_is_left() -> None:
    fetch = machine([5])
    fetch.joined(A, 0.0, local=False)
    assert fetch.next_deadline(0.0) == BLOB_STATUS_TIMEOUT_S
    assert any(isinstance(each, Leave) for each in fetch.handle_timer(BLOB_STATUS_TIMEOUT_S))
    assert fetch.sources() == [] or not list(fetch.sources())


def test_what_a_local_peer_has_is_not_asked_for_outside() -> None:
    fetch = machine([5] * 10)
    fetch.expect_local([B], 0.0)
    assert asked(join(fetch, A, 0.0), A) == []  # B may have it
    effects = join(fetch, B, 0.1, local=True, have=0b11_1110_0000)
    assert set(asked(effects, B)) <= {5, 6, 7, 8, 9}
    ours = asked(effects, A)
    assert ours and set(ours) <= {0, 1, 2, 3, 4}
    # Of those that neither has each fetches its half.
    order = sorted([OWN, B], key=lambda peer: peer)
    assert {piece % 2 for piece in ours} == {order.index(OWN)} or len({piece % 2 for piece in ours}) == 1


def test_bandwidth_is_for_what_comes_from_outside() -> None:
    fetch = machine([1000] * 20, per_s=2000.0)
    assert len(asked(join(fetch, A, 0.0), A)) == 2
    assert fetch.next_deadline(0.0) is not None
    assert len(asked(join(fetch, B, 0.0, local=True, have=0), B)) == 0
    assert asked(fetch.handle(B, Have(encode_list(range(10, 20))), 0.0), B)


def test_a_choked_fetcher_waits() -> None:
    fetch = machine([5] * 4)
    first = asked(join(fetch, A, 0.0), A)
    fetch.handle(A, Choke(True), 0.0)
    assert asked(fetch.handle_timer(1.0), A) == []
    # What was on its way still comes.
    fetch.handle(A, Piece(first[0], b"12345"), 1.0)
    for piece in first[1:]:
        fetch.handle(A, NoPiece(piece), 1.0)
    assert set(asked(fetch.handle(A, Choke(False), 2.0), A)) == set(first[1:])
