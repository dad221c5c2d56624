"""What would make a provider's "no" a "yes", in plain words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import Tier
from cocoon_p2p.units import format_nanogram


@dataclass(frozen=True, slots=True)
class Refusal:
    """A "no": the provider's own, or ours before it was asked."""

    reason: RefusalReason
    needed: int | None
    """As in `errors.PeerRefused`."""
    by_provider: bool
    tier: Tier
    """That was wanted."""
    offered: Iterable[Tier] = ()
    reliability: float | None = None
    """Where that was too low."""
    back_at: str = ""
    """The clock time at which it serves again, for people."""


def would_be_yes(no: Refusal) -> str | None:
    """None where nothing that the client could do helps."""
    needed = no.needed
    match no.reason:
        case RefusalReason.PRICE:
            return None if needed is None else f"runs at ≥ {format_nanogram(needed)}: --max-price {needed}"
        case RefusalReason.BUSY:
            return f"free in about {duration(needed)}" if needed else "free again soon: it did not say when"
        case RefusalReason.TIER:
            return _tier(no)
        case RefusalReason.LIMITS:
            return None if needed is None else f"takes up to {needed:,}: split the job"
        case RefusalReason.PAYMENT:
            return (
                "takes payments on another network" if not no.by_provider else "works over a new channel: run it again"
            )
        case RefusalReason.QUOTE_EXPIRED:
            return "runs when it is asked again: its quote had expired"
        case RefusalReason.STANDING:
            return _standing(no)
        case RefusalReason.SHUTTING_DOWN:
            return "runs when its operator has started it again"
        case RefusalReason.IDLE_POLICY:
            return _idle(no)
        case _:
            return None


def duration(ms: int) -> str:
    """ "4 s", "3 min", "2 h", rounded up: who waits so long does not come too early."""
    for unit_ms, name, enough in ((1000, "s", 90), (60_000, "min", 90), (3_600_000, "h", 48)):
        count = -(-ms // unit_ms)
        if count <= enough:
            return f"{count} {name}"
    return f"{-(-ms // 86_400_000)} days"


def _tier(no: Refusal) -> str | None:
    offered = sorted(no.offered)
    if not offered:
        return None
    below = [tier for tier in offered if tier < no.tier]
    if below:
        return f"needs tier ≤ {below[-1].name.lower()}: --tier {below[-1].name.lower()}"
    above = [tier for tier in offered if tier > no.tier]
    return f"needs tier ≥ {above[0].name.lower()}: --tier {above[0].name.lower()}" if above else None


def _standing(no: Refusal) -> str:
    if no.by_provider:
        return "takes jobs of this node again after a while"
    if no.reliability is not None:
        return f"its reliability is {no.reliability:.2f}: --min-reliability {_floor(no.reliability)}"
    return "runs when its ban here is over: cocoon-node peers unban"


def _idle(no: Refusal) -> str:
    if no.needed is None:
        return "serves again when its operator's rules allow it"
    when = f"from {no.back_at} " if no.back_at else ""
    return f"serves again {when}(in {duration(no.needed)})"


def _floor(value: float) -> str:
    """Two digits, rounded down, so that the number lets the provider in."""
    return f"{int(100 * value) / 100:.2f}"
