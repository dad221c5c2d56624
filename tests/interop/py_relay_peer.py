"""py_peer.py with the library's circuit relay v2: as the relay, as the one that is reached through it, as the one that dials.

Run as a program. Nothing of cocoon_p2p is imported here.
"""

from __future__ import annotations

import logging

import trio
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID as HOP
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr
from py_peer import Peer

_LIMITS = RelayLimits(duration=600, data=1 << 30, max_circuit_conns=16, max_reservations=16)


class RelayPeer(Peer):
    def __init__(self) -> None:
        super().__init__()
        self.circuits = CircuitV2Protocol(self.host, _LIMITS, allow_hop=True)
        roles = RelayRole.STOP | RelayRole.CLIENT
        self.transport = CircuitV2Transport(self.host, self.circuits, RelayConfig(roles=roles, limits=_LIMITS))

    async def do_reserve(self, address: str) -> bool:
        """At the relay of this address. Whether it said yes."""
        await self.do_connect(address)
        peer = info_from_p2p_addr(Multiaddr(address)).peer_id
        stream = await self.host.new_stream(peer, [HOP])
        try:
            return await self.transport._make_reservation(stream, peer)
        finally:
            await stream.close()

    async def do_dial(self, address: str) -> None:
        """Through a relay: /…/p2p/<relay>/p2p-circuit/p2p/<peer>."""
        await self.transport.dial(Multiaddr(address))

    async def run(self) -> None:
        async with background_trio_service(self.circuits):
            await super().run()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    trio.run(RelayPeer().run)
