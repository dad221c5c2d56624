"""Who was considered for an order, who was asked, what each said, and what would have made it a yes: `cocoon-node why`."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cocoon_p2p.drivers.clock import Clock
from cocoon_p2p.errors import CocoonError, ConfigError, PeerRefused, RefusalReason
from cocoon_p2p.ids import JobId, PeerId, Tier
from cocoon_p2p.limits import (
    CONSIDERATION_BYTES_MAX,
    CONSIDERATIONS_KEPT_MAX,
    CONSIDERED_KEPT_MAX,
    DETAIL_CHARS_MAX,
    QUORUM_LEGS_MAX,
)
from cocoon_p2p.policy.advice import Refusal, would_be_yes
from cocoon_p2p.policy.selection import Candidate, Excluded
from cocoon_p2p.store import ConsiderationRecord, Store

Row = dict[str, Any]

ID_DIGITS = 12
"""Of an order's id in hints: enough that two of the kept ones never begin alike."""
_WRITE_INTERVAL_S = 1.0
_WRITTEN_AT_ONCE_MAX = 64


@dataclass(slots=True)
class Considered:
    """One provider, and the last that was said."""

    peer: PeerId
    asked: bool = False
    answer: str = "none"
    """"quote", "refusal", "error", "none"."""
    refusal: Refusal | None = None
    error_code: str | None = None
    detail: str = ""
    price: int | None = None
    queue_ms: int | None = None
    signed: tuple[bytes, bytes] | None = None

    def row(self) -> Row:
        no = self.refusal
        return {
            "peer_id": self.peer,
            "asked": self.asked,
            "answer": self.answer,
            "reason": no.reason.name if no is not None else self.error_code,
            "detail": self.detail[:DETAIL_CHARS_MAX],
            "would_be_yes": None if no is None else would_be_yes(no),
            "needed": None if no is None else no.needed,
            "price_nanogram": self.price,
            "queue_ms": self.queue_ms,
            "signed": None
            if self.signed is None
            else {"body": self.signed[0].hex(), "signature": self.signed[1].hex()},
        }


@dataclass(slots=True)
class Consideration:
    """One order. Filled while it is carried out; made JSON only when it is written or read."""

    wish: JobId
    model: str
    tier: Tier
    at_ms: int
    model_id: str | None = None
    chosen: PeerId | None = None
    error: str | None = None
    dry_run: bool = False
    poll: JobId | None = None
    """What the answers of a quorum have in common."""
    providers: dict[PeerId, Considered] = field(default_factory=dict)

    def of(self, peer: PeerId) -> Considered:
        return self.providers.setdefault(peer, Considered(peer))

    def note_excluded(self, excluded: Excluded) -> None:
        """We did not ask it, and why. Beyond limits.CONSIDERED_KEPT_MAX nobody would read it."""
        candidate = excluded.candidate
        if len(self.providers) >= CONSIDERED_KEPT_MAX or candidate.peer_id in self.providers:
            return
        entry = self.of(candidate.peer_id)
        entry.detail = excluded.detail
        too_unreliable = excluded.reason is RefusalReason.STANDING and not candidate.banned
        entry.refusal = Refusal(
            excluded.reason,
            excluded.needed,
            by_provider=False,
            tier=self.tier,
            offered=candidate.prices,
            reliability=candidate.reliability if too_unreliable else None,
        )

    def note_unasked(self, candidate: Candidate, price: int) -> None:
        """It fits, and others were asked."""
        if len(self.providers) >= CONSIDERED_KEPT_MAX or candidate.peer_id in self.providers:
            return
        entry = self.of(candidate.peer_id)
        entry.detail, entry.price, entry.queue_ms = "it fits; others were asked first", price, candidate.queue_ms

    def note_quote(self, peer: PeerId, price: int, queue_ms: int, *, firm: bool) -> None:
        entry = self.of(peer)
        entry.asked, entry.answer, entry.refusal, entry.error_code = True, "quote", None, None
        entry.detail = "its announced price was taken as its quote" if firm else ""
        entry.price, entry.queue_ms = price, queue_ms

    def note_error(self, peer: PeerId, error: CocoonError, offered: frozenset[Tier], now_ms: int) -> None:
        """What it said instead of a quote, or how it failed the job."""
        entry = self.of(peer)
        entry.asked, entry.detail = True, error.message
        if isinstance(error, PeerRefused):
            entry.answer = "refusal"
            entry.signed = error.signed
            entry.refusal = Refusal(
                error.reason,
                error.needed,
                by_provider=True,
                tier=self.tier,
                offered=offered,
                back_at=_clock_time(now_ms, error.needed),
            )
        else:
            entry.answer, entry.refusal, entry.error_code = "error", None, error.code

    def row(self) -> Row:
        """JSON as it stands, at most limits.CONSIDERATION_BYTES_MAX of it: those who were asked go first."""
        entries = sorted(self.providers.values(), key=lambda entry: (entry.peer != self.chosen, not entry.asked))
        row: Row = {
            "job_id": self.wish.hex(),
            "model": self.model,
            "model_id": self.model_id,
            "tier": self.tier.name.lower(),
            "at_ms": self.at_ms,
            "dry_run": self.dry_run,
            "poll": None if self.poll is None else self.poll.hex(),
            "chosen": self.chosen,
            "error": self.error,
            "providers": [entry.row() for entry in entries],
        }
        while len(_encode(row).encode()) > CONSIDERATION_BYTES_MAX and row["providers"]:
            row["providers"].pop()
        return row


class ConsiderationKeeper:
    """The newest orders. They stay in memory until something else is written anyway."""

    def __init__(self, store: Store, clock: Clock, *, kept_max: int = CONSIDERATIONS_KEPT_MAX) -> None:
        self._store = store
        self._clock = clock
        self._kept_max = kept_max
        self._unwritten: OrderedDict[str, Consideration] = OrderedDict()
        self._written_at = float("-inf")

    def add(self, consideration: Consideration) -> None:
        self._unwritten[consideration.wish.hex()] = consideration
        if len(self._unwritten) > self._kept_max:
            self._unwritten.popitem(last=False)

    def write(self, *, all_of_them: bool = False) -> None:
        """Bring some to the store, now and then; or all of them. Raises StoreError."""
        now = self._clock.now()
        if not self._unwritten or not (all_of_them or now - self._written_at >= _WRITE_INTERVAL_S):
            return
        self._written_at = now
        count = len(self._unwritten) if all_of_them else _WRITTEN_AT_ONCE_MAX
        taken = [self._unwritten.popitem(last=False) for _ in range(min(count, len(self._unwritten)))]
        self._store.considerations.save(ConsiderationRecord(wish, _encode(each.row())) for wish, each in taken)

    def find(self, job_id: str) -> Row:
        """What was considered for a job, by its id or the beginning of it; with `legs`, the rows of all answers of its quorum
        in the order in which they ended, where it was a part of one. Raises ConfigError."""
        prefix = job_id.lower()
        if not prefix or any(digit not in "0123456789abcdef" for digit in prefix) or len(job_id) > 32:
            raise ConfigError(f"{job_id!r} is no id of a job, nor the beginning of one: hexadecimal digits")
        found = {wish: each.row() for wish, each in self._unwritten.items() if wish.startswith(prefix)}
        found |= {each.wish: json.loads(each.body) for each in self._store.considerations.find(prefix)}
        if not found:
            raise ConfigError(
                f"nothing is known of a job {job_id}",
                code="NOT_FOUND",
                hint=f"the newest {self._kept_max} orders of this node are remembered; cocoon-node jobs shows the ids",
            )
        if len(found) > 1:
            raise ConfigError(f"several jobs begin with {job_id}: {', '.join(sorted(found)[:3])}", code="AMBIGUOUS")
        (row,) = found.values()
        poll = row.get("poll")
        return row if poll is None else row | {"legs": self._legs(poll)}

    def _legs(self, poll: str) -> list[Row]:
        legs = {each.wish: json.loads(each.body) for each in self._store.considerations.of_poll(poll, QUORUM_LEGS_MAX)}
        legs |= {wish: each.row() for wish, each in self._unwritten.items() if each.poll and each.poll.hex() == poll}
        return list(legs.values())


def _encode(row: Row) -> str:
    return json.dumps(row, separators=(",", ":"), ensure_ascii=False)


def _clock_time(now_ms: int, needed_ms: int | None) -> str:
    """The operator's clock is not ours; ours is what the user reads."""
    if needed_ms is None or needed_ms > 86_400_000:
        return ""
    return datetime.fromtimestamp((now_ms + needed_ms) / 1000).strftime("%H:%M")
