"""What an operator does to single peers: connect, ping, ban, invite, join."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.drivers.invites import (
    Invitation,
    choose_addresses,
    is_invite,
    read_invite,
    require_usable,
    write_invite,
)
from cocoon_p2p.drivers.joining import EntryState, Joiner
from cocoon_p2p.drivers.known_peers import KnownPeersKeeper
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.errors import ConfigError, TransportError
from cocoon_p2p.ids import PeerId, parse_peer_id
from cocoon_p2p.limits import BAN_MAX_S
from cocoon_p2p.net.addresses import parse_address
from cocoon_p2p.net.port import Network, PeerAddresses
from cocoon_p2p.store import Store

log = logging.getLogger(__name__)

MS = 1000
UNREACHABLE_HINT = "is it running, and can this machine reach it? `cocoon-node status` there says how it is reached"
HINTS = {
    "NO_ADDRESS": "say where it is: cocoon-node peers connect /ip4/…/tcp/…/p2p/PEER_ID, or its invite",
    "WRONG_PEER": "the address belongs to another node now; ask for a new invite",
    "NOT_IN_NETWORK": "it must be in the same private network: `cocoon-node network` here and there shows the fingerprint",
    "HANDSHAKE": "if it is in a private network, enter that first: cocoon-node network join KEYFILE, or an invite made with "
    "--with-network-key",
}
"""By the code of the error; else UNREACHABLE_HINT."""


@dataclass(frozen=True, slots=True)
class Membership:
    """The network that this node is in."""

    name: str = ""
    fingerprint: str = ""
    """Of the private network; "" for the public one."""
    key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PeeringPorts:
    network: Network
    store: Store
    standing: StandingKeeper
    clock: Clock


class Peering:
    """`advertised` gives the addresses that others are told, without /p2p/."""

    def __init__(
        self,
        ports: PeeringPorts,
        joiner: Joiner,
        known: KnownPeersKeeper,
        membership: Membership,
        advertised: Callable[[], Sequence[str]],
    ) -> None:
        self._ports = ports
        self._joiner = joiner
        self._known = known
        self._advertised = advertised
        self.membership = membership

    async def ping(self, peer: PeerId) -> float:
        """Seconds of one round trip, after connecting where that is needed. Raises TransportError, ConfigError."""
        self._require_other(peer)
        await self._connect(PeerAddresses(peer, ()))
        return await self._ports.network.ping(peer)

    async def connect(self, target: str) -> PeerId:
        """`target`: a multiaddr with /p2p/, an invite, or the id of a peer whose address is known. Raises ConfigError,
        TransportError."""
        if is_invite(target):
            invitation = self._usable(target)
            peer = PeerAddresses(invitation.peer, invitation.addresses)
        elif target.startswith("/"):
            peer = _peer_at(target)
        else:
            peer = PeerAddresses(_peer_of(target), ())
        self._require_other(peer.peer)
        await self._connect(peer)
        self._ports.network.keep(peer.peer)
        return peer.peer

    async def join(self, text: str) -> Invitation:
        """Connect to who wrote the invite, now and whenever this node finds itself alone. Raises ConfigError,
        TransportError; nothing is remembered then."""
        invitation = self._usable(text)
        peer = PeerAddresses(invitation.peer, invitation.addresses)
        await self._connect(peer)
        self._joiner.add(peer)
        self._known.remember(peer.peer, peer.addresses)
        return invitation

    def invite(self, *, hours: float | None, with_network_key: bool) -> tuple[str, Invitation]:
        """The invite as text, and what is in it. Raises ConfigError: no address; no key to hand over."""
        own = self.membership
        if with_network_key and own.key is None:
            raise ConfigError(
                "this node is in no private network, so there is no network key to hand over",
                code="NO_PRIVATE_NETWORK",
                hint="leave out --with-network-key",
            )
        addresses = tuple(map(str, choose_addresses(self._advertised())))
        expires_at_ms = 0 if hours is None else self._now_ms() + round(hours * 3600 * MS)
        key = own.key if with_network_key else None
        peer = self._ports.network.peer_id
        invitation = Invitation(peer, addresses, expires_at_ms, own.name, own.fingerprint, key)
        return write_invite(invitation), invitation

    def ban(self, peer: PeerId, duration_s: float) -> int:
        """Cut the peer off and refuse it for so long, also after a restart; when that ends, in Unix milliseconds. Raises
        ConfigError."""
        self._require_other(peer)
        if not 0 < duration_s <= BAN_MAX_S:
            raise ConfigError(f"a ban lasts from a second to {BAN_MAX_S / 86_400:.0f} days, not {duration_s!r} seconds")
        return self._ports.standing.ban(peer, duration_s)

    def unban(self, peer: PeerId) -> bool:
        """End a ban; whether there was one."""
        was_banned = self._ports.standing.is_banned(peer)
        self._ports.standing.unban(peer)
        self._joiner.redial_soon(peer)
        return was_banned

    def entries(self) -> list[EntryState]:
        """How it stands with each bootstrap peer."""
        return self._joiner.entries()

    def met(self) -> tuple[PeerId, ...]:
        """Ids of peers that were connected since the start, of those reached lately, of those banned, and of the
        bootstrap peers: what an abbreviation may stand for."""
        entries = [entry.peer.peer for entry in self.entries()]
        banned = [record.peer_id for record in self._ports.store.peers.banned(now_ms=self._now_ms())]
        return tuple(dict.fromkeys((*entries, *banned, *self._known.met())))

    def _usable(self, text: str) -> Invitation:
        invitation = read_invite(text, now_ms=self._now_ms())
        if invitation.network_key is not None and invitation.fingerprint != self.membership.fingerprint:
            raise ConfigError(
                f"this invite is for the private network {invitation.network_name or invitation.fingerprint[:8]}; a node "
                "that runs cannot change its network",
                code="OTHER_NETWORK",
                hint="stop this node, run `cocoon-node join` with the invite, and start it again",
            )
        own = self.membership
        require_usable(invitation, own=self._ports.network.peer_id, fingerprint=own.fingerprint, network_name=own.name)
        return invitation

    async def _connect(self, peer: PeerAddresses) -> None:
        """With every address we know. Raises TransportError that says what to do."""
        if self._ports.standing.is_banned(peer.peer):
            raise TransportError(
                f"{peer.peer} is banned here",
                outcome_known=True,
                code="BANNED",
                hint=f"cocoon-node peers unban {peer.peer}",
            )
        record = self._ports.store.peers.get(peer.peer)
        remembered = record.addresses if record is not None else ()
        try:
            await self._ports.network.connect(peer.peer, tuple(dict.fromkeys((*peer.addresses, *remembered))))
        except TransportError as error:
            raise TransportError(
                error.message,
                outcome_known=error.outcome_known,
                code=error.code,
                hint=error.hint or HINTS.get(error.code, UNREACHABLE_HINT),
            ) from error

    def _require_other(self, peer: PeerId) -> None:
        if peer == self._ports.network.peer_id:
            raise ConfigError("that is this node itself", code="SELF", hint="`cocoon-node peers` lists the others")

    def _now_ms(self) -> int:
        return unix_ms(self._ports.clock)


def _peer_of(text: str) -> PeerId:
    try:
        return parse_peer_id(text)
    except ValueError as error:
        raise ConfigError(str(error), hint="`cocoon-node peers` lists those connected") from error


def _peer_at(text: str) -> PeerAddresses:
    try:
        address = parse_address(text)
    except ValueError as error:
        raise ConfigError(str(error), hint="an address looks like /ip4/203.0.113.5/tcp/4601/p2p/12D3KooW…") from error
    if address.peer is None:
        raise ConfigError(
            f"{text!r} does not say which peer is there",
            hint="it must end in /p2p/ and the peer's id: `cocoon-node status` on that machine shows the whole address",
        )
    return PeerAddresses(address.peer, (str(address),))
