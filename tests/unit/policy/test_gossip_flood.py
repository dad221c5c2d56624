"""Many names on the topic: how much of it is taken, and how long it silences others."""

from __future__ import annotations

from cocoon_p2p import limits
from cocoon_p2p.ids import PeerId
from cocoon_p2p.policy.gossip_pace import GossipPace, StrangerSample, TopicRate

STRANGERS_BURST = int(limits.GOSSIP_STRANGERS_SHARE * limits.GOSSIP_TOPIC_BURST)


def test_strangers_leave_half_of_the_topic_to_others() -> None:
    rate = TopicRate()
    assert sum(rate.take(100.0, confirmed=False) for _ in range(1000)) == STRANGERS_BURST
    assert sum(rate.take(100.0, confirmed=True) for _ in range(1000)) == limits.GOSSIP_TOPIC_BURST - STRANGERS_BURST
    taken = [
        (rate.take(100.0 + n / 100, confirmed=False), rate.take(100.0 + n / 100, confirmed=n % 10 == 0))
        for n in range(1, 1001)
    ]
    strangers = sum(stranger for stranger, _ in taken) + sum(each for n, (_, each) in enumerate(taken, 1) if n % 10)
    assert 98 <= strangers <= 101, "ten a second"
    assert sum(each for n, (_, each) in enumerate(taken, 1) if n % 10 == 0) >= 95, "of those that answered, all"


def test_a_clock_that_stands_still_or_goes_back_brings_nothing() -> None:
    rate = TopicRate()
    assert sum(rate.take(100.0 - n, confirmed=True) for n in range(1000)) == limits.GOSSIP_TOPIC_BURST


def flood(pace: GossipPace, seconds: int, *, since: float = 0.0) -> float:
    """As much as the topic lets through of new names; the time at the end."""
    for n in range(10 * seconds):
        pace.note_heard(since + n / 10, PeerId(f"{since}-{n}"), confirmed=False)
    return since + seconds


def test_names_that_nobody_answers_for_stop_counting() -> None:
    pace = GossipPace()
    now = flood(pace, 60)
    assert pace.chance(now, changed=True) == 0.0
    assert pace.is_crowded(now)
    for _ in range(limits.GOSSIP_PROBES_COUNTED):
        pace.strangers.note("9.9.9.0/24", answered=False)
    assert pace.chance(now, changed=False) == 1.0
    assert pace.is_crowded(now), "it is still looked at"
    for number in range(30):
        pace.note_heard(now, PeerId(f"known-{number}"))
    assert pace.chance(now, changed=True) == 0.0, "those that answered count as ever"


def test_a_large_market_of_real_strangers_counts_whole() -> None:
    pace = GossipPace()
    now = flood(pace, 2)
    for number in range(limits.GOSSIP_PROBES_COUNTED):
        pace.strangers.note(f"8.8.{number}.0/24", answered=True)
    assert pace.heard(now) > 19


def test_one_who_answers_for_many_names_counts_as_none() -> None:
    sample = StrangerSample()
    for _ in range(limits.GOSSIP_PROBES_MIN - 1):
        sample.note("9.9.9.0/24", answered=True)
    assert sample.share() == 1.0, "too few to tell"
    sample.note("9.9.9.0/24", answered=True)
    assert sample.share() == 0.0
    for number in range(limits.GOSSIP_PROBES_COUNTED):
        sample.note(f"/ip4/127.0.0.1/tcp/{number}", answered=number % 2 == 0)
    assert sample.share() == 3 / 7


def test_where_nobody_answered_is_not_dialled_for_every_name() -> None:
    sample = StrangerSample()
    sample.note("9.9.9.0/24", answered=False)
    sample.note("8.8.8.0/24", answered=True)
    sample.note("/ip4/127.0.0.1/tcp/1", answered=False)
    assert sample.is_silent("9.9.9.0/24")
    assert not sample.is_silent("8.8.8.0/24")
    assert not sample.is_silent("/ip4/127.0.0.1/tcp/1")
