"""Where peers were reached, network by network, so that a node finds its network again. Bounded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import cast

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import ADDRESSES_PER_ANNOUNCEMENT_MAX, KNOWN_NETWORKS_MAX, KNOWN_PEERS_KEPT_MAX
from cocoon_p2p.store.database import Database


@dataclass(frozen=True, slots=True)
class KnownPeer:
    peer: PeerId
    addresses: tuple[str, ...]
    """Multiaddrs without the /p2p/ part, at least one, the one that worked first."""
    reached_at_ms: int
    """Unix milliseconds at which we were last connected."""


class KnownPeers:
    """The table. `network` is the fingerprint of a private network, "" for the public one; they are never mixed."""

    def __init__(
        self, database: Database, *, kept_max: int = KNOWN_PEERS_KEPT_MAX, networks_max: int = KNOWN_NETWORKS_MAX
    ) -> None:
        self._database = database
        self._kept_max = kept_max
        self._networks_max = networks_max

    def save(self, network: str, peers: list[KnownPeer]) -> None:
        """Add or update these, and forget those of the network that were reached longest ago beyond the bound."""
        with self._database.transaction():
            for each in peers:
                self._database.execute(
                    "INSERT INTO known_peers (network, peer_id, addresses, reached_at_ms) VALUES (?,?,?,?) "
                    "ON CONFLICT (network, peer_id) DO UPDATE SET addresses=excluded.addresses, "
                    "reached_at_ms=excluded.reached_at_ms",
                    (network, each.peer, _encode(each.addresses), each.reached_at_ms),
                )
            self._database.execute(
                "DELETE FROM known_peers WHERE network=? AND peer_id IN (SELECT peer_id FROM known_peers "
                "WHERE network=? ORDER BY reached_at_ms DESC, peer_id LIMIT -1 OFFSET ?)",
                (network, network, self._kept_max),
            )
            self._database.execute(
                "DELETE FROM known_peers WHERE network IN (SELECT network FROM known_peers "
                "GROUP BY network ORDER BY max(reached_at_ms) DESC, network LIMIT -1 OFFSET ?)",
                (self._networks_max,),
            )

    def of_network(self, network: str, *, since_ms: int = 0) -> list[KnownPeer]:
        """Those reached since then, the latest first."""
        rows = self._database.all(
            "SELECT peer_id, addresses, reached_at_ms FROM known_peers WHERE network=? AND reached_at_ms>=? "
            "ORDER BY reached_at_ms DESC, peer_id",
            (network, since_ms),
        )
        return [
            KnownPeer(PeerId(cast(str, peer)), tuple(json.loads(cast(str, addresses))), cast(int, reached_at_ms))
            for peer, addresses, reached_at_ms in rows
        ]

    def forget(self, network: str, peer: PeerId) -> None:
        """It was not who we took it for, or does not want us."""
        self._database.execute("DELETE FROM known_peers WHERE network=? AND peer_id=?", (network, peer))


def _encode(addresses: tuple[str, ...]) -> str:
    return json.dumps(addresses[:ADDRESSES_PER_ANNOUNCEMENT_MAX])
