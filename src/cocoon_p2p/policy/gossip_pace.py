"""How often a node gossips its announcement, so that what all of them gossip together stays within a budget; and how many
one author may bring. Times are seconds of one clock.

There is no leader: each node counts what comes by on the topic, a minute's worth, and the nearer that is to the budget, the
smaller the chance that it adds its own (the "trickle" of RFC 6206 suppresses the same way, by what it hears from others).
Nothing has to settle: who has just come asks a neighbour how much there was before (`begin`). In a network of five
providers everybody is heard of twice a minute; in a large one gossip is a sample of the market, and what is not gossiped is
still there for whoever asks.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque

from cocoon_p2p import limits
from cocoon_p2p.ids import PeerId
from cocoon_p2p.policy.subnets import is_public_subnet

_AUTHOR_PER_S = 1 / limits.GOSSIP_CHANGE_INTERVAL_S + 1 / limits.ANNOUNCEMENT_INTERVAL_S
_AUTHOR_BURST = limits.GOSSIP_CHANGE_BURST + 2.0
"""What an honest author says at most: its news, and an announcement every half a minute, one of them early by its jitter."""
_NEWS_ROOM = 1.5
"""Of the budget: what is left above it is for what changed."""


class GossipPace:
    """One node's own count of the topic, and of its own changes."""

    def __init__(self) -> None:
        self._known = 0.0
        self._strangers = 0.0
        self._heard_at = 0.0
        self._counted = AuthorRates(per_s=_AUTHOR_PER_S, burst=_AUTHOR_BURST)
        self._changes = float(limits.GOSSIP_CHANGE_BURST)
        self._changes_at = 0.0
        self.strangers = StrangerSample()
        """Whether those who speak on the topic are there at all."""

    def begin(self, now: float, count: int) -> None:
        """Others heard `count` announcements come by within a minute; we have not listened for as long."""
        missing = max(0.0, count - self.heard(now))
        self._fade(now)
        self._strangers += missing

    def note_heard(self, now: float, author: PeerId | None = None, *, confirmed: bool = True) -> None:
        """One announcement came by on the topic, ours among them. Of one author no more count than an honest one brings: else a
        single peer that speaks once a second would look like a full topic, and silence everybody. `confirmed`: the author
        answered us once; of the others only the share counts that turns out to be there."""
        if now < self._heard_at:  # the clock was set back
            self._counted = AuthorRates(per_s=_AUTHOR_PER_S, burst=_AUTHOR_BURST)
        if author is not None and not self._counted.take(author, now):
            return
        self._fade(now)
        if confirmed:
            self._known += 1.0
        else:
            self._strangers += 1.0

    def _fade(self, now: float) -> None:
        left = self._left(now)
        self._known, self._strangers, self._heard_at = left * self._known, left * self._strangers, now

    def _left(self, now: float) -> float:
        """Each counts less the longer ago it was, by e in limits.GOSSIP_RATE_WINDOW_S. With a window that ends sharply a burst
        would be followed by silence and the next burst."""
        passed_s = now - self._heard_at
        if passed_s < 0:  # the clock was set back
            return 0.0
        return math.exp(-passed_s / limits.GOSSIP_RATE_WINDOW_S)

    def heard(self, now: float) -> float:
        """Announcements a minute, of authors that are taken for real."""
        return self._left(now) * (self._known + self.strangers.share() * self._strangers)

    def is_crowded(self, now: float) -> bool:
        """Whether the topic would be full if all its authors were real: then it matters whether they are."""
        carried = self._left(now) * (self._known + self._strangers)
        return carried > limits.GOSSIP_ROOM_SHARE * limits.GOSSIP_ANNOUNCEMENTS_PER_MINUTE

    def chance(self, now: float, *, changed: bool) -> float:
        """How likely, 0 to 1, an announcement made now should be gossiped. 1 while there is room; it falls with the third
        power towards the budget's end, so that of hundreds of nodes, who all see the same, about one speaks at a time.
        News may take half as much again."""
        # SPEC capacity/1 §4.4
        full = limits.GOSSIP_ANNOUNCEMENTS_PER_MINUTE
        begins, ends = (full, _NEWS_ROOM * full) if changed else (limits.GOSSIP_ROOM_SHARE * full, full)
        left = (ends - self.heard(now)) / (ends - begins)
        return float(min(max(left, 0.0), 1.0) ** 3)

    def take_change(self, now: float) -> bool:
        """Whether a change of ours counts as news: who changes all the time (a provider of one slot is full with every job)
        has some, and then one every GOSSIP_CHANGE_INTERVAL_S."""
        passed_s = max(0.0, now - self._changes_at)
        self._changes = min(limits.GOSSIP_CHANGE_BURST, self._changes + passed_s / limits.GOSSIP_CHANGE_INTERVAL_S)
        self._changes_at = now
        taken = self._changes >= 1.0
        self._changes -= taken
        return taken


class StrangerSample:
    """Of authors that never answered us, drawn at random and asked: how many are there? Names cost nothing, and whoever makes
    thousands of them should not silence those who sell; several in one public subnet count as one."""

    def __init__(self) -> None:
        self._asked: deque[tuple[bool, str]] = deque(maxlen=limits.GOSSIP_PROBES_COUNTED)

    def note(self, subnet: str, *, answered: bool) -> None:
        self._asked.append((answered, subnet))

    def is_silent(self, subnet: str) -> bool:
        """Nobody answered there lately: it is not to be dialled again for every name that points to it."""
        return is_public_subnet(subnet) and (False, subnet) in self._asked

    def share(self) -> float:
        """0 to 1. One who answers is as good as none: that may be the flooder himself."""
        # SPEC capacity/1 §4.4
        asked = len(self._asked)
        if asked < limits.GOSSIP_PROBES_MIN:
            return 1.0
        there = [subnet for answered, subnet in self._asked if answered]
        distinct = len({each for each in there if is_public_subnet(each)})
        distinct += sum(not is_public_subnet(each) for each in there)
        return max(0, distinct - 1) / (asked - 1)


class TopicRate:
    """How many announcements are taken of all authors together; of those that never answered us only a part."""

    def __init__(self) -> None:
        self._all = limits.GOSSIP_TOPIC_BURST
        self._strangers = limits.GOSSIP_STRANGERS_SHARE * limits.GOSSIP_TOPIC_BURST
        self._at = 0.0

    def take(self, now: float, *, confirmed: bool) -> bool:
        """False when this one is too many; nobody is to blame."""
        # SPEC capacity/1 §4.4
        share, passed_s = limits.GOSSIP_STRANGERS_SHARE, max(0.0, now - self._at)
        self._at = now
        brought = passed_s * limits.GOSSIP_TOPIC_PER_S
        self._all = min(limits.GOSSIP_TOPIC_BURST, self._all + brought)
        self._strangers = min(share * limits.GOSSIP_TOPIC_BURST, self._strangers + share * brought)
        if self._all < 1.0 or (not confirmed and self._strangers < 1.0):
            return False
        self._all -= 1.0
        self._strangers -= not confirmed
        return True


class AuthorRates:
    """How many announcements each author may bring by gossip, on the clock of its own `issued_at`: a node that was stopped
    for a minute, or a slow link, hears a minute's worth at once and nobody is to blame. An author gains nothing by writing
    wrong times, which are refused when they are more than a minute off."""

    def __init__(
        self,
        *,
        per_s: float = limits.ANNOUNCEMENTS_PER_AUTHOR_S,
        burst: float = limits.ANNOUNCEMENTS_PER_AUTHOR_BURST,
        authors_max: int = limits.BOOK_PEERS_MAX,
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._authors_max = authors_max
        self._left: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()

    def take(self, author: PeerId, issued_at: float) -> bool:
        """False when this one is too many."""
        tokens, at = self._left.get(author, (self._burst, issued_at))
        tokens = min(self._burst, tokens + max(0.0, issued_at - at) * self._per_s)
        taken = tokens >= 1.0
        self._left[author] = (tokens - 1.0 if taken else tokens, max(at, issued_at))
        self._left.move_to_end(author)
        if len(self._left) > self._authors_max:
            self._left.popitem(last=False)
        return taken
