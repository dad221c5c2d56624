"""Entering the network by the configured addresses, and coming back to them when everybody is gone."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence

import trio

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.net.port import Network, NetworkEvent, PeerAddresses, PeerDisconnected

log = logging.getLogger(__name__)

REDIAL_MIN_S = 1.0
REDIAL_MAX_S = 60.0
"""A bootstrap node that restarts is back within a minute; a thousand clients that wait for it must not flood it."""


class Joiner:
    """`join` once at the start, then `run` in a task, which goes on trying when nobody answered."""

    def __init__(self, network: Network, bootstrap: Sequence[PeerAddresses]) -> None:
        self._network = network
        self._bootstrap = tuple(bootstrap)

    async def join(self) -> None:
        """Connect to all bootstrap peers at the same time; done with the first. Raises TransportError when none answers."""
        if not self._bootstrap:
            return
        failures: list[str] = []
        joined = False
        async with trio.open_nursery() as nursery:

            async def one(peer: PeerAddresses) -> None:
                nonlocal joined
                try:
                    await self._network.connect(peer.peer, peer.addresses)
                except (TransportError, RemoteProtocolError) as error:
                    failures.append(error.message)
                else:
                    joined = True
                    nursery.cancel_scope.cancel()

            for peer in self._bootstrap:
                nursery.start_soon(one, peer)
        if not joined:
            raise TransportError(
                f"no bootstrap node could be reached: {'; '.join(failures)}",
                outcome_known=True,
                code="BOOTSTRAP",
                hint="is it running, and is the address right? `cocoon-node status` on that machine shows its addresses",
            )

    async def run(self) -> None:
        """Whenever the last connection is lost, dial the bootstrap peers until one answers."""
        if not self._bootstrap:
            return
        async with self._network.events() as events:
            await self._rejoin()
            await self._watch(events)

    async def _watch(self, events: AsyncIterator[NetworkEvent]) -> None:
        async for event in events:
            if isinstance(event, PeerDisconnected) and not self._network.peers():
                await self._rejoin()

    async def _rejoin(self) -> None:
        wait_s = REDIAL_MIN_S
        while not self._network.peers():
            try:
                await self.join()
            except TransportError as error:
                log.info("%s; trying again in %.0f s", error, wait_s)
                await trio.sleep(wait_s)
                wait_s = min(2 * wait_s, REDIAL_MAX_S)
