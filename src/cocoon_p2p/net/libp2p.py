"""The port `Network` on libp2p: TCP, Noise, yamux, Kademlia under /cocoon/kad/1.0.0, gossipsub.

The rest of the program imports this module when it opens a network, and only then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import MappingProxyType

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.ids import PeerId, peer_id_from_public_key
from cocoon_p2p.net.addresses import Address, parse_address
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
from cocoon_p2p.net.supervisor import Counters, open_service_nursery, run_guarded
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
) -> AsyncIterator[Libp2pNetwork]:
    """A network under the Ed25519 identity of `seed` (32 bytes), listening on `listen` when it is yielded.

    `validators` are by namespace: {"cocoon-capacity": …} vouches for the keys "/cocoon-capacity/…". `bootstrap` holds
    addresses with /p2p/; they are dialled in the background, again and again until they answer. `announce` is what others
    are told in place of the addresses that we listen on. Raises ConfigError for an address that is malformed or in use.
    """
    key = Ed25519PrivateKey.from_private_bytes(seed)
    peer_id = peer_id_from_public_key(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    known = [_parse_bootstrap(text) for text in bootstrap]
    async with open_service_nursery() as nursery:  # on exit its tasks close listeners, connections and streams
        network = Libp2pNetwork(
            Upgrader.from_seed(peer_id, seed), key, nursery, agent=agent, validators=validators, dht_server=dht_server
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
        self._identification = Identification(self._switch, self._streams, agent)
        self._dht = Dht(self._switch, self._streams, validators, server=dht_server)
        self._gossip = Gossip(self._switch, self._streams, key)

    async def start(self, listen: Sequence[str], bootstrap: Sequence[tuple[PeerId, Address]]) -> None:
        await self._switch.listen(listen)
        self._nursery.start_soon(self._gossip.beat)
        self._nursery.start_soon(self._dht.maintain)
        for peer, address in bootstrap:
            if peer != self.peer_id:
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
        await self._switch.connect(peer, addresses)

    async def disconnect(self, peer: PeerId) -> None:
        await self._switch.disconnect(peer)

    def peers(self) -> tuple[ConnectedPeer, ...]:
        return tuple(
            ConnectedPeer(
                peer=link.peer,
                address=link.connection.address,
                direction="outbound" if link.connection.is_outbound else "inbound",
                connected_at=link.connected_at,
                agent=link.agent,
                latency_s=link.connection.latency_s,
            )
            for link in self._switch.links()
        )

    async def ping(self, peer: PeerId) -> float:
        return await self._identification.ping(peer)

    def ban(self, peer: PeerId, duration_s: float) -> None:
        self._switch.ban(peer, duration_s)

    def unban(self, peer: PeerId) -> None:
        self._switch.unban(peer)

    def reachability(self) -> Reachability:
        addresses = self._switch.announced_addresses()
        return Reachability("unknown", "nobody has told us yet", addresses=addresses)

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[NetworkEvent]]:
        with self._switch.events.subscribe() as subscription:
            yield subscription

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        if self._switch.link(peer) is None and not self._switch.book.get(peer) and not self._switch.is_banned(peer):
            await self._dht.find_peer(peer)
        return await self._streams.open_framed(peer, protocol)

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        self._streams.set_handler(protocol, handler)

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
            if await run_guarded("bootstrap", connect, self._counters):
                pause = _BOOTSTRAP_RETRY_FIRST_S
                await trio.sleep(pause)
            else:
                await trio.sleep(pause)
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
