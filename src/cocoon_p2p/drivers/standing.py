"""Standing of peers: faults are counted, kept across restarts, and end in a ban."""

from __future__ import annotations

import logging

from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.port import Network
from cocoon_p2p.policy.reputation import Fault, Standing, after_fault
from cocoon_p2p.store import Store

log = logging.getLogger(__name__)


class StandingKeeper:
    """Applies `policy.reputation` to what the machines report."""

    def __init__(self, network: Network, store: Store, clock: Clock) -> None:
        self._network = network
        self._store = store
        self._clock = clock

    def of(self, peer: PeerId) -> Standing:
        record = self._store.peers.get(peer)
        if record is None:
            return Standing()
        return Standing(record.standing, record.standing_at_ms, record.banned_until_ms)

    def is_banned(self, peer: PeerId) -> bool:
        return self.of(peer).is_banned(unix_ms(self._clock))

    def penalise(self, peer: PeerId, fault: Fault) -> None:
        """One more fault; at the threshold the peer is cut off and refused for a while."""
        now_ms = unix_ms(self._clock)
        standing = after_fault(self.of(peer), fault, now_ms)
        self._store.peers.set_standing(
            peer, standing.penalty, at_ms=standing.at_ms, banned_until_ms=standing.banned_until_ms
        )
        log.info("peer %s: %s; its penalty is now %.0f", peer, fault.value, standing.penalty)
        if standing.is_banned(now_ms):
            log.warning("peer %s is refused until its ban ends", peer)
            self._network.ban(peer, (standing.banned_until_ms - now_ms) / 1000)

    def restore(self) -> None:
        """At start: bans that are not over yet."""
        now_ms = unix_ms(self._clock)
        for record in self._store.peers.banned(now_ms=now_ms):
            self._network.ban(record.peer_id, (record.banned_until_ms - now_ms) / 1000)
