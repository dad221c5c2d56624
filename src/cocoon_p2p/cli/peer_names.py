"""The peer that somebody means by "12D3…Dz8e6N", or by the beginning or end of its id."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cocoon_p2p.cli.words import short_peer
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.ids import parse_peer_id

if TYPE_CHECKING:
    from cocoon_p2p.cli.api_client import LocalApi
    from cocoon_p2p.node import Node

ALIKE = 8
"""Characters that all ids begin with: 12D3KooW."""
SUGGESTED_MAX = 3
PEERS_HINT = "`cocoon-node peers` lists those connected; a full id works for others, too"


def find_peer(text: str, known: Iterable[str], *, hint: str = PEERS_HINT) -> str:
    """The full id. `known` are those that an abbreviation may stand for; a full id need not be among them. Raises
    ConfigError, with the nearest ones or `hint`, when none or several fit."""
    given = text.strip()
    try:
        return parse_peer_id(given)
    except ValueError:
        pass
    peers = sorted(set(known))
    found = [peer for peer in peers if _fits(given, peer)]
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(f"…{peer[-8:]}" for peer in found[:SUGGESTED_MAX])
        more = "" if len(found) <= SUGGESTED_MAX else " and others"
        raise ConfigError(
            f"{given!r} may be any of {len(found)} peers",
            code="AMBIGUOUS_PEER",
            hint=f"give more of the end of its id: {some}{more}",
        )
    raise ConfigError(f"no peer {given[:64]!r} is known here", code="NO_PEER", hint=_nearest(given, peers) or hint)


def provider_at(api: LocalApi, text: str | None, model: str) -> str | None:
    """The provider of `model` that is meant, of those that the running node knows. Raises ConfigError."""
    if text is None or _is_whole(text):
        return text and text.strip()
    return find_provider(text, (offer["peer_id"] for offer in api.get("/v1/offers", model=model)["offers"]), model)


async def provider_of(node: Node, text: str, model: str) -> str:
    """The same of a node in this process."""
    if _is_whole(text):
        return text.strip()
    return find_provider(text, [offer["peer_id"] for offer in await node.offers(model)], model)


def find_provider(text: str, known: Iterable[str], model: str) -> str:
    """As `find_peer`, of those that offer `model`."""
    return find_peer(text, known, hint=f"cocoon-node offers {model} lists those that offer it; a full id works, too")


def _is_whole(text: str) -> bool:
    try:
        parse_peer_id(text.strip())
    except ValueError:
        return False
    return True


def _fits(given: str, peer: str) -> bool:
    for gap in ("…", "..."):
        if gap in given:
            start, _, end = given.partition(gap)
            return peer.startswith(start) and peer.endswith(end) and len(start) + len(end) > 0
    return len(given) > 0 and (peer.startswith(given) or peer.endswith(given))


def _nearest(given: str, peers: list[str]) -> str | None:
    ends = {peer[-6:]: peer for peer in peers}
    tail = given.replace("...", "…").rpartition("…")[2][-6:]
    near = difflib.get_close_matches(tail, ends, n=SUGGESTED_MAX, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(short_peer(ends[each]) for each in near)}?"
    return None
