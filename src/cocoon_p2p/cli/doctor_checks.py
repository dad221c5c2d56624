"""What `cocoon-node doctor` makes of what it saw: facts in, a verdict in plain words with what to do next out. No IO.

A check fails when others cannot find, reach or buy from this node, or would get wrong answers; it warns of what costs money or
customers; it is skipped where it does not apply, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cocoon_p2p.cli.words import damaged_text, duration, short_ids, short_peer, size, width_of
from cocoon_p2p.limits import CLOCKS_TO_JUDGE_BY, DOCTOR_DISK_FULL_BYTES, DOCTOR_DISK_LOW_BYTES

State = Literal["pass", "warn", "fail", "skip"]
Row = Mapping[str, Any]
SHOWN_MAX = 3
"""Single things that are named; the rest is a number."""


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    state: State
    seen: str
    """What was seen."""
    advice: str = ""
    """What to do about it."""


@dataclass(frozen=True, slots=True)
class HomeFacts:
    """What lies on the disk."""

    path: str
    open_to_others: tuple[str, ...]
    """Keys, and the folder itself, that other users of this machine can read."""
    free_bytes: int
    database_error: str = ""
    """Why the node's databases do not answer."""
    damaged_rows: Row = field(default_factory=dict)
    """How many rows of which table could not be read lately, and were set aside."""


def judge_home(facts: HomeFacts) -> Check:
    free = f"{size(facts.free_bytes)} free"
    if facts.database_error:
        return Check(
            "home",
            "fail",
            f"the databases in {facts.path} do not answer: {facts.database_error}",
            "look at the disk and at the node's log, then start the node again",
        )
    if facts.free_bytes < DOCTOR_DISK_FULL_BYTES:
        return Check("home", "fail", f"the disk of {facts.path} is full: {free}", f"make room: {_models_hint()}")
    if facts.open_to_others:
        names = " ".join(facts.open_to_others)
        return Check("home", "fail", f"other users of this machine can read {names}", f"chmod go= {names}")
    if facts.free_bytes < DOCTOR_DISK_LOW_BYTES:
        return Check("home", "warn", f"the disk of {facts.path} is nearly full: {free}", f"make room: {_models_hint()}")
    if facts.damaged_rows:
        return Check(
            "home",
            "warn",
            f"in {facts.path}/state.sqlite3 {damaged_text(facts.damaged_rows)}; this node goes on without them",
            "look at the disk; they are kept in the table damaged_rows, and a backup has them as they were",
        )
    return Check("home", "pass", f"{facts.path}: keys for its owner only, databases answer, {free}")


def _models_hint() -> str:
    return "cocoon-node models list shows what is installed, cocoon-node models remove NAME deletes it"


def judge_clock(own: Row, strangers: Row | None) -> Check:
    """`own`: how the node's clock compares; `strangers`: how this machine's does by what peers told the stranger."""
    for found in (own, strangers or {}):
        if found.get("own_error_s") is not None:
            return Check("clock", "fail", str(found["advice"]), "timedatectl set-ntp true; then start the node again")
    differ, compared = max((_counts(own), _counts(strangers or {})), key=lambda counts: counts[1])
    if not compared:
        return Check("clock", "skip", "nobody's announcement was heard yet to compare this machine's clock with")
    if 0 < differ < compared / 2 and compared >= CLOCKS_TO_JUDGE_BY:
        return Check("clock", "pass", f"it agrees with {compared - differ} of {_clocks(compared)}; the rest is wrong")
    if differ:
        return Check(
            "clock",
            "warn",
            f"{differ} of {_clocks(compared)} differ from this machine's by a minute or more; which are right is not known",
            "compare `date -u` with a clock that you trust; timedatectl set-ntp true sets this one",
        )
    return Check("clock", "pass", f"it agrees with {_clocks(compared)}")


def _counts(found: Row) -> tuple[int, int]:
    return int(found.get("differ", 0)), int(found.get("compared", 0))


def _clocks(count: int) -> str:
    return "1 other clock" if count == 1 else f"{count} other clocks"


def judge_connections(peers: int, entries: Sequence[Row], at: str) -> Check:
    """`peers` without the stranger; `entries` are the bootstrap nodes of the status; `at` is " --home DIR" or ""."""
    failing = [entry for entry in entries if not entry["connected"]]
    whom = "1 peer" if peers == 1 else f"{peers} peers"
    if peers and not failing:
        known = f", every bootstrap node among them ({len(entries)})" if entries else ""
        return Check("connections", "pass", f"connected to {whom}{known}")
    errors = "; ".join(
        f"{short_peer(entry['peer_id'])}: {short_ids(entry.get('error') or 'not dialled yet')}"
        for entry in failing[:SHOWN_MAX]
    )
    counted = f"{len(failing)} of {len(entries)} bootstrap nodes not connected ({errors})"
    if peers:
        return Check(
            "connections",
            "warn",
            f"connected to {whom}; {counted}",
            "take addresses that are no more out of bootstrap in node.toml",
        )
    if entries:
        return Check(
            "connections",
            "fail",
            f"connected to nobody: {counted}",
            f"check this machine's own way to the network, ask for an invite to enter by: cocoon-node join INVITE{at}",
        )
    return Check(
        "connections",
        "warn",
        "connected to nobody, and no bootstrap address is known: this node is a network of one",
        f"enter another's network: cocoon-node join INVITE{at}; or let others in: cocoon-node invite{at}",
    )


def judge_reachability(found: Row, addresses: Sequence[str], *, serves: bool, listens: bool, at: str) -> Check:
    """By what others' attempts to dial back showed (AutoNAT)."""
    name, state = "reachability", found.get("state")
    reason, advice = short_ids(found.get("reason")), str(found.get("advice") or "")
    if not listens:
        return Check(name, "skip", "this node accepts no connections: [network] listen is empty")
    if addresses and all(width_of(each) == "loopback" for each in addresses):
        return Check(
            name,
            "warn",
            "it listens on this machine only: nobody elsewhere can reach it",
            'in [network] of node.toml: listen = ["/ip4/0.0.0.0/tcp/4601"]; then start the node again',
        )
    if state == "reachable":
        return Check(name, "pass", f"others dial this node: {reason}")
    if state == "relayed":
        return Check(name, "warn", f"others reach this node through relays only: {reason}", advice or _forward())
    if state == "private":
        return Check(
            name, "fail" if serves else "warn", f"others cannot reach this node: {reason}", advice or _forward()
        )
    return Check(name, "warn", f"not known yet: {reason}", advice or f"ask again in a minute: cocoon-node doctor{at}")


def _forward() -> str:
    return "forward the port at the router by hand, and name it in announce_addresses of [network] in node.toml"


def judge_addresses(dials: Sequence[Row], *, state: str) -> Check:
    """`dials`: how the stranger fared at each announced address. `state`: what others found (`judge_reachability`)."""
    name = "addresses"
    if not dials:
        return Check(name, "skip", "no address is announced to dial")
    answered = [dial for dial in dials if dial["error"] is None]
    silent = [dial for dial in dials if dial["error"] is not None]
    where = "the stranger is on this machine, too, so this says nothing of the router"
    errors = "; ".join(f"{short_ids(dial['address'])} ({short_ids(dial['error'])})" for dial in silent[:SHOWN_MAX])
    if not silent:
        shown = ", ".join(short_ids(dial["address"]) for dial in answered[:SHOWN_MAX])
        more = f" and {len(answered) - SHOWN_MAX} more" if len(answered) > SHOWN_MAX else ""
        return Check(name, "pass", f"this node answers at {shown}{more} ({where})")
    if answered and state == "reachable":
        return Check(
            name,
            "pass",
            f"{len(answered)} of {len(dials)} addresses answer here, not {errors}; others reach this node: many routers let "
            f"nobody in from within ({where})",
        )
    if answered:
        return Check(
            name,
            "warn",
            f"{len(answered)} of {len(dials)} addresses answer, not {errors} ({where})",
            "take what is wrong out of announce_addresses in node.toml; let the port through this machine's firewall",
        )
    return Check(
        name,
        "warn" if state in ("reachable", "relayed") else "fail",
        f"nothing answers at any announced address: {errors} ({where})",
        "let the port of [network] listen through this machine's firewall; correct announce_addresses in node.toml",
    )


def judge_heard(rows: Sequence[Row], *, uptime_s: float, at: str) -> Check:
    """`rows`: what peers' books say of us (`Node.heard`)."""
    name = "announcement"
    if not rows:
        return Check(name, "skip", "there is nobody to ask who might have heard of this node")
    knowing = [row for row in rows if row["knows"]]
    errors = [f"{short_peer(row['peer_id'])}: {short_ids(row['error'])}" for row in rows if row["error"]]
    trouble = f" ({'; '.join(errors[:SHOWN_MAX])})" if errors else ""
    if not knowing:
        advice = f"wait half a minute and ask again: cocoon-node doctor{at}"
        if uptime_s >= YOUNG_S:
            advice = f'look for what peers refuse: cocoon-node status --verbose{at}; the log says more (level = "info")'
        state: State = "fail" if uptime_s >= YOUNG_S else "warn"
        return Check(name, state, f"none of {len(rows)} peers asked knows what this node offers{trouble}", advice)
    how: dict[str, int] = {}
    for row in knowing:
        how[str(row["heard_by"])] = how.get(str(row["heard_by"]), 0) + 1
    ways = ", ".join(f"{count} {_WAYS.get(way, way)}" for way, count in how.items())
    oldest = duration(max(int(row["heard_ago_ms"] or 0) for row in knowing) / 1000)
    seen = (
        f"{len(knowing)} of {len(rows)} peers asked know what this node offers: {ways}, at most {oldest} old{trouble}"
    )
    if 2 * len(knowing) < len(rows):
        return Check(name, "warn", seen, f"ask again in half a minute: cocoon-node doctor{at}")
    return Check(name, "pass", seen)


YOUNG_S = 90.0
"""Three regular announcements: before that, a node may be too young to be known."""
_WAYS = {"gossip": "by gossip", "dht": "from the directory", "asked": "by asking it", "book": "from others' books"}


def judge_directory(row: Row, model: str, *, uptime_s: float, at: str) -> Check:
    """`row`: what the stranger read in the DHT (`Node.in_directory`)."""
    name = "directory"
    missing = []
    if row["age_ms"] is None:
        missing.append("a stranger finds no record of this node in the DHT")
    if not row["listed"]:
        missing.append(f"it is not among the {row['providers']} providers of {model} that the DHT names")
    if not missing:
        age = duration(int(row["age_ms"]) / 1000)
        others = int(row["providers"]) - 1
        return Check(
            name, "pass", f"a stranger finds its record ({age} old) and, with {others} others, its name under {model}"
        )
    young = uptime_s < YOUNG_S
    advice = f"wait a minute and ask again: cocoon-node doctor{at}"
    if not young:
        advice = f"it is stored where peers can be reached; see: cocoon-node peers{at}; more bootstrap nodes help"
    return Check(name, "warn", "; ".join(missing), advice)


def judge_left_out(model: Row, *, at: str) -> Check:
    """A model that is here and not on offer, by its row in the node's status."""
    name = model["name"]
    advice = f"mend that and start the node again, or take it away: cocoon-node models remove {name}{at}"
    return Check(f"model {name}", "warn", f"it is not on offer: {model['problem']}", advice)


def judge_without_models(status: Row, *, at: str) -> Check:
    """A node that offers nothing."""
    if not status["serve"]:
        return Check("models", "skip", "this node serves nobody: [provider] serve is false")
    if status.get("auto_serve"):
        seen = "this node serves nothing yet: it picks up models that are wanted ([provider] auto_serve)"
        return Check("models", "skip", seen)
    advice = f"to serve one: cocoon-node models add PATH{at}"
    return Check("models", "skip", "this node serves nobody: no model is installed", advice)


def totals(checks: Sequence[Check]) -> str:
    """ "12 checks: 9 passed, 2 to look at, 1 failed"."""
    counts = {state: sum(check.state == state for check in checks) for state in ("pass", "warn", "fail", "skip")}
    parts = [f"{counts['pass']} passed", f"{counts['warn']} warned", f"{counts['fail']} failed"]
    if counts["skip"]:
        parts.append(f"{counts['skip']} did not apply")
    return f"{len(checks)} checks: {', '.join(parts)}"
