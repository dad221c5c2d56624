"""Entering the network: by the configured addresses, by peers that were reached before, and again when everybody is gone."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.port import Network, NetworkEvent, PeerAddresses, PeerDisconnected

log = logging.getLogger(__name__)

REDIAL_MIN_S = 1.0
REDIAL_MAX_S = 60.0
"""A bootstrap node that restarts is back within a minute; a thousand clients that wait for it must not flood it."""
_REDIALS_WAITING_MAX = 16


@dataclass(frozen=True, slots=True)
class EntryState:
    """How it stands with one bootstrap peer."""

    peer: PeerAddresses
    connected: bool
    failure: str | None = None
    """Why the last dial failed, by address; None: it did not, or there was none."""
    tried_ago_s: float | None = None
    again_in_s: float | None = None
    """None: it is just being dialled, or will not be as long as this node is connected to anybody."""


class Joiner:
    """`join` once at the start, then `run` in a task, which goes on trying when nobody answered. `known` gives a few other
    peers to try, others each time."""

    def __init__(
        self,
        network: Network,
        bootstrap: Sequence[PeerAddresses],
        known: Callable[[], Sequence[PeerAddresses]] = tuple,
    ) -> None:
        self._network = network
        self._bootstrap = tuple(bootstrap)
        self._known = known
        self._waits_for_bootstrap = False
        self._failures: dict[PeerId, tuple[str, float]] = {}
        """Of the last dials of bootstrap peers: why, and when."""
        self._again_at: float | None = None
        self._to_redial, self._redials = trio.open_memory_channel[PeerAddresses](_REDIALS_WAITING_MAX)

    @property
    def has_bootstrap(self) -> bool:
        return bool(self._bootstrap)

    def entries(self) -> list[EntryState]:
        """How it stands with each bootstrap peer."""
        connected = {each.peer for each in self._network.peers()}
        now = trio.current_time()
        again_in_s = None if self._again_at is None else round(max(0.0, self._again_at - now), 3)
        states = []
        for peer in self._bootstrap:
            failure = self._failures.get(peer.peer)
            if peer.peer in connected:
                states.append(EntryState(peer, True))
            elif failure is None:
                states.append(EntryState(peer, False, again_in_s=again_in_s))
            else:
                states.append(EntryState(peer, False, failure[0], round(now - failure[1], 3), again_in_s))
        return states

    def redial_soon(self, peer: PeerId) -> None:
        """Dial this peer at once, if it is a bootstrap peer: there may be a way to it again."""
        for each in self._bootstrap:
            if each.peer == peer:
                with suppress(trio.WouldBlock):  # so many wait that it makes no difference
                    self._to_redial.send_nowait(each)

    def add(self, peer: PeerAddresses) -> None:
        """One more to come back to, from now on."""
        others = (each for each in self._bootstrap if each.peer != peer.peer)
        self._bootstrap = (*others, peer)

    async def join(self) -> None:
        """Connect to all bootstrap peers at the same time; done with the first. Raises TransportError when none answers."""
        if not self._bootstrap:
            return
        failures = await self._first_of(self._bootstrap)
        self._waits_for_bootstrap = failures is not None
        if failures is not None:
            raise TransportError(
                f"no bootstrap node could be reached: {'; '.join(failures)}",
                outcome_known=True,
                code="BOOTSTRAP",
                hint="is it running, and is the address right? `cocoon-node status` on that machine shows its addresses",
            )

    async def join_by_known(self) -> bool:
        """Connect to one of a few peers that were reached before; whether one answered."""
        known = self._known()
        return bool(known) and await self._first_of(known) is None

    async def run(self) -> None:
        """Dial the rest of the bootstrap list and a few known peers, and whenever the last connection is lost, or no bootstrap peer
        has answered yet, dial again until one does."""
        async with self._network.events() as events, trio.open_nursery() as nursery:
            nursery.start_soon(self._redial)
            await self._dial_all([*self._others(), *self._known()])
            await self._rejoin()
            await self._watch(events)
            nursery.cancel_scope.cancel()

    def _others(self) -> list[PeerAddresses]:
        """Bootstrap peers that were not waited for when another one answered: one alone may be gone tomorrow, and with it
        the relay that leads to this node."""
        connected = {each.peer for each in self._network.peers()}
        return [each for each in self._bootstrap if not self._waits_for_bootstrap and each.peer not in connected]

    async def _redial(self) -> None:
        async for peer in self._redials:
            await self._dial(peer)

    async def _watch(self, events: AsyncIterator[NetworkEvent]) -> None:
        async for event in events:
            if isinstance(event, PeerDisconnected) and not self._network.peers():
                await self._rejoin()

    async def _rejoin(self) -> None:
        wait_s = REDIAL_MIN_S
        while (self._waits_for_bootstrap or not self._network.peers()) and not await self._enter():
            self._again_at = trio.current_time() + wait_s
            await trio.sleep(wait_s)
            self._again_at = None
            wait_s = min(2 * wait_s, REDIAL_MAX_S)

    async def _enter(self) -> bool:
        """Whether there is nothing left to try: we are in, by a bootstrap peer where some are configured, or know nobody."""
        try:
            await self.join()
        except TransportError as error:
            entered = bool(self._network.peers()) or await self.join_by_known()
            log.info("%s; %s", error, "in by others meanwhile" if entered else "trying again")
            return False
        if self._bootstrap or self._network.peers():
            return True
        return await self.join_by_known() or not self._known()

    async def _first_of(self, peers: Sequence[PeerAddresses]) -> list[str] | None:
        """None as soon as one is connected; else why each is not."""
        failures: list[str] = []
        connected = False
        async with trio.open_nursery() as nursery:

            async def one(peer: PeerAddresses) -> None:
                nonlocal connected
                failure = await self._dial(peer)
                if failure is None:
                    connected = True
                    nursery.cancel_scope.cancel()
                else:
                    failures.append(failure)

            for peer in peers:
                nursery.start_soon(one, peer)
        return None if connected else failures

    async def _dial_all(self, peers: Sequence[PeerAddresses]) -> None:
        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(self._dial, peer)

    async def _dial(self, peer: PeerAddresses) -> str | None:
        """Why it failed."""
        try:
            await self._network.connect(peer.peer, peer.addresses)
        except (TransportError, RemoteProtocolError) as error:
            reasons = error.message.removeprefix(f"cannot connect to {peer.peer}: ")
            if peer in self._bootstrap:
                self._failures[peer.peer] = reasons, trio.current_time()
            return error.message
        self._failures.pop(peer.peer, None)
        return None
