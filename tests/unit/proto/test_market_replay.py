"""A book made again from what was heard."""

from __future__ import annotations

import dataclasses
import random
from contextlib import suppress

import pytest

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import ModelId, Tier
from cocoon_p2p.proto.market import BookOffer, MarketBook
from cocoon_p2p.proto.market_replay import MarketReplay
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.wire.capacity import (
    CAPACITY_DOMAIN,
    Announcement,
    DeviceClass,
    Offer,
    SignedAnnouncement,
    TierPrice,
    Unit,
)
from cocoon_p2p.wire.market_file import FileEntry

NOW_MS = 1_800_000_000_000
OWN = IdentityKey.from_seed(b"o" * 32)
PEERS = [IdentityKey.from_seed(bytes([number]) * 32) for number in range(1, 6)]
OFFER = Offer(
    ModelId("ab" * 32), "echo", Unit.ITEM, (TierPrice(Tier.SEALED, 100, 10),), 64, 10_000, 4, 4, 0, "cpu",
    DeviceClass.CPU, 0, 0,
)  # fmt: skip


def announced(key: IdentityKey, at_ms: int, *, base: int = 100, signer: IdentityKey | None = None) -> bytes:
    offer = dataclasses.replace(OFFER, prices=(TierPrice(Tier.SEALED, base, 10),))
    body = Announcement(key.peer_id, at_ms, at_ms, at_ms + 60_000, ("/memory/1",), "", (0,), "", (offer,)).encode()
    return SignedAnnouncement(body, (signer or key).sign(CAPACITY_DOMAIN, body)).encode()


def listened(rng: random.Random) -> list[tuple[FileEntry, list[BookOffer]]]:
    """Ten minutes of announcements that come late, twice, forged and in the wrong order; after each the node's book."""
    book, now_ms, story = MarketBook(OWN.peer_id), NOW_MS, list[tuple[FileEntry, list[BookOffer]]]()
    made: list[bytes] = []
    while now_ms < NOW_MS + 600_000:
        now_ms += rng.randrange(1, 9_000)
        key = rng.choice([*PEERS, OWN])
        raw = announced(key, now_ms - rng.randrange(70_000), base=rng.randrange(1000))
        if made and rng.random() < 0.3:
            raw = rng.choice(made)
        if rng.random() < 0.1:
            raw = announced(key, now_ms, signer=PEERS[0] if key is not PEERS[0] else OWN)
        made.append(raw)
        book.handle_timer(now=now_ms / 1000)
        with suppress(RemoteProtocolError):
            book.handle_announcement(raw, now=now_ms / 1000)
        story.append((FileEntry(now_ms, raw), book.offers(now=now_ms / 1000)))
    return story


@pytest.mark.parametrize("seed", range(5))
def test_the_replay_is_the_nodes_book_at_every_moment(seed: int) -> None:
    story = listened(random.Random(seed))
    for number in random.Random(seed).sample(range(len(story)), 15):
        replay = MarketReplay(OWN.peer_id, story[number][0].heard_at_ms)
        for entry, _ in story:
            replay.hear(entry)
        expected = story[number][1]
        assert replay.offers() == expected
        assert replay.offers("echo") == expected
        assert replay.offers("ohce") == []
        assert replay.applied + replay.later + replay.refused.total() == len(story)
        assert all(offer.peer != OWN.peer_id for offer in replay.offers())


def test_what_is_refused_is_counted_by_its_reason() -> None:
    replay = MarketReplay(OWN.peer_id, NOW_MS + 10)
    good = announced(PEERS[0], NOW_MS)
    replay.hear(FileEntry(NOW_MS, good))
    replay.hear(FileEntry(NOW_MS, announced(PEERS[1], NOW_MS, signer=PEERS[2])))
    replay.hear(FileEntry(NOW_MS, announced(PEERS[2], NOW_MS - 60_000)))
    replay.hear(FileEntry(NOW_MS, announced(PEERS[0], NOW_MS, base=1)))
    replay.hear(FileEntry(NOW_MS, good[:-1]))
    replay.hear(FileEntry(NOW_MS + 11, announced(PEERS[3], NOW_MS)))
    assert replay.refused == {"SIGNATURE": 1, "EXPIRED": 1, "EQUIVOCATION": 1, "MALFORMED": 1}
    assert (replay.applied, replay.later) == (1, 1)
    (only,) = replay.offers()
    assert (only.peer, only.offer.prices[0].base) == (PEERS[0].peer_id, 100)


def test_what_has_expired_at_the_moment_is_not_on_offer() -> None:
    for at_ms, count in ((NOW_MS + 59_999, 1), (NOW_MS + 60_000, 0)):
        replay = MarketReplay(OWN.peer_id, at_ms)
        replay.hear(FileEntry(NOW_MS, announced(PEERS[0], NOW_MS)))
        assert len(replay.offers()) == count
