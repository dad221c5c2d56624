"""The port `Network` on libp2p: TCP, Noise, yamux, Kademlia under /cocoon/kad/1.0.0, gossipsub.

The rest of the program imports this module when it opens a network, and only then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Literal

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cocoon_p2p.errors import ConfigError, TransportError
from cocoon_p2p.ids import PeerId, peer_id_from_public_key
from cocoon_p2p.limits import DIAL_TIMEOUT_S
from cocoon_p2p.net.addresses import Address, parse_address, parse_dialable
from cocoon_p2p.net.bulk.attach import attach_data_sockets
from cocoon_p2p.net.dht.dht import Dht
from cocoon_p2p.net.gossip.gossip import Gossip
from cocoon_p2p.net.identify.identify import Identification
from cocoon_p2p.net.port import (
    ConnectedPeer,
    MessageValidator,
    NetworkEvent,
    PeerAddresses,
    Reachability,
    RecordValidator,
    Stream,
    StreamHandler,
)
from cocoon_p2p.net.reach.autonat import AutonatServer
from cocoon_p2p.net.reach.hole_punch import HolePunching
from cocoon_p2p.net.reach.mdns import Mdns, meet_neighbour, service_of
from cocoon_p2p.net.reach.probing import Reach
from cocoon_p2p.net.reach.relay_client import RelayClient
from cocoon_p2p.net.reach.relay_server import RelayServer
from cocoon_p2p.net.reach.seeking import Seeker
from cocoon_p2p.net.reach.upnp import PortMapper
from cocoon_p2p.net.supervisor import Counters, deadline, open_service_nursery, run_guarded
from cocoon_p2p.net.switch.links import Link
from cocoon_p2p.net.switch.streams import Streams
from cocoon_p2p.net.switch.switch import Switch
from cocoon_p2p.net.switch.upgrade import Upgrader

_BOOTSTRAP_RETRY_FIRST_S = 1.0
_BOOTSTRAP_RETRY_MAX_S = 30.0


@asynccontextmanager
async def open_libp2p(
    seed: bytes,
    *,
    listen: Sequence[str],
    agent: str,
    dht_server: bool = True,
    validators: Mapping[str, RecordValidator] = MappingProxyType({}),
    bootstrap: Sequence[str] = (),
    announce: Sequence[str] = (),
    dht_mode: Literal["auto", "server", "client"] | None = None,
    mdns: bool = False,
    upnp: bool = False,
    relay_server: Literal["auto", "on", "off"] = "off",
    network_key: bytes | None = None,
) -> AsyncIterator[Libp2pNetwork]:
    """A network under the Ed25519 identity of `seed` (32 bytes), listening on `listen` when it is yielded.

    `validators` are by namespace: {"cocoon-capacity": …} vouches for the keys "/cocoon-capacity/…". `bootstrap` holds
    addresses with /p2p/; they are dialled in the background, again and again until they answer. `announce` is what others
    are told in place of the addresses that we listen on. `dht_mode` goes before `dht_server`. Raises ConfigError for an
    address that is malformed or in use.
    """
    key = Ed25519PrivateKey.from_private_bytes(seed)
    peer_id = peer_id_from_public_key(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    known = [_parse_bootstrap(text) for text in bootstrap]
    async with open_service_nursery() as nursery:  # on exit its tasks close listeners, connections and streams
        network = Libp2pNetwork(
            Upgrader.from_seed(peer_id, seed, network_key),
            key,
            nursery,
            agent=agent,
            validators=validators,
            dht_server=dht_server if dht_mode is None else dht_mode != "client",
        )
        network._relay_server.set_enabled(relay_server == "on")
        network.watch_reachability(
            mdns=mdns,
            upnp=upnp,
            auto_dht=dht_mode == "auto",
            auto_relay=relay_server == "auto",
            network_key=network_key,
        )
        network.announce(announce)
        await network.start(listen, known)
        yield network


class Libp2pNetwork:
    """Made by `open_libp2p`."""

    def __init__(
        self,
        upgrader: Upgrader,
        key: Ed25519PrivateKey,
        nursery: trio.Nursery,
        *,
        agent: str,
        validators: Mapping[str, RecordValidator],
        dht_server: bool,
    ) -> None:
        self._counters: Counters = Counters()
        self._nursery = nursery
        self._switch = Switch(upgrader, nursery, self._counters)
        self._streams = Streams(self._switch, nursery)
        self._identification = Identification(self._switch, self._streams, agent, key.sign)
        self._relay_client = RelayClient(self._switch, self._streams, self._identification, self._counters)
        self._relay_server = RelayServer(self._switch, self._streams, self._counters, key.sign)
        self._hole_punching = HolePunching(self._switch, self._streams, self._identification, self._counters)
        self._dht = Dht(self._switch, self._streams, validators, server=dht_server)
        self._seeker = Seeker(self._switch, self._dht.find_addresses, self._counters)
        self._gossip = Gossip(self._switch, self._streams, key)
        self._identification.on_described.append(self._dht.described)
        self._dht.spares.append(self._gossip.meshes_with)
        self._data_sockets = attach_data_sockets(self._switch, self._streams, nursery)
        self._reach: Reach | None = None
        self._services: dict[str, Callable[[], Awaitable[None]]] = {}

    def watch_reachability(
        self, *, mdns: bool, upnp: bool, auto_dht: bool, auto_relay: bool, network_key: bytes | None
    ) -> None:
        """Before `start`: find out whether others can dial us, and do what follows."""
        switch, counters = self._switch, self._counters
        router = PortMapper(lambda: parse_dialable(switch.addresses()), counters) if upnp else None
        self._reach = Reach(
            switch,
            self._streams,
            self._identification,
            relays=self._relay_client,
            router=router,
            set_dht_server=self._dht.set_server if auto_dht else None,
            set_relay_server=self._relay_server.set_enabled if auto_relay else None,
        )
        AutonatServer(self._streams, counters, lambda address, peer: switch.try_dial(peer, address))
        self._services["reach"] = self._reach.run
        if router is not None:
            self._services["upnp"] = router.run
        if mdns:
            meet = partial(meet_neighbour, switch)
            neighbours = Mdns(self.peer_id, switch.addresses, meet, counters, service=service_of(network_key))
            self._services["mdns"] = neighbours.run

    async def start(self, listen: Sequence[str], bootstrap: Sequence[tuple[PeerId, Address]]) -> None:
        await self._switch.listen(listen)
        self._nursery.start_soon(self._switch.maintain)
        self._nursery.start_soon(self._identification.run)
        for name, service in self._services.items():
            self._nursery.start_soon(run_guarded, name, service, self._counters)
        self._relay_client.preferred = frozenset(peer for peer, _ in bootstrap)
        self._nursery.start_soon(self._relay_client.run)
        self._nursery.start_soon(self._data_sockets.run)
        self._nursery.start_soon(self._gossip.beat)
        self._nursery.start_soon(self._dht.maintain)
        for peer, address in bootstrap:
            if peer != self.peer_id:
                self._switch.protect(peer, "bootstrap")
                self._dht.expect_peers()
                self._nursery.start_soon(self._stay_connected, peer, address)

    def announce(self, addresses: Sequence[str]) -> None:
        """What others are told in place of the addresses that we listen on; none goes back to those."""
        self._switch.announced = tuple(addresses)

    @property
    def peer_id(self) -> PeerId:
        return self._switch.peer_id

    def addresses(self) -> tuple[str, ...]:
        return self._switch.addresses()

    async def connect(self, peer: PeerId, addresses: Sequence[str]) -> None:
        await self._seeker.connect(peer, addresses)

    async def disconnect(self, peer: PeerId) -> None:
        await self._switch.disconnect(peer)

    async def try_dial(self, peer: PeerId, address: str) -> None:
        targets = parse_dialable([address])
        if not targets:
            raise TransportError("not an address that this node can dial", outcome_known=True)
        with deadline(DIAL_TIMEOUT_S, "dialling"):
            await self._switch.try_dial(peer, targets[0])

    def peers(self) -> tuple[ConnectedPeer, ...]:
        return tuple(
            ConnectedPeer(
                peer=link.peer,
                address=link.connection.address,
                direction="outbound" if link.connection.is_outbound else "inbound",
                connected_at=link.connected_at,
                agent=link.agent,
                latency_s=link.connection.latency_s,
                transport=link.connection.transport,
                relayed=link.relayed,
                bytes_received=sum(self._bytes_of(each)[0] for each in self._switch.links_of(link.peer)),
                bytes_sent=sum(self._bytes_of(each)[1] for each in self._switch.links_of(link.peer)),
                listens_on=tuple(map(str, self._switch.book.get(link.peer))),
            )
            for link in self._switch.links()
        )

    def _bytes_of(self, link: Link) -> tuple[int, int]:
        """(received, sent), with what went by data socket."""
        beside = self._data_sockets.traffic(link.connection)
        return link.connection.bytes_received + beside.received, link.connection.bytes_sent + beside.sent

    async def ping(self, peer: PeerId) -> float:
        return await self._identification.ping(peer)

    def ban(self, peer: PeerId, duration_s: float) -> None:
        self._switch.unprotect(peer, "manual")
        self._switch.ban(peer, duration_s)

    def unban(self, peer: PeerId) -> None:
        self._switch.unban(peer)

    def slow(self, peer: PeerId, share: float, duration_s: float) -> None:
        self._switch.slow(peer, share, duration_s)

    def keep(self, peer: PeerId) -> None:
        self._switch.protect(peer, "manual")

    def reachability(self) -> Reachability:
        assert self._reach is not None
        return self._reach.status()

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[NetworkEvent]]:
        with self._switch.events.subscribe() as subscription:
            yield subscription

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        if self._switch.link(peer) is None:
            await self._seeker.connect(peer)
        return await self._streams.open_framed(peer, protocol)

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        self._streams.set_handler(protocol, handler)
        self._identification.changed()

    async def dht_put(self, key: str, value: bytes) -> None:
        await self._dht.put(key, value)

    async def dht_get(self, key: str) -> bytes | None:
        return await self._dht.get(key)

    async def provide(self, content_id: bytes) -> None:
        await self._dht.provide(content_id)

    async def find_providers(self, content_id: bytes, count: int) -> tuple[PeerAddresses, ...]:
        return await self._dht.find_providers(content_id, count)

    async def publish(self, topic: str, data: bytes) -> None:
        await self._gossip.publish(topic, data)

    def subscribe(
        self, topic: str, validator: MessageValidator
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[PeerId, bytes]]]:
        return self._gossip.subscribe(topic, validator)

    def counters(self) -> Mapping[str, int]:
        return MappingProxyType(self._counters)

    async def _stay_connected(self, peer: PeerId, address: Address) -> None:
        """Dial a bootstrap peer, and again whenever the connection is lost."""
        pause = _BOOTSTRAP_RETRY_FIRST_S
        connect = partial(self._connect_and_wait, peer, address)
        while True:
            worked = await run_guarded("bootstrap", connect, self._counters)
            pause = _BOOTSTRAP_RETRY_FIRST_S if worked else pause
            with trio.move_on_after(pause):
                await self._switch.moved.wait()  # another network may lead there
            if not worked:
                pause = min(2 * pause, _BOOTSTRAP_RETRY_MAX_S)

    async def _connect_and_wait(self, peer: PeerId, address: Address) -> None:
        """Until the connection ends. Raises TransportError when there is none to be had."""
        link = await self._switch.connect(peer, [str(address)])
        await link.ended.wait()


def _parse_bootstrap(text: str) -> tuple[PeerId, Address]:
    """Raises ConfigError."""
    try:
        address = parse_address(text)
    except ValueError as error:
        raise ConfigError(f"bootstrap: {error}", hint=_BOOTSTRAP_HINT) from error
    if address.peer is None:
        raise ConfigError(f"bootstrap: {text!r} does not say which peer is there", hint=_BOOTSTRAP_HINT)
    return address.peer, address


_BOOTSTRAP_HINT = "a bootstrap address looks like /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW…"
