"""Finding nodes on the local network without anybody's help: libp2p's mDNS (specs, discovery/mdns.md), through zeroconf.

zeroconf runs on asyncio in a thread of its own; it is imported and started only when mDNS is on, and nothing waits for it.
What it hears comes over by a bounded queue. Anybody on the LAN can say anything, so only addresses that the internet does
not route to are taken, and none of this machine unless it has no others, and dialled seldom; who answers there proves its
identity like everybody else.
"""

from __future__ import annotations

import logging
import secrets
import string
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from hashlib import sha256
from typing import Any

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import (
    ADDRESSES_PER_ANNOUNCEMENT_MAX,
    MDNS_CONNECTIONS_PER_PEER_S,
    MDNS_CONNECTIONS_PER_S,
    MDNS_PEERS_MAX,
    MDNS_QUEUE_MAX,
    MDNS_REFRESH_S,
    MDNS_STOP_TIMEOUT_S,
)
from cocoon_p2p.net.addresses import Address, parse_address
from cocoon_p2p.net.rates import Buckets, Rate
from cocoon_p2p.net.supervisor import Counters, foreign_errors, run_guarded
from cocoon_p2p.net.switch.switch import Switch

logger = logging.getLogger("cocoon_p2p.net")

PUBLIC_SERVICE = "_p2p._udp.local."
_TXT_KEY = b"dnsaddr="
_TXT_BYTES_MAX = 255
_NAME_CHARS = 32  # the spec: 32 or more, so that names never meet
_SRV_PORT = 4001  # nobody looks at it: the TXT record has the ports (go-libp2p says 4001, too)

Connect = Callable[[PeerId, Sequence[Address]], Awaitable[None]]
"""Takes note of the addresses, and connects if that is wanted. Raises TransportError."""


def service_of(network_key: bytes | None) -> str:
    """The service that nodes of this network look for. That of a private network tells nothing of its key."""
    # SPEC identity §4.4
    if network_key is None:
        return PUBLIC_SERVICE
    return f"_p2p-{sha256(b'cocoon-p2p/mdns/1' + bytes(1) + network_key).hexdigest()[:10]}._udp.local."


def encode_txt(peer: PeerId, addresses: Iterable[Address]) -> bytes:
    """The TXT record: one string an address."""
    # SPEC identity §4.4
    strings = [_TXT_KEY + f"{address}/p2p/{peer}".encode() for address in addresses]
    fitting = [each for each in strings if len(each) <= _TXT_BYTES_MAX][:ADDRESSES_PER_ANNOUNCEMENT_MAX]
    return b"".join(bytes([len(each)]) + each for each in fitting)


def decode_txt(raw: bytes) -> dict[PeerId, list[Address]]:
    """The peers in a TXT record and their addresses on this LAN. What makes no sense is left out."""
    # SPEC identity §4.4
    found: dict[PeerId, list[Address]] = {}
    position = 0
    for _ in range(ADDRESSES_PER_ANNOUNCEMENT_MAX):
        if position >= len(raw):
            break
        text = raw[position + 1 : position + 1 + raw[position]]
        position += 1 + raw[position]
        try:
            address = parse_address(text.removeprefix(_TXT_KEY).decode())
        except ValueError:
            continue
        if text.startswith(_TXT_KEY) and address.peer is not None and address.port and not address.is_public:
            found.setdefault(address.peer, []).append(address)
    return found


async def meet_neighbour(switch: Switch, peer: PeerId, addresses: Sequence[Address]) -> None:
    """Note where a peer of the local network is, and connect to it while we know few. Raises TransportError."""
    switch.book.add(peer, addresses)
    if switch.link(peer) is None and len(switch.links()) < MDNS_PEERS_MAX and not switch.is_banned(peer):
        await switch.connect(peer)


class Mdns:
    """Announces this node and meets others. `run` it in a task."""

    def __init__(
        self,
        own_id: PeerId,
        addresses: Callable[[], Sequence[str]],
        connect: Connect,
        counters: Counters,
        *,
        service: str = PUBLIC_SERVICE,
    ) -> None:
        """`addresses` gives those that we listen on, wildcards resolved."""
        self._own_id = own_id
        self._addresses = addresses
        self._connect = connect
        self._counters = counters
        self._service = service
        self._name = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(_NAME_CHARS))
        self._heard: deque[bytes] = deque(maxlen=MDNS_QUEUE_MAX)
        self._arrived = trio.Event()
        self._per_peer: Buckets[PeerId] = Buckets(Rate(MDNS_CONNECTIONS_PER_PEER_S, 2))
        self._in_all: Buckets[None] = Buckets(Rate(MDNS_CONNECTIONS_PER_S, 20))

    async def run(self) -> None:
        """Runs as long as the node. Raises TransportError when the machine has no multicast."""
        while True:
            try:
                async with self._open_zeroconf() as zeroconf, trio.open_nursery() as nursery:
                    nursery.start_soon(self._hear_of_others, nursery)
                    await self._announce_until_we_move(zeroconf)
                    nursery.cancel_scope.cancel()
            except TransportError as error:
                logger.warning("nodes of the local network are not found: %s", error)
                raise

    async def _hear_of_others(self, nursery: trio.Nursery) -> None:
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            while self._heard:
                self._take(self._heard.popleft(), nursery)

    def _take(self, raw: bytes, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        for peer, addresses in decode_txt(raw).items():
            if peer == self._own_id:
                continue
            if not self._per_peer.take(peer, now) or not self._in_all.take(None, now):
                self._counters["mdns_over_rate"] += 1
                continue
            near = self._of_other_machines(addresses)
            logger.debug("mDNS: %s at %s", peer, ", ".join(map(str, near)))
            if near:
                nursery.start_soon(run_guarded, "mdns_connect", partial(self._connect, peer, near), self._counters)

    def _of_other_machines(self, addresses: list[Address]) -> list[Address]:
        """Nobody on the LAN has us knock at the doors of our own machine, unless it is all the network there is."""
        alone = any(own.is_loopback for own in self._local_addresses())
        return [address for address in addresses if alone or not address.is_loopback]

    # --- in zeroconf's thread and its like ---------------------------------------------------------------------------

    @asynccontextmanager
    async def _open_zeroconf(self) -> AsyncIterator[Any]:
        token = trio.lowlevel.current_trio_token()
        zeroconf: Any = None

        def wake() -> None:
            self._arrived.set()

        def hear(text: bytes) -> None:
            """In zeroconf's thread."""
            self._heard.append(text)
            with suppress(trio.RunFinishedError):  # the node has stopped
                token.run_sync_soon(wake, idempotent=True)

        try:
            with foreign_errors("mDNS", outcome_known=True):
                zeroconf = await trio.to_thread.run_sync(_start, self._service, hear)
            yield zeroconf
        finally:
            if zeroconf is not None:
                with trio.CancelScope(shield=True), trio.move_on_after(MDNS_STOP_TIMEOUT_S):
                    await trio.to_thread.run_sync(zeroconf.close, abandon_on_cancel=True)

    async def _announce_until_we_move(self, zeroconf: Any) -> None:
        """Until our addresses are others; then the machine may be on another network, and zeroconf has to begin anew."""
        announced = self._local_addresses()
        if announced:
            with foreign_errors("mDNS", outcome_known=True):
                await trio.to_thread.run_sync(self._announce, zeroconf, announced)
        while announced == self._local_addresses():  # noqa: ASYNC110  (the system has no event for this)
            await trio.sleep(MDNS_REFRESH_S)

    def _announce(self, zeroconf: Any, addresses: list[Address]) -> None:
        from zeroconf import ServiceInfo

        name, text = f"{self._name}.{self._service}", encode_txt(self._own_id, addresses)
        info = ServiceInfo(self._service, name, port=_SRV_PORT, properties=text, server=f"{self._name}.local.")
        # The name is random: no need to ask the network for a second whether somebody else has it.
        zeroconf.register_service(info, cooperating_responders=True)

    def _local_addresses(self) -> list[Address]:
        addresses = [parse_address(text) for text in self._addresses()]
        local = [address for address in addresses if not address.is_public]
        return [address for address in local if not address.is_loopback] or local


def _start(service: str, hear: Callable[[bytes], object]) -> Any:
    """A running zeroconf that asks for `service` and hands on what comes. Blocks for some milliseconds."""
    from zeroconf import InterfaceChoice, IPVersion, RecordUpdateListener, ServiceBrowser, Zeroconf

    class Texts(RecordUpdateListener):
        """Takes the TXT records themselves: js and rust send no SRV record, without which zeroconf reports no service."""

        def async_update_records(self, zc: Zeroconf, now: float, records: Any) -> None:
            for update in records:
                text = getattr(update.new, "text", None)
                if isinstance(text, bytes) and update.new.name.lower().endswith("." + service):
                    hear(text)

    class Listening(Zeroconf):
        """Listens from the first packet on: what comes before `add_listener` would only be in its cache, and as our questions
        say what we know already, nobody would say it again."""

        def start(self) -> None:
            self.listeners.add(Texts())
            super().start()

    zeroconf = Listening(interfaces=InterfaceChoice.All, ip_version=IPVersion.V4Only)
    ServiceBrowser(zeroconf, service, handlers=[_ignore])
    return zeroconf


def _ignore(**_: object) -> None:
    """The browser is there for its questions; the answers come to `Texts`."""
