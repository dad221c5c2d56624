"""Data sockets for the connections of a switch and the streams on them."""

from __future__ import annotations

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.addresses import parse_address
from cocoon_p2p.net.bulk.lanes import Connection
from cocoon_p2p.net.bulk.messages import DATA_PROTOCOL
from cocoon_p2p.net.bulk.service import DataSockets
from cocoon_p2p.net.switch.streams import Streams
from cocoon_p2p.net.switch.switch import Switch
from cocoon_p2p.net.transport.dial import dial_tcp
from cocoon_p2p.net.transport.pipe import TcpPipe
from cocoon_p2p.net.yamux.stream import MuxStream


def attach_data_sockets(switch: Switch, streams: Streams, nursery: trio.Nursery) -> DataSockets:
    """Offers DATA_PROTOCOL from now on. The caller runs `run` in `nursery`."""

    async def open_control(connection: Connection) -> MuxStream:
        for link in switch.links_of(connection.peer):
            if link.connection is connection:
                return await streams.open_raw(connection.peer, DATA_PROTOCOL, link=link)
        raise TransportError("the connection has ended", outcome_known=True, code="DISCONNECTED")

    def listens_at(peer: PeerId, address: str) -> str | None:
        host = parse_address(address).host
        known = (each for each in switch.book.get(peer) if each.host == host and each.relay is None)
        return next((str(each) for each in known if not each.websocket), None)

    sockets = DataSockets(nursery, switch.counters, dial=_dial, open_control=open_control, listens_at=listens_at)
    switch.take_data_pipe = sockets.take_pipe
    switch.on_link.append(sockets.watch)
    streams.set_internal(DATA_PROTOCOL, sockets.answer)
    streams.lane_of = sockets.lane
    return sockets


async def _dial(address: str) -> TcpPipe:
    """Raises TransportError."""
    return await dial_tcp(parse_address(address))
