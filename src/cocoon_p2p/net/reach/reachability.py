"""Whether others can dial this node: judged from what they say and do. Pure; the driver is probing.py.

A vote is a peer that tried to dial us (AutoNAT), or that did so by itself. Votes count within a scope: what the machines of
a LAN can do says nothing of the internet. The widest scope in which we have peers decides, so that a testnet on one machine
and an office without internet are judged by themselves. There, one vote a peer; on the internet, one vote a subnet.

VOTES_MIN votes must say the same, and more than say otherwise, or one where only one peer is there that could be asked: a
network of two nodes has no second opinion. Where they disagree, what was believed before stands.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import AUTONAT_ADDRESSES_MAX, VOTE_LIFETIME_S, VOTES_MAX, VOTES_MIN
from cocoon_p2p.net.addresses import Address, parse_dialable
from cocoon_p2p.net.port import Reachability
from cocoon_p2p.net.reach.observed import Mapping
from cocoon_p2p.net.switch.origins import Origin

Scope = Literal["loopback", "private", "public"]
Verdict = Literal["unknown", "reachable", "private"]
_WIDTH: dict[Scope, int] = {"loopback": 0, "private": 1, "public": 2}
_WHERE: dict[Scope, str] = {
    "loopback": "on this machine",
    "private": "on the local network",
    "public": "on the internet",
}
_MANUAL = "see nodes/REACHABILITY.md"


def scope_of(origin: Origin) -> Scope | None:
    """None for what comes through a relay: it says nothing about us."""
    return None if origin.kind == "relay" else origin.kind


def widest(scopes: Iterable[Scope]) -> Scope | None:
    return max(scopes, key=lambda scope: _WIDTH[scope], default=None)


@dataclass(frozen=True, slots=True)
class Vote:
    """`voter` is a subnet on the internet, else a peer."""

    voter: str
    reached: bool
    address: Address | None
    """Where it reached us, or could not; None: it dialled us by itself, and did not say where."""
    at: float


class Votes:
    """The newest vote of each voter, by scope; at most VOTES_MAX in each, none older than VOTE_LIFETIME_S."""

    def __init__(self) -> None:
        self._votes: dict[Scope, OrderedDict[str, Vote]] = {scope: OrderedDict() for scope in _WIDTH}
        self._believed: dict[Scope, Verdict] = {}

    def add(self, scope: Scope, vote: Vote) -> None:
        votes = self._votes[scope]
        votes[vote.voter] = vote
        votes.move_to_end(vote.voter)
        if len(votes) > VOTES_MAX:
            votes.popitem(last=False)

    def clear(self, scope: Scope) -> None:
        """Our address there is another now."""
        self._votes[scope].clear()
        self._believed.pop(scope, None)

    def current(self, scope: Scope, now: float) -> list[Vote]:
        """Oldest first."""
        votes = self._votes[scope]
        for voter in [voter for voter, vote in votes.items() if now - vote.at >= VOTE_LIFETIME_S]:
            del votes[voter]
        return list(votes.values())

    def verdict(self, scope: Scope, askable: Iterable[str], now: float) -> Verdict:
        """`askable`: who could vote there at this moment."""
        votes = self.current(scope, now)
        yes = sum(vote.reached for vote in votes)
        no = len(votes) - yes
        needed = min(VOTES_MIN, len({vote.voter for vote in votes}.union(askable)))
        if votes and max(yes, no) >= needed and yes != no:
            self._believed[scope] = "reachable" if yes > no else "private"
        elif not votes:
            self._believed.pop(scope, None)
        return self._believed.get(scope, "unknown")


@dataclass(frozen=True, slots=True)
class Situation:
    """What a node knows of itself at one moment, beside the votes."""

    listening: tuple[Address, ...]
    """Wildcards resolved."""
    announced: tuple[str, ...] = ()
    """What others are told, in the end."""
    by_operator: bool = False
    """Whether the operator said what is announced."""
    scope: Scope | None = None
    """The widest in which there are peers."""
    askable: frozenset[str] = frozenset()
    """Voters of that scope that speak AutoNAT."""
    observed: tuple[Address, ...] = ()
    observed_hosts: tuple[str, ...] = ()
    mapping: Mapping = "unknown"
    mapped: tuple[Address, ...] = ()
    upnp: str | None = None
    """What became of UPnP, as half a sentence; None where it was not tried."""
    relays: tuple[PeerId, ...] = ()


def judge(situation: Situation, votes: Votes, now: float) -> Reachability:
    """The state, how it is known, and what to do about it."""
    shown = Reachability(
        "unknown",
        "peers are being asked",
        addresses=situation.announced,
        observed=situation.observed_hosts,
        mapped=tuple(map(str, situation.mapped)),
        relays=situation.relays,
    )
    if not situation.listening:
        return replace(shown, state="private", reason="this node listens on no address; it only dials")
    if situation.scope is None:
        here = all(address.is_loopback for address in situation.listening)
        return replace(shown, reason="this node listens on this machine only" if here else "no peer is connected")
    cast = votes.current(situation.scope, now)
    verdict = votes.verdict(situation.scope, situation.askable, now)
    if verdict == "reachable":
        return replace(shown, state="reachable", reason=_reason(cast, True, situation.scope))
    if verdict == "private":
        return _private(replace(shown, reason=_reason(cast, False, situation.scope)), situation)
    if cast:
        return replace(shown, reason=_reason(cast, True, situation.scope) + ", too few to be sure")
    if not situation.askable:
        return replace(shown, reason="none of our peers can try to dial us")
    return shown


def wants_relay(situation: Situation, state: Reachability) -> bool:
    """Whether to hold reservations. Peers that dial us back in vain take their time (AUTONAT_DIAL_BACK_TIMEOUT_S), and a
    reservation costs next to nothing: who has peers on the internet and listens on private addresses only does not wait."""
    if not situation.listening:
        return False
    if state.state != "unknown":
        return state.state in ("private", "relayed")
    seems_private = not situation.by_operator and not any(address.is_public for address in situation.listening)
    return situation.scope == "public" and seems_private


def _private(shown: Reachability, situation: Situation) -> Reachability:
    advice = _advice(situation)
    if situation.relays:
        through = ", ".join(situation.relays)
        many = len(situation.relays) > 1
        reason = f"{shown.reason}; relay{'s' if many else ''} {through} take{'' if many else 's'} connections for us"
        return replace(shown, state="relayed", reason=reason, advice=advice)
    return replace(
        shown, state="private", reason=f"{shown.reason}, and no relay takes connections for us", advice=advice
    )


def _reason(votes: Sequence[Vote], reached: bool, scope: Scope) -> str:
    """ "3 of 4 peers on the internet dialled us at /ip4/…"."""
    agreeing = [vote for vote in votes if vote.reached == reached]
    addresses = list(dict.fromkeys(str(vote.address) for vote in agreeing if vote.address is not None))
    number = str(len(agreeing)) if len(agreeing) == len(votes) else f"{len(agreeing)} of {len(votes)}"
    peers = "peer" if number == "1" else "peers"
    at = f" at {', '.join(addresses[:3])}" if addresses else ""
    return f"{number} {peers} {_WHERE[scope]} {'dialled us' if reached else 'could not dial us'}{at}"


def _advice(situation: Situation) -> str:
    ports = " and ".join(dict.fromkeys(str(address.port) for address in situation.listening))
    if situation.scope != "public":
        return f"let TCP port {ports} through the firewall of this machine; {_MANUAL}"
    if situation.by_operator:
        return f"check that announce_addresses leads to TCP port {ports} of this machine; {_MANUAL}"
    if any(address.is_public for address in situation.listening):
        return f"let TCP port {ports} through the firewall of this machine or of its provider; {_MANUAL}"
    hint = ""
    if situation.mapping == "endpoint-dependent":
        hint = "; the router gives each connection another port, so hole punching rarely works"
    if situation.mapped:
        return f"{situation.upnp}, but nobody gets through: look for a firewall or a second router{hint}; {_MANUAL}"
    if situation.upnp is None:
        return f"forward TCP port {ports} to this machine in the router, or set [network] upnp = true{hint}; {_MANUAL}"
    return (
        f"forward TCP port {ports} to this machine in the router, or turn on UPnP there "
        f"({situation.upnp}){hint}; {_MANUAL}"
    )


def candidates(situation: Situation, seen_at: Address | None) -> tuple[Address, ...]:
    """What to let a peer dial that sees us at `seen_at`: it dials nothing but the IP address that it sees (autonat-v1.md),
    so our ports there, and whatever else we know of that leads there."""
    announced = [address for address in parse_dialable(situation.announced) if address.relay is None]
    named = [address for address in announced if address.kind not in ("ip4", "ip6")]  # nobody dials names for others
    ends = [(address.port, address.websocket) for address in (*named, *situation.listening)]
    known = [*announced, *situation.mapped, *situation.observed, *situation.listening]
    if seen_at is None:
        return tuple(dict.fromkeys(known))[:AUTONAT_ADDRESSES_MAX]
    guessed = [replace(seen_at.endpoint, port=port, websocket=websocket) for port, websocket in dict.fromkeys(ends)]
    there = [address for address in known if address.host == seen_at.host]
    return tuple(dict.fromkeys([*there, *guessed]))[:AUTONAT_ADDRESSES_MAX]


def confirmed(situation: Situation, votes: Votes, now: float) -> tuple[Address, ...]:
    """Addresses at which peers reached us and that are ours beyond what one peer says: a liar that sees us at somebody
    else's address and "reaches" us there must not get that address announced."""
    if situation.scope is None or votes.verdict(situation.scope, situation.askable, now) != "reachable":
        return ()
    ours = {
        *situation.observed_hosts,
        *(address.host for address in (*situation.listening, *situation.mapped)),
    }
    reached = [
        vote.address for vote in votes.current(situation.scope, now) if vote.reached and vote.address is not None
    ]
    return tuple(dict.fromkeys(address for address in reached if address.host in ours))
