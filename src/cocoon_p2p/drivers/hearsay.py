"""What an announcement says of its author's addresses: signed, and still a stranger's word."""

from __future__ import annotations

from collections.abc import Sequence

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.addresses import dialable_hearsay, parse_dialable
from cocoon_p2p.net.port import NO_RELAY_YET_HINT, Network, Stream


def heard_addresses(network: Network, told: Sequence[str]) -> tuple[str, ...]:
    """Of announced addresses those that this node may dial, so that no stranger makes it knock at the doors of its own
    machine or office. Gossip does not say who was the first to tell, therefore all direct connections count as tellers: in a
    network of one machine, or of one office, its addresses are what peers announce."""
    return dialable_hearsay(told, (each.address for each in network.peers() if not each.relayed))


async def open_announced(network: Network, peer: PeerId, told: Sequence[str], protocol: str) -> Stream:
    """A stream to the author of an announcement, at the addresses that it `told` or where else it is found. Raises
    TransportError, with a hint when nothing was told but addresses of its own network, which is not ours."""
    heard = heard_addresses(network, told)
    try:
        if heard:
            await network.connect(peer, heard)
        return await network.open_stream(peer, protocol)
    except TransportError as error:
        if not heard and error.hint is None and any(not address.is_loopback for address in parse_dialable(told)):
            error.hint = NO_RELAY_YET_HINT
        raise
