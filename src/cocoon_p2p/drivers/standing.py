"""Standing of peers: faults are counted, kept across restarts, slow a peer down, and end in a ban."""

from __future__ import annotations

import logging

from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import BAN_MAX_S, BOOK_PEERS_MAX
from cocoon_p2p.net.port import Network, PeerConnected, PeerMisbehaved, dialable_at
from cocoon_p2p.policy.reputation import FAULT_OF_MISBEHAVIOUR, Fault, Standing, after_fault
from cocoon_p2p.store import Store

log = logging.getLogger(__name__)


class StandingKeeper:
    """Applies `policy.reputation` to what the machines and the network report."""

    def __init__(self, network: Network, store: Store, clock: Clock) -> None:
        self._network = network
        self._store = store
        self._clock = clock
        self._bans = {record.peer_id: record.banned_until_ms for record in store.peers.banned(now_ms=unix_ms(clock))}

    def of(self, peer: PeerId) -> Standing:
        record = self._store.peers.get(peer)
        if record is None:
            return Standing()
        return Standing(record.standing, record.standing_at_ms, record.banned_until_ms)

    def percent(self, peer: PeerId) -> float:
        """0 (banned) to 100 (nothing is known against it)."""
        return self.of(peer).percent(unix_ms(self._clock))

    def is_banned(self, peer: PeerId) -> bool:
        until_ms = self._bans.get(peer)  # asked for each offer of a market: the store would take 5 µs
        return until_ms is not None and until_ms > unix_ms(self._clock)

    def banned(self) -> set[PeerId]:
        """All that are banned now."""
        now_ms = unix_ms(self._clock)
        return {peer for peer, until_ms in self._bans.items() if until_ms > now_ms}

    def penalise(self, peer: PeerId, fault: Fault) -> None:
        """One more fault; at the threshold the peer is cut off and refused for a while."""
        now_ms = unix_ms(self._clock)
        standing = after_fault(self.of(peer), fault, now_ms)
        self._keep(peer, standing)
        log.info("peer %s: %s; its penalty is now %.0f", peer, fault.value, standing.penalty)
        if standing.is_banned(now_ms):
            log.warning("peer %s is refused until its ban ends", peer)
            self._note_address(peer, now_ms)
            self._network.ban(peer, (standing.banned_until_ms - now_ms) / 1000)
        self._slow(peer, standing, now_ms)

    def ban(self, peer: PeerId, duration_s: float) -> int:
        """By hand: cut the peer off and refuse it for so long, at most limits.BAN_MAX_S, restarts or not. When that ends, in
        Unix milliseconds."""
        now_ms = unix_ms(self._clock)
        duration_s = min(max(duration_s, 0.0), BAN_MAX_S)
        self._note_address(peer, now_ms)
        before = self.of(peer)
        until_ms = now_ms + round(duration_s * 1000)
        self._keep(peer, Standing(before.penalty, before.at_ms, until_ms))
        self._network.ban(peer, duration_s)
        return until_ms

    def unban(self, peer: PeerId) -> None:
        """By hand: end a ban, whatever it was for, and forget the faults; else the next small one would bring it back."""
        self._keep(peer, Standing(at_ms=unix_ms(self._clock)))
        self._network.unban(peer)
        self._network.slow(peer, 1.0, 0.0)

    def restore(self) -> None:
        """At start: bans that are not over yet."""
        now_ms = unix_ms(self._clock)
        for record in self._store.peers.banned(now_ms=now_ms):
            self._network.ban(record.peer_id, (record.banned_until_ms - now_ms) / 1000)

    async def watch(self) -> None:
        """Hear what the network reports of peers, and slow those that come back with a bad standing. Runs as long as the
        node."""
        async with self._network.events() as events:
            async for event in events:
                if isinstance(event, PeerConnected):
                    self._slow(event.peer, self.of(event.peer), unix_ms(self._clock))
                elif isinstance(event, PeerMisbehaved):
                    self.penalise(event.peer, FAULT_OF_MISBEHAVIOUR[event.kind])

    def _note_address(self, peer: PeerId, now_ms: int) -> None:
        """Where a peer is that will be cut off, unless its announcements said so: for whoever looks at the bans."""
        record = self._store.peers.get(peer)
        connected = next((each for each in self._network.peers() if each.peer == peer), None)
        if connected is not None and not (record and record.addresses):
            self._store.peers.seen(peer, dialable_at(connected), at_ms=now_ms)

    def _slow(self, peer: PeerId, standing: Standing, now_ms: int) -> None:
        """As slow as it deserves now until its faults have faded; one more, or a new connection, sets the pace anew."""
        share, duration_s = standing.pace(now_ms)
        if share < 1.0:
            self._network.slow(peer, share, duration_s)

    def _keep(self, peer: PeerId, standing: Standing) -> None:
        now_ms = unix_ms(self._clock)
        if standing.is_banned(now_ms):
            self._bans[peer] = standing.banned_until_ms
            if len(self._bans) > BOOK_PEERS_MAX:
                self._bans = {peer: until_ms for peer, until_ms in self._bans.items() if until_ms > now_ms}
        else:
            self._bans.pop(peer, None)
        self._store.peers.set_standing(
            peer, standing.penalty, at_ms=standing.at_ms, banned_until_ms=standing.banned_until_ms
        )
