"""The peer that somebody means by "12D3…Dz8e6N", or by the beginning or end of its id."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from cocoon_p2p.cli.words import short_peer
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.ids import parse_peer_id

ALIKE = 8
"""Characters that all ids begin with: 12D3KooW."""
SUGGESTED_MAX = 3


def find_peer(text: str, known: Iterable[str]) -> str:
    """The full id. `known` are those that an abbreviation may stand for; a full id need not be among them. Raises
    ConfigError, with the nearest ones, when none or several fit."""
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
    raise ConfigError(f"no peer {given[:64]!r} is known here", code="NO_PEER", hint=_hint(given, peers))


def _fits(given: str, peer: str) -> bool:
    for gap in ("…", "..."):
        if gap in given:
            start, _, end = given.partition(gap)
            return peer.startswith(start) and peer.endswith(end) and len(start) + len(end) > 0
    return len(given) > 0 and (peer.startswith(given) or peer.endswith(given))


def _hint(given: str, peers: list[str]) -> str:
    ends = {peer[-6:]: peer for peer in peers}
    tail = given.replace("...", "…").rpartition("…")[2][-6:]
    near = difflib.get_close_matches(tail, ends, n=SUGGESTED_MAX, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(short_peer(ends[each]) for each in near)}?"
    return "`cocoon-node peers` lists those connected; a full id works for others, too"
