"""Which announcements that come by gossip are taken and handed on, and whether their authors are there at all."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.asking import CapacityAsker
from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.errors import RemoteProtocolError, TransportError, one_line
from cocoon_p2p.ids import PeerId
from cocoon_p2p.policy.gossip_pace import AuthorRates, GossipPace, TopicRate
from cocoon_p2p.policy.reputation import Fault
from cocoon_p2p.proto.announcements import verify_announcement
from cocoon_p2p.proto.market_book import MarketBook
from cocoon_p2p.wire.capacity import Announcement, SignedAnnouncement

log = logging.getLogger(__name__)

_STRANGERS_REMEMBERED = 64
"""Of whom one is asked, now and then."""


@dataclass(frozen=True, slots=True)
class GossipPorts:
    clock: Clock
    rng: Random
    standing: StandingKeeper
    asker: CapacityAsker
    compare_clocks: Callable[[Announcement], None]
    take_own_word: Callable[[SignedAnnouncement], None]


class GossipCheck:
    """`validate` is the topic's validator; `run` in a task."""

    def __init__(self, ports: GossipPorts, book: MarketBook, pace: GossipPace) -> None:
        self._ports = ports
        self._book = book
        self._pace = pace
        self._topic = TopicRate()
        self._authors = AuthorRates()
        self._strangers: deque[PeerId] = deque(maxlen=_STRANGERS_REMEMBERED)

    def validate(self, author: PeerId, data: bytes) -> bool:
        """Only a peer's own, valid, current announcement is taken and handed on, and no more than one can read."""
        confirmed = self._book.is_confirmed(author)
        if not self._topic.take(self._ports.clock.now(), confirmed=confirmed):
            return False
        try:
            announcement = verify_announcement(data).announcement
            if announcement.peer_id == author:
                self._ports.compare_clocks(announcement)
            announcement.require_current(unix_ms(self._ports.clock))
        except RemoteProtocolError as error:
            log.info("peer %s gossiped a bad announcement: %s", author, one_line(error))
            if error.code != "EXPIRED":  # what is late may have been held up by others
                self._ports.standing.penalise(author, Fault.FORGED_ANNOUNCEMENT)
            return False
        if announcement.peer_id != author:
            return False
        if not self._authors.take(author, announcement.issued_at_ms / 1000):
            # SPEC capacity/1 §4.4
            self._ports.standing.penalise(author, Fault.FLOOD)
            return False
        self._pace.note_heard(self._ports.clock.unix(), author, confirmed=confirmed)
        if not confirmed:
            self._strangers.append(author)
        return True

    async def run(self) -> None:
        """Runs until cancelled. While the topic is full, one of its strangers is asked now and then: crowds of names that
        nobody answers for must not keep us silent."""
        while True:
            await trio.sleep(limits.GOSSIP_PROBE_S)
            if self._pace.is_crowded(self._ports.clock.unix()) and self._strangers:
                await self._probe(self._ports.rng.sample(self._strangers, 1)[0])

    async def _probe(self, peer: PeerId) -> None:
        heard = self._book.heard(peer)
        if heard is None:
            return
        answered = False
        if not self._pace.strangers.is_silent(heard.subnet):
            try:
                signed = await self._ports.asker.own_word(peer, heard.announcement.addresses)
            except (TransportError, RemoteProtocolError) as error:
                log.info("peer %s, heard by gossip, does not answer: %s", peer, one_line(error))
            else:
                if signed is not None:
                    self._ports.take_own_word(signed)
                    answered = True
        self._pace.strangers.note(heard.subnet, answered=answered)
