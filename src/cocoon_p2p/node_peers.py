"""A node's view of other machines: its own addresses, its peers, invites, bans. Part of `Node`."""

from __future__ import annotations

from collections import Counter

from cocoon_p2p.assembly import Parts, advertised_addresses
from cocoon_p2p.config_edit import add_bootstrap
from cocoon_p2p.drivers.clock import unix_ms
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.ids import PeerId, parse_peer_id
from cocoon_p2p.rows import Row, ban_row, invite_row, joined_row, network_row, peer_row, reachability_row

BAN_DEFAULT_S = 86_400.0
"""A day: who misbehaved, or was mistaken for somebody, gets another chance."""


class NodePeers:
    """The part of `Node` that deals with other machines as such."""

    _parts: Parts

    # --- who and where ---

    @property
    def peer_id(self) -> PeerId:
        return self._parts.identity.peer_id

    def addresses(self) -> list[str]:
        """Multiaddrs, each with /p2p/ and our peer id: what others give as --bootstrap."""
        advertised = advertised_addresses(self._parts.network, self._parts.config)
        return [f"{address}/p2p/{self.peer_id}" for address in advertised]

    def reachability(self) -> Row:
        """Whether others can dial this node, how it knows, and what could be done for more (`net.port.Reachability`)."""
        return reachability_row(self._parts.network.reachability())

    # --- single peers ---

    async def ping(self, peer: str) -> float:
        """Seconds of one round trip to a peer, after connecting where that is needed. Raises ConfigError (no peer id, or
        our own), TransportError (no address known, unreachable, no answer within limits.PING_TIMEOUT_S, banned)."""
        return await self._parts.peering.ping(_peer_id(peer))

    async def connect(self, target: str) -> Row:
        """Connect to a peer: a multiaddr with /p2p/, an invite, or the id of a peer whose address is known. What `peers`
        says of it then. Raises ConfigError (what `target` is, or that it is for another network), TransportError."""
        peer = await self._parts.peering.connect(target)
        return next((row for row in self.peers() if row["peer_id"] == peer), {"peer_id": peer})

    def ban(self, peer: str, duration_s: float = BAN_DEFAULT_S) -> Row:
        """Cut a peer off and refuse it for so many seconds, also after a restart. Raises ConfigError."""
        peer_id = _peer_id(peer)
        return {"peer_id": peer_id, "banned_until_ms": self._parts.peering.ban(peer_id, duration_s)}

    def unban(self, peer: str) -> Row:
        """End a ban before its time; "was_banned" tells whether there was one. Raises ConfigError."""
        peer_id = _peer_id(peer)
        return {"peer_id": peer_id, "was_banned": self._parts.peering.unban(peer_id)}

    def invite(self, *, hours: float | None = None, with_network_key: bool = False) -> Row:
        """A text by which another machine joins: it holds the best addresses of this node. `hours`: how long it may be
        used; None for ever. `with_network_key`: the private network's key goes with it, so that the invite must be kept
        as secret as the key. Raises ConfigError: this node accepts no connections; there is no network key."""
        text, invitation = self._parts.peering.invite(hours=hours, with_network_key=with_network_key)
        return invite_row(text, invitation)

    async def join(self, invite: str) -> Row:
        """Connect to who wrote an invite and remember it: in the home's node.toml, for the next start, and for whenever
        this node finds itself alone. Raises ConfigError (garbled, expired, our own, another network's; node.toml cannot be
        extended), TransportError (nobody answers there); nothing is remembered then."""
        parts = self._parts
        invitation = await parts.peering.join(invite)
        file, written = parts.home.config_file, list[str]()
        if file.exists():
            written = add_bootstrap(file, invitation.entries, private=bool(parts.peering.membership.fingerprint))
        return joined_row(invitation, file if written else None)

    def peers(self) -> list[Row]:
        """Whom we are connected to."""
        parts = self._parts
        offers = parts.market.offers()
        offered = Counter(offer.peer for offer in offers)
        agents = {offer.peer: offer.agent for offer in offers}
        now_ms = unix_ms(parts.clock)
        return [
            peer_row(
                peer,
                agent=peer.agent or agents.get(peer.peer, ""),
                offers=offered[peer.peer],
                standing=parts.standing.of(peer.peer),
                now_ms=now_ms,
            )
            for peer in parts.network.peers()
        ]

    def banned(self) -> list[Row]:
        """Whom we refuse at the moment, and until when."""
        now_ms = unix_ms(self._parts.clock)
        return [ban_row(record, now_ms) for record in self._parts.store.peers.banned(now_ms=now_ms)]

    def known_peers(self) -> list[PeerId]:
        """Ids of those connected, of those whose offers are known, and of those met lately, banned ones among them."""
        parts = self._parts
        connected = [peer.peer for peer in parts.network.peers()]
        offering = [offer.peer for offer in parts.market.offers()]
        return list(dict.fromkeys((*connected, *offering, *parts.peering.met())))

    def network(self) -> Row:
        """The network that this node is in: the public one, or a private one's name and fingerprint."""
        return network_row(self._parts.peering.membership)


def _peer_id(text: str) -> PeerId:
    try:
        return parse_peer_id(text)
    except ValueError as error:
        raise ConfigError(str(error), hint="`cocoon-node peers` lists those connected") from error
