"""Entering the network: by the configured addresses, by peers that were reached before, and again when everybody is gone."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence

import trio

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.net.port import Network, NetworkEvent, PeerAddresses, PeerDisconnected

log = logging.getLogger(__name__)

REDIAL_MIN_S = 1.0
REDIAL_MAX_S = 60.0
"""A bootstrap node that restarts is back within a minute; a thousand clients that wait for it must not flood it."""


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

    @property
    def has_bootstrap(self) -> bool:
        return bool(self._bootstrap)

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
        """Dial a few known peers beside the bootstrap list, and whenever the last connection is lost, or no bootstrap peer
        has answered yet, dial again until one does."""
        async with self._network.events() as events:
            await self._dial_all(self._known())
            await self._rejoin()
            await self._watch(events)

    async def _watch(self, events: AsyncIterator[NetworkEvent]) -> None:
        async for event in events:
            if isinstance(event, PeerDisconnected) and not self._network.peers():
                await self._rejoin()

    async def _rejoin(self) -> None:
        wait_s = REDIAL_MIN_S
        while (self._waits_for_bootstrap or not self._network.peers()) and not await self._enter():
            await trio.sleep(wait_s)
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
            return error.message
        return None
