"""When a node announces, and what of it is gossiped and stored; with a number for a clock."""

from __future__ import annotations

import dataclasses
import random
from itertools import pairwise

import pytest

from cocoon_p2p import limits
from cocoon_p2p.ids import ModelId, Tier
from cocoon_p2p.policy.gossip_pace import GossipPace
from cocoon_p2p.proto.market import Announcer, MarketBook, PublishAnnouncement, verify_announcement
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.wire.capacity import DeviceClass, Offer, TierPrice, Unit

NOW = 1_800_000_000.0
PEER = IdentityKey.from_seed(b"p" * 32)
OWN = IdentityKey.from_seed(b"o" * 32)
OFFER = Offer(
    ModelId("ab" * 32), "echo", Unit.ITEM, (TierPrice(Tier.SEALED, 100, 10),), 64, 10_000, 4, 4, 0, "cpu",
    DeviceClass.CPU, 0, 0,
)  # fmt: skip


def announcer(sequence: int = 0, *, rng: random.Random | None = None, pace: GossipPace | None = None) -> Announcer:
    return Announcer(PEER, agent="test", settlement_network=0, sequence=sequence, region="de", rng=rng, pace=pace)


def dearer(offer: Offer, base: int = 500) -> Offer:
    return dataclasses.replace(offer, prices=(TierPrice(Tier.SEALED, base, 10),))


class Crowded(GossipPace):
    """On a topic that carries so many announcements a minute, whatever this node does."""

    def __init__(self, a_minute: float) -> None:
        super().__init__()
        self._a_minute = a_minute

    def heard(self, now: float) -> float:
        return self._a_minute


FULL = limits.GOSSIP_ANNOUNCEMENTS_PER_MINUTE


def run(mine: Announcer, until: float) -> list[tuple[float, PublishAnnouncement]]:
    """All that it announces by itself up to a time."""
    published = []
    while (deadline := mine.next_deadline()) is not None and deadline <= until:
        published += [(deadline, each) for each in mine.handle_timer(deadline)]
    return published


def test_a_node_without_offers_never_announces() -> None:
    mine = announcer()
    mine.set_offers([], ["/memory/1"], NOW)
    assert mine.next_deadline() is None
    assert mine.handle_timer(NOW + 1000) == []
    assert mine.handle_question(NOW + 1000) == []
    assert mine.goodbye(NOW) == []


def test_it_announces_at_once_then_regularly_with_rising_numbers() -> None:
    mine = announcer(sequence=int(NOW * 1000) + 50)
    mine.set_offers([OFFER], ["/memory/1"], NOW)
    assert mine.next_deadline() == NOW
    (first,) = mine.handle_timer(NOW)
    verify_announcement(first.raw).announcement.require_current(int(NOW * 1000))
    assert first.signed.announcement.sequence == int(NOW * 1000) + 51, "never below a number that was used before"
    assert first.signed.announcement.region == "de"
    assert mine.handle_timer(NOW + 1) == []
    assert mine.next_deadline() == NOW + limits.ANNOUNCEMENT_INTERVAL_S
    (second,) = mine.handle_timer(NOW + limits.ANNOUNCEMENT_INTERVAL_S)
    assert second.signed.announcement.sequence > first.signed.announcement.sequence
    assert second.signed.announcement.issued_at_ms + 60_000 == second.signed.announcement.expires_at_ms


def test_regular_announcements_come_up_to_a_tenth_earlier() -> None:
    mine = announcer(rng=random.Random(1))
    mine.set_offers([OFFER], [], NOW)
    times = [at for at, _ in run(mine, NOW + 3000)]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert all(27 <= gap <= 30 for gap in gaps)
    assert max(gaps) - min(gaps) > 2


@pytest.mark.parametrize(
    "other",
    [
        dearer(OFFER),
        dataclasses.replace(OFFER, prices=(TierPrice(Tier.OPEN, 50, 10), *OFFER.prices)),
        dataclasses.replace(OFFER, slots_free=0),
        dataclasses.replace(OFFER, items_max=65),
        dataclasses.replace(OFFER, input_bytes_max=10_001),
        dataclasses.replace(OFFER, model_id=ModelId("cd" * 32)),
    ],
    ids=["price", "tier", "full", "items", "bytes", "model"],
)
def test_what_matters_is_announced_soon_but_not_more_than_once_a_second(other: Offer) -> None:
    mine = announcer()
    mine.set_offers([OFFER], [], NOW)
    mine.handle_timer(NOW)
    mine.set_offers([dataclasses.replace(OFFER, slots_free=1, queue_ms=5)], [], NOW + 0.1)
    assert mine.next_deadline() == NOW + limits.ANNOUNCEMENT_INTERVAL_S, "load alone waits for the next regular one"
    mine.set_offers([other], [], NOW + 0.2)
    assert mine.next_deadline() == NOW + limits.ANNOUNCEMENT_MIN_INTERVAL_S
    (published,) = mine.handle_timer(NOW + 1)
    assert published.signed.announcement.offers == (other,)
    assert published.gossip
    mine.set_offers([OFFER], [], NOW + 50)
    assert mine.next_deadline() == NOW + 1 + limits.ANNOUNCEMENT_INTERVAL_S, "after a pause: at once, which has passed"


def test_whoever_asks_gets_a_fresh_one_but_not_more_than_one_a_second() -> None:
    mine = announcer()
    mine.set_offers([OFFER], [], NOW)
    mine.handle_timer(NOW)
    assert mine.handle_question(NOW + 20) == [], "fresh enough"
    (fresh,) = mine.handle_question(NOW + 26)
    assert not fresh.gossip
    assert not fresh.store
    assert mine.current is fresh.signed
    mine.set_offers([dataclasses.replace(OFFER, slots_free=2)], [], NOW + 26.1)
    assert mine.handle_question(NOW + 26.5) == []
    (loaded,) = mine.handle_question(NOW + 27)
    assert loaded.signed.announcement.offers[0].slots_free == 2
    assert mine.next_deadline() == NOW + limits.ANNOUNCEMENT_INTERVAL_S, "questions do not put off what everybody hears"


def test_a_question_does_not_swallow_a_change() -> None:
    mine = announcer()
    mine.set_offers([OFFER], [], NOW)
    mine.handle_timer(NOW)
    mine.set_offers([dearer(OFFER)], [], NOW + 5)
    (asked,) = mine.handle_question(NOW + 5)
    assert asked.gossip, "the change would have been gossiped at this moment anyway"


def test_whoever_asks_before_the_first_announcement_gets_it_and_all_hear_of_it() -> None:
    mine = announcer()
    mine.set_offers([OFFER], [], NOW)
    (first,) = mine.handle_question(NOW)
    assert first.signed.announcement.offers == (OFFER,)
    assert first.gossip
    assert first.store
    assert mine.handle_timer(NOW) == [], "it is the one that was due"
    assert mine.next_deadline() == NOW + limits.ANNOUNCEMENT_INTERVAL_S


def test_the_dht_hears_of_new_addresses_and_models_and_else_every_ten_minutes() -> None:
    mine = announcer()
    mine.set_offers([OFFER], ["/memory/1"], NOW)
    stored = [round(at - NOW) for at, each in run(mine, NOW + 1500) if each.store]
    assert stored == [0, 600, 1200]
    mine.set_offers([dearer(OFFER)], ["/memory/1"], NOW + 1500)
    assert [each.store for _, each in run(mine, NOW + 1505)] == [False], "a price is not where it is"
    mine.set_offers([dearer(OFFER)], ["/memory/2"], NOW + 1520)
    assert [each.store for _, each in run(mine, NOW + 1521)] == [True]


def test_in_a_large_network_it_gossips_rarely_and_signs_as_often_as_before() -> None:
    mine = announcer(pace=Crowded(0.96 * FULL), rng=random.Random(3))
    mine.set_offers([OFFER], [], NOW)
    published = run(mine, NOW + 30_000)
    assert 1000 <= len(published) <= 1120
    gossiped = sum(each.gossip for _, each in published)
    assert 1 + 0.3 * len(published) * 0.2**3 < gossiped < 1 + 3 * len(published) * 0.2**3


def test_what_is_new_is_gossiped_where_what_is_not_is_left_out() -> None:
    mine = announcer(pace=Crowded(FULL), rng=random.Random(3))
    mine.set_offers([OFFER], [], NOW)
    mine.handle_timer(NOW)
    assert not any(each.gossip for _, each in run(mine, NOW + 300))
    mine.set_offers([dearer(OFFER)], [], NOW + 310)
    (news,) = mine.handle_timer(NOW + 310)
    assert news.gossip


def test_news_that_were_not_gossiped_are_not_forgotten() -> None:
    pace = Crowded(2 * FULL)
    mine = announcer(pace=pace)
    mine.set_offers([OFFER], [], NOW)
    (hello,) = mine.handle_timer(NOW)
    assert not hello.gossip
    pace._a_minute = FULL
    published = run(mine, NOW + 100)
    assert [each.gossip for _, each in published] == [True, False, False], "the next one, as news"


def test_who_changes_every_second_is_heard_of_now_and_then() -> None:
    mine = announcer()
    gossiped = []
    for second in range(120):
        mine.set_offers([dearer(OFFER, 500 + second)], [], NOW + second)
        gossiped += [second for each in mine.handle_timer(NOW + second) if each.gossip]
    assert gossiped[:6] == list(range(6))
    assert 5 <= len(gossiped[6:]) <= 12


def test_a_clock_that_is_set_back_an_hour_silences_nobody() -> None:
    mine = announcer()
    mine.set_offers([OFFER], [], NOW)
    (before,) = mine.handle_timer(NOW)
    mine.set_offers([OFFER], [], NOW - 3600)
    (after,) = mine.handle_timer(NOW - 3600)
    assert after.gossip
    assert after.signed.announcement.issued_at_ms == (NOW - 3600) * 1000
    assert after.signed.announcement.sequence > before.signed.announcement.sequence
    assert mine.next_deadline() == NOW - 3600 + limits.ANNOUNCEMENT_INTERVAL_S


def test_goodbye_withdraws_everything() -> None:
    mine, book = announcer(pace=Crowded(FULL)), MarketBook(OWN.peer_id)
    mine.set_offers([OFFER], [], NOW)
    (hello,) = mine.handle_timer(NOW)
    book.handle_announcement(hello.raw, now=NOW)
    (goodbye,) = mine.goodbye(NOW + 0.01)
    assert goodbye.gossip
    book.handle_announcement(goodbye.raw, now=NOW + 0.01)
    assert book.offers(now=NOW + 0.01) == []
    assert mine.goodbye(NOW + 1) == []
