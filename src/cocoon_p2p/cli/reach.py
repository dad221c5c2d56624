"""How a node is reached, which network it is in, and what it refused: lines for `up` and `status`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from cocoon_p2p.cli.output import NO_BREAK
from cocoon_p2p.cli.words import duration, short_ids, short_peer, width_of

Pairs = list[tuple[str, Any]]
ANSWERS = {"reachable": "yes", "relayed": "by a relay", "private": "no", "unknown": "not known yet"}
_REFUSED = (  # (beginning of a counter's name, what it counts: one, several)
    ("inbound_refused", ("connection", "connections")),
    ("connection_refused", ("connection", "connections")),
    ("connections_shed", ("connection", "connections")),
    ("handshake_failed", ("handshake", "handshakes")),
    ("negotiation_failed", ("handshake", "handshakes")),
    ("stream_refused", ("stream", "streams")),
    ("gossip_", ("gossip message", "gossip messages")),
    ("dht_", ("DHT request", "DHT requests")),
    ("relay_", ("relayed connection", "relayed connections")),
    ("peer_", ("fault of a peer", "faults of peers")),
)
_WHY = {
    "banned_subnet": "from a banned subnet",
    "subnet_rate": "too often from one subnet",
    "subnet_handshakes": "too many handshakes of one subnet",
    "subnet_full": "too many from one subnet",
    "rate": "too many at once",
    "handshakes": "too many handshakes",
    "full": "no room",
    "banned": "of banned peers",
    "peer_full": "too many of one peer",
}
_REFUSAL = re.compile(
    r"refused|rejected|dropped|invalid|throttled|no_room|of_another|shed|handshake_failed|negotiation|^peer_"
)


def network_pairs(status: Mapping[str, Any]) -> Pairs:
    """The private network, if it is one."""
    network = status.get("network") or {}
    if not network.get("private"):
        return []
    name, fingerprint = network.get("name"), network.get("fingerprint")
    return [("network", f"private network {f'{name}, ' if name else ''}fingerprint {fingerprint}")]


def bootstrap_pairs(status: Mapping[str, Any]) -> Pairs:
    """The bootstrap peers that could not be reached, why, and when they are tried again."""
    pairs: Pairs = []
    for entry in status.get("bootstrap") or ():
        if entry.get("connected") or not entry.get("error"):
            continue
        line = f"{short_ids(entry['error'])}; tried {_whole(entry.get('tried_ago_s') or 0)} ago"
        if entry.get("again_in_s") is not None:
            line += f", again in {_whole(math.ceil(entry['again_in_s']))}"
        pairs.append(("" if pairs else "bootstrap", line))
    return pairs


def _whole(seconds: float) -> str:
    """A duration that is not folded."""
    return duration(seconds).replace(" ", NO_BREAK)


def reachability_pairs(status: Mapping[str, Any]) -> Pairs:
    """Whether others can dial this node, why, and what to do for more."""
    found = status.get("reachability")
    if not found:
        return []
    answer = ANSWERS.get(str(found.get("state")), str(found.get("state")))
    addresses = status.get("addresses") or ()
    pairs: Pairs = [("reachable", f"{answer}: {short_ids(found.get('reason'))}")]
    if found.get("state") == "unknown" and addresses and all(width_of(each) == "loopback" for each in addresses):
        pairs = [("reachable", "from this machine only: it listens nowhere else")]
    if found.get("advice"):
        pairs.append(("", f"for more: {found['advice']}"))
    for name, key in (("seen as", "observed"), ("forwarded", "mapped")):
        pairs += [(name if i == 0 else "", address) for i, address in enumerate(found.get(key) or ())]
    relays = [short_peer(relay) for relay in found.get("relays") or ()]
    if relays:
        pairs.append(("relays", ", ".join(relays)))
    return pairs


def clock_pairs(status: Mapping[str, Any]) -> Pairs:
    """When most others' clocks say that this machine's is wrong."""
    advice = status.get("clock_advice")
    return [("clock", advice)] if advice else []


def refused_pairs(status: Mapping[str, Any]) -> Pairs:
    """One short line about what was refused or dropped; nothing when nothing was."""
    counters = status.get("network_counters") or {}
    groups: dict[tuple[str, str], dict[str, int]] = {}
    for name, count in counters.items():
        found = next((each for each in _REFUSED if name.startswith(each[0])), None)
        if found is not None and count and _REFUSAL.search(name):
            why = name.removeprefix(found[0]).strip("_")
            group = groups.setdefault(found[1], {})
            group[why] = group.get(why, 0) + int(count)
    parts = [f"{_counted(sum(group.values()), what)}{_reason(group)}" for what, group in groups.items()]
    return [("refused", f"{'; '.join(parts)} (status --verbose)")] if parts else []


def counter_pairs(status: Mapping[str, Any]) -> Pairs:
    """Every counter, by name."""
    counters = status.get("network_counters") or {}
    return [("counters" if i == 0 else "", f"{n} {c:,}") for i, (n, c) in enumerate(sorted(counters.items()))]


def _counted(count: int, what: tuple[str, str]) -> str:
    return f"{count:,} {what[0] if count == 1 else what[1]}"


def _reason(group: Mapping[str, int]) -> str:
    """The most frequent reason, in brackets; nothing when the name gives none."""
    why = max(group, key=lambda each: (group[each], each))
    said = _WHY.get(why, why.replace("_", " "))
    return f" ({'mostly ' if len(group) > 1 else ''}{said})" if said else ""
