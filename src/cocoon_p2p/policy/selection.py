"""Which providers a client asks: out of a few random offers that fit, the one that its preference likes best.

Taking the best of several random candidates, and not the best of all, keeps the clients of a network from all running to
the same provider (Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001). What a crowd of strangers can
have of our jobs is bounded twice: by subnet, and, while a provider fits that we know to be good, by a small share for all
newcomers together. While we know nobody, one of those that are asked is drawn without regard to what it promises, since a
promise costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import PeerId, Tier
from cocoon_p2p.limits import (
    KNOWN_BAD_RELIABILITY,
    KNOWN_GOOD_RELIABILITY,
    KNOWN_GOOD_WANTED,
    NEWCOMER_SHARE,
    NEWCOMER_TRIES,
    SELECTION_SAMPLE,
    SUBNET_ASKED_MAX,
    SUBNET_DRAWN_MAX,
)
from cocoon_p2p.policy.preference import BALANCED, Preference
from cocoon_p2p.units import format_nanogram

LATENCY_UNKNOWN_MS = 100.0
"""A round trip between continents: somebody whose latency was never measured is not preferred for it."""
ITEM_UNKNOWN_US = 10_000
"""Work per item where a provider announces none."""


class Random(Protocol):
    """The part of `random.Random` that is used here; it is handed in, so that a seed repeats a decision."""

    def sample(self, population: Sequence[int], k: int) -> list[int]: ...

    def random(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """The job that needs a provider."""

    tier: Tier
    items: int
    input_bytes: int
    max_total: int | None = None
    """The most to pay, nanogram; None for no limit."""
    provider: PeerId | None = None
    """Only this one."""
    networks: frozenset[int] = frozenset({0})
    """Settlement networks that we can pay on."""
    min_reliability: float = 0.0
    """0 … 1; a stranger's is 0.5."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One provider's offer of the model, and what we know of the provider."""

    peer_id: PeerId
    prices: Mapping[Tier, tuple[int, int]]
    """By tier: nanogram a job, and nanogram an item on top."""
    items_max: int
    input_bytes_max: int
    networks: frozenset[int] = frozenset({0})
    queue_ms: int = 0
    item_us: int = 0
    """Work per item as we know it from there, else as announced; 0 for unknown."""
    latency_ms: float | None = None
    reliability: float = 0.5
    """0 … 1, of `policy.experience.reliability`."""
    banned: bool = False
    subnet: str = ""
    """Of whom it may be a part (`policy.subnets`); "" for one of its own."""
    tries: int = 0
    """Jobs that it had from us."""
    expected_ms: float | None = None
    """How long this job takes there by our own experience, without its queue; None where there is none."""
    in_flight: int = 0
    """Jobs of ours that it has at this moment."""
    slots_free: int | None = None
    """As announced; None for unknown."""

    def price(self, wanted: Wanted) -> int:
        """Nanogram, for a tier that it offers."""
        base, per_item = self.prices[wanted.tier]
        return base + per_item * wanted.items

    def time_ms(self, wanted: Wanted) -> float:
        """How long the job is expected to take: as we know it from there, else by what was announced; behind what waits
        there already, our own jobs included, which its last announcement may not count yet."""
        work_ms = wanted.items * (self.item_us or ITEM_UNKNOWN_US) / 1000
        expected_ms = self.expected_ms
        if expected_ms is None:
            expected_ms = (LATENCY_UNKNOWN_MS if self.latency_ms is None else self.latency_ms) + work_ms
        return 1 + expected_ms + self.queue_ms + self.in_flight * work_ms

    @property
    def is_newcomer(self) -> bool:
        """We cannot tell yet what it is worth."""
        return self.tries < NEWCOMER_TRIES

    @property
    def is_known_good(self) -> bool:
        """It did our jobs well, and has room for one more as far as we know."""
        return not self.is_newcomer and self.reliability >= KNOWN_GOOD_RELIABILITY and self.slots_free != 0

    @property
    def is_known_bad(self) -> bool:
        """It failed most of our jobs. No price is low enough for that."""
        return not self.is_newcomer and self.reliability < KNOWN_BAD_RELIABILITY


@dataclass(frozen=True, slots=True)
class Excluded:
    """A candidate that does not fit, why, and the number that would make it fit (as in `errors.PeerRefused`)."""

    candidate: Candidate
    reason: RefusalReason
    detail: str
    needed: int | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    chosen: tuple[Candidate, ...]
    """The one to ask first, first."""
    excluded: tuple[Excluded, ...]
    trial: bool = False
    """The first of the chosen is a newcomer that is to have this job if it wants it, though others score better."""


def select(
    wanted: Wanted,
    candidates: Sequence[Candidate],
    *,
    count: int,
    rng: Random,
    prefer: Preference = BALANCED,
    at_least: int = 1,
) -> Selection:
    """Up to `count` candidates, each the best of `limits.SELECTION_SAMPLE` random ones of those that are left; where no good
    one is known, the last of several is any one.

    While a good one fits that we know, newcomers are drawn now and then (`_newcomers_share`), and as many as are missing from
    `at_least`. Those that we know to be bad come last, and only where others are missing."""
    fitting: list[Candidate] = []
    excluded: list[Excluded] = []
    for candidate in candidates:
        misfit = why_not(wanted, candidate)
        if misfit is None:
            fitting.append(candidate)
        else:
            excluded.append(misfit)
    bad = [candidate for candidate in fitting if candidate.is_known_bad]
    if len(bad) == len(fitting):
        return Selection(tuple(_choose(wanted, bad, count, rng, prefer)), tuple(excluded))
    fitting = [candidate for candidate in fitting if not candidate.is_known_bad]
    if not any(candidate.is_known_good for candidate in fitting):
        chosen = _choose(wanted, fitting, count - 1 if 1 < count < len(fitting) else count, rng, prefer)
        if len(chosen) < min(count, len(fitting)):
            chosen += _by_lot([each for each in fitting if each not in chosen], chosen, rng)
        chosen += _choose(wanted, bad, min(at_least, count) - len(chosen), rng, prefer, beside=chosen)
        return Selection(tuple(chosen), tuple(excluded))
    known = [candidate for candidate in fitting if not candidate.is_newcomer]
    newcomers = [candidate for candidate in fitting if candidate.is_newcomer]
    trial = bool(newcomers) and count > 0 and rng.random() < _newcomers_share(known)
    chosen = _choose(wanted, newcomers, 1, rng, prefer) if trial else []
    chosen += _choose(wanted, known, count - len(chosen), rng, prefer, beside=chosen)
    if len(chosen) < at_least:
        left = [candidate for candidate in newcomers if candidate not in chosen]
        chosen += _choose(wanted, left, min(at_least, count) - len(chosen), rng, prefer, beside=chosen)
        chosen += _choose(wanted, bad, min(at_least, count) - len(chosen), rng, prefer, beside=chosen)
    return Selection(tuple(chosen), tuple(excluded), trial)


def _newcomers_share(known: Sequence[Candidate]) -> float:
    """limits.NEWCOMER_SHARE; up to four times as much while we know less than KNOWN_GOOD_WANTED good ones: who has only one
    to fall back on should get to know more, and not all of a market's jobs should go to whom each client met first."""
    good = sum(candidate.is_known_good for candidate in known)
    return NEWCOMER_SHARE * max(1, KNOWN_GOOD_WANTED + 1 - good)


def score(wanted: Wanted, candidate: Candidate) -> float:
    """Price × expected time ÷ reliability; lower is better."""
    return BALANCED.score(wanted, candidate)


def _choose(
    wanted: Wanted,
    fitting: Sequence[Candidate],
    count: int,
    rng: Random,
    prefer: Preference,
    *,
    beside: Sequence[Candidate] = (),
) -> list[Candidate]:
    """`count` of them, or all; those of subnets that were chosen from already only when no others are left."""
    pool = list(fitting)
    chosen: list[Candidate] = []
    taken = Counter(candidate.subnet for candidate in beside if candidate.subnet)
    while pool and len(chosen) < count:
        elsewhere = [candidate for candidate in pool if taken[candidate.subnet] < SUBNET_ASKED_MAX]
        best = _best(wanted, _drawn(elsewhere or pool, rng), prefer, rng)
        chosen.append(best)
        pool.remove(best)
        if best.subnet:
            taken[best.subnet] += 1
    return chosen


def _by_lot(pool: Sequence[Candidate], beside: Sequence[Candidate], rng: Random) -> list[Candidate]:
    """One of the pool, whatever it promises; of another subnet than those chosen, while there is one."""
    taken = Counter(candidate.subnet for candidate in beside if candidate.subnet)
    elsewhere = [candidate for candidate in pool if taken[candidate.subnet] < SUBNET_ASKED_MAX] or pool
    return [elsewhere[index] for index in rng.sample(range(len(elsewhere)), 1)]


def _best(wanted: Wanted, drawn: Sequence[Candidate], prefer: Preference, rng: Random) -> Candidate:
    """The best, or by chance one of those that cost no more and whose score differs from the best's by noise alone (what
    the preference calls `near_enough`): equal providers should get equal work."""
    scored = [(prefer.score(wanted, candidate), candidate) for candidate in drawn]
    least, best = min(scored, key=lambda each: each[0])
    near = getattr(prefer, "near_enough", 1.0)
    if near == 1.0:
        return best
    price = best.price(wanted)
    equal = [each for value, each in scored if value <= near * least and each.price(wanted) <= price]
    return equal[rng.sample(range(len(equal)), 1)[0]]


def _drawn(pool: Sequence[Candidate], rng: Random) -> list[Candidate]:
    """`limits.SELECTION_SAMPLE` random ones, of one subnet at most `limits.SUBNET_DRAWN_MAX` while there are others."""
    subnets = {candidate.subnet for candidate in pool}
    one_subnet = len(subnets) == 1 and "" not in subnets
    counted: Counter[str] = Counter()
    drawn: list[Candidate] = []
    for index in rng.sample(range(len(pool)), len(pool)):
        candidate = pool[index]
        if candidate.subnet and not one_subnet:
            if counted[candidate.subnet] == SUBNET_DRAWN_MAX:
                continue
            counted[candidate.subnet] += 1
        drawn.append(candidate)
        if len(drawn) == SELECTION_SAMPLE:
            break
    return drawn


def why_not(wanted: Wanted, candidate: Candidate) -> Excluded | None:
    """None when the candidate fits. The price comes last: it is what the client may want to change."""
    if wanted.provider is not None and candidate.peer_id != wanted.provider:
        return Excluded(candidate, RefusalReason.LIMITS, "another provider was asked for")
    if candidate.banned:
        return Excluded(candidate, RefusalReason.STANDING, "it broke the rules of the protocols too often")
    if wanted.tier not in candidate.prices:
        offered = ", ".join(tier.name.lower() for tier in sorted(candidate.prices)) or "no tier"
        return Excluded(candidate, RefusalReason.TIER, f"offers {offered}, not {wanted.tier.name.lower()}")
    if candidate.reliability < wanted.min_reliability:
        known = f"{candidate.reliability:.2f}" if candidate.tries else f"not known ({candidate.reliability:.2f})"
        # In full: rounded, it could look like what no provider has.
        detail = f"its reliability is {known}; {wanted.min_reliability} is wanted"
        return Excluded(candidate, RefusalReason.STANDING, detail)
    if not wanted.networks & candidate.networks:
        taken = ", ".join(map(str, sorted(candidate.networks))) or "none"
        return Excluded(candidate, RefusalReason.PAYMENT, f"takes payments on network {taken}")
    if wanted.items > candidate.items_max:
        return Excluded(
            candidate,
            RefusalReason.LIMITS,
            f"takes {candidate.items_max} items a job, not {wanted.items}",
            candidate.items_max,
        )
    if wanted.input_bytes > candidate.input_bytes_max:
        return Excluded(
            candidate,
            RefusalReason.LIMITS,
            f"takes {candidate.input_bytes_max} bytes of input, not {wanted.input_bytes}",
            candidate.input_bytes_max,
        )
    price = candidate.price(wanted)
    if wanted.max_total is not None and price > wanted.max_total:
        return Excluded(
            candidate,
            RefusalReason.PRICE,
            f"costs {format_nanogram(price)}; the limit is {format_nanogram(wanted.max_total)}",
            price,
        )
    return None


def cheapest(wanted: Wanted, candidates: Sequence[Candidate]) -> Candidate | None:
    """The lowest price among those that would fit at any price: what a refusal by price should name."""
    unlimited = replace(wanted, max_total=None)
    fitting = [candidate for candidate in candidates if why_not(unlimited, candidate) is None]
    return min(fitting, key=lambda candidate: candidate.price(wanted), default=None)
