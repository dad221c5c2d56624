"""Who speaks without end must not silence the others."""

from __future__ import annotations

from cocoon_p2p import limits
from cocoon_p2p.ids import PeerId
from cocoon_p2p.policy.gossip_pace import GossipPace


def test_one_author_that_speaks_every_second_silences_nobody() -> None:
    pace, author = GossipPace(), PeerId("loud")
    for second in range(600):
        pace.note_heard(float(second), author)
    assert pace.heard(600.0) < limits.GOSSIP_ROOM_SHARE * limits.GOSSIP_ANNOUNCEMENTS_PER_MINUTE / 2
    assert pace.chance(600.0, changed=False) == 1.0


def test_what_an_honest_author_says_is_counted_whole() -> None:
    """News in a burst and then as often as it may, and its regular announcements."""
    pace, everything, author = GossipPace(), GossipPace(), PeerId("honest")
    times = [0.1 * n for n in range(limits.GOSSIP_CHANGE_BURST)]
    times += [limits.GOSSIP_CHANGE_INTERVAL_S * n for n in range(1, 40)]
    times += [27.0 + limits.ANNOUNCEMENT_INTERVAL_S * n for n in range(20)]
    for at in sorted(times):
        pace.note_heard(at, author)
        everything.note_heard(at)
        assert pace.heard(at) == everything.heard(at)


def test_many_authors_fill_the_topic() -> None:
    pace = GossipPace()
    for number in range(40):
        pace.note_heard(number / 10, PeerId(str(number)))
    assert pace.chance(4.0, changed=True) == 0.0
