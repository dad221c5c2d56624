"""One job at several providers at the same time: the answer that most of them give, and who gave another.

Which providers, is `policy.selection`'s to choose; which answer, `policy.agreement`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.drivers.comparing import compare_all
from cocoon_p2p.drivers.evidence import Answered, EvidenceShelf, accuse
from cocoon_p2p.drivers.experience import ExperienceKeeper
from cocoon_p2p.drivers.order import Order, Purchase, new_wish
from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.errors import CocoonError, StoreError, TransportError
from cocoon_p2p.ids import JobId, ModelId, PeerId
from cocoon_p2p.models.manifest import Manifest
from cocoon_p2p.policy.agreement import Agreement, Precision, Tolerance, majority, tolerance
from cocoon_p2p.policy.experience import Outcome
from cocoon_p2p.policy.selection import Candidate
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.tensors import Payload
from cocoon_p2p.units import format_nanogram
from cocoon_p2p.wire.evidence import EvidenceKind

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.1


class Shop(Protocol):
    """The part of `purchase.Buyer` that is used here."""

    async def shortlist(self, order: Order) -> list[Candidate]:
        """Who can do this job, the one to ask first, first. Raises CocoonError when nobody can."""

    async def buy_at(self, order: Order, provider: PeerId, job_id: JobId | None = None) -> Purchase: ...


@dataclass(frozen=True, slots=True)
class JudgePorts:
    identity: IdentityKey
    experience: ExperienceKeeper
    clock: Clock
    manifest: Callable[[ModelId], Awaitable[Manifest]]
    """Raises CocoonError."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What one provider's answer was worth."""

    provider: PeerId
    job_id: JobId | None
    price: int
    """Nanogram."""
    agrees: bool | None
    """True: it is the right answer; False: a wrong one; None: it gave none, or nobody can tell."""
    deviation: float | None = None
    """From the right answer."""
    error: str = ""
    """Why it gave none."""
    evidence: bytes | None = field(default=None, repr=False)


class NoQuorum(CocoonError):
    """No answer has a majority. `judged` says who said what."""

    default_code = "NO_QUORUM"

    def __init__(self, message: str, judged: Sequence[Judged], *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.judged = tuple(judged)


@dataclass(frozen=True, slots=True)
class Right:
    """The right answer, how far another may lie from it, and how it is known."""

    answer: Payload
    tolerance: Tolerance
    known_by: EvidenceKind


class Judge:
    """Compares answers, remembers who was wrong, and makes the evidence."""

    def __init__(self, ports: JudgePorts) -> None:
        self._ports = ports

    async def tolerance(self, model_id: ModelId) -> Tolerance:
        """By the precision that the model's id stands for. Raises CocoonError."""
        return tolerance(Precision((await self._ports.manifest(model_id)).precision))

    async def majority(self, given: Payload, answers: Sequence[Purchase], asked: int) -> tuple[Purchase, list[Judged]]:
        """The answer of more than half of the `asked`, and what each was worth. Raises NoQuorum."""
        bound = await self.tolerance(answers[0].model_id)
        table = await compare_all([each.payload for each in answers], bound.quantised)
        group = majority(_agreeing(table, asked, bound))
        if group is None:
            raise _no_quorum(answers, table, asked, bound)
        # The one in the middle of those that agree stands for all of them.
        best = min(sorted(group), key=lambda i: max(table[i][j].deviation for j in group))
        right = Right(answers[best].payload, bound, EvidenceKind.QUORUM)
        judged = [self.pronounce(given, each, right, table[best][n]) for n, each in enumerate(answers)]
        return answers[best], judged

    def pronounce(self, given: Payload, answer: Purchase, right: Right, found: Agreement) -> Judged:
        """What an answer is worth that compares so with the right one; it is noted, and evidence made of a wrong one."""
        agrees, bound, ports = found.within(right.tolerance.bound), right.tolerance, self._ports
        judged = Judged(answer.provider, answer.job_id, answer.price, agrees, found.deviation)
        ports.experience.note(answer.provider, answer.model_id, Outcome.AGREED if agrees else Outcome.WRONG)
        if agrees:
            return judged
        log.warning(
            "provider %s gave a wrong answer to job %s of model %s: deviation %.2g of %g allowed",
            answer.provider,
            answer.job_id.hex(),
            answer.model_id,
            found.deviation,
            bound.bound,
        )
        evidence = accuse(
            ports.identity,
            Answered(answer.model_id, given, answer.payload, answer.transcript),
            right.answer,
            kind=right.known_by,
            tolerance_millionths=bound.millionths,
            made_at_ms=unix_ms(ports.clock),
        )
        return replace(judged, evidence=evidence)


@dataclass(slots=True)
class Poll:
    """Answers of several providers to one order."""

    answers: list[Purchase] = field(default_factory=list)
    failures: list[tuple[PeerId, CocoonError]] = field(default_factory=list)


class Quorum:
    """Runs orders at several providers."""

    def __init__(self, shop: Shop, judge: Judge, clock: Clock, shelf: EvidenceShelf) -> None:
        self._shop = shop
        self._judge = judge
        self._clock = clock
        self._shelf = shelf

    async def run(self, order: Order, count: int) -> tuple[Purchase, list[Judged]]:
        """The answer of most of `count` providers, each of which is paid for its own. Raises CocoonError: PROVIDERS when
        there are fewer (nothing is paid then), NoQuorum, and what the last provider said when none answered."""
        candidates = await self.find(order, count)
        if len(candidates) < count:
            raise _too_few(order, len(candidates), count)
        poll = await self.ask(replace(order, poll=new_wish()), spread(candidates), count)
        if not poll.answers:
            raise poll.failures[-1][1]
        chosen, judged = await self._judge.majority(order.payload, poll.answers, count)
        self._shelf.put_all(judged)
        return chosen, judged + [_failed(peer, error) for peer, error in poll.failures]

    async def find(self, order: Order, count: int) -> list[Candidate]:
        """Who can do it, the one to ask first, first. A newcomer hears of one provider at first and of the others a moment
        later: while there are fewer than `count`, this waits until no more come. Raises CocoonError when nobody can."""
        found = await self._shop.shortlist(order)
        grown_at = self._clock.now()
        while len(found) < count and self._clock.now() < grown_at + limits.DISCOVERY_SETTLED_S:
            await trio.sleep(_LOOK_AGAIN_S)
            before, found = len(found), await self._shop.shortlist(order)
            if len(found) > before:
                grown_at = self._clock.now()
        return found

    async def ask(self, order: Order, providers: Sequence[PeerId], count: int) -> Poll:
        """Answers of `count` of these, asked at the same time; one that fails is replaced by the next."""
        poll, left = Poll(), list(providers)
        deadline = self._clock.now() + order.timeout_s

        async def one_answer() -> None:
            while left and self._clock.now() < deadline:
                provider = left.pop(0)
                try:
                    poll.answers.append(await self._ask_one(order, provider, deadline))
                except StoreError:  # ours, and it would fail everywhere
                    raise
                except CocoonError as error:
                    poll.failures.append((provider, error))
                else:
                    return

        async with open_plain_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one_answer)
        if not poll.answers and not poll.failures:
            late = TransportError("no provider answered in time", outcome_known=True, code="TIMEOUT")
            poll.failures.append((providers[0], late))
        return poll

    async def _ask_one(self, order: Order, provider: PeerId, deadline: float) -> Purchase:
        left_s = max(0.001, deadline - self._clock.now())
        return await self._shop.buy_at(replace(order, provider=provider, timeout_s=left_s, hedge=1, quorum=1), provider)


def spread(candidates: Sequence[Candidate]) -> list[PeerId]:
    """The same, those of a subnet of which there is one already behind all others: one owner is no quorum."""
    seen: dict[str, int] = {}
    ranked = []
    for place, candidate in enumerate(candidates):
        subnet = candidate.subnet or candidate.peer_id
        ranked.append((seen.get(subnet, 0), place, candidate.peer_id))
        seen[subnet] = seen.get(subnet, 0) + 1
    return [peer for _, _, peer in sorted(ranked)]


def _agreeing(table: list[list[Agreement]], asked: int, bound: Tolerance) -> list[list[bool]]:
    """Who agrees with whom. An answer that did not come agrees with nobody: more than half of all asked must agree."""
    came, count = len(table), max(asked, len(table))
    return [[i < came and j < came and table[i][j].within(bound.bound) for j in range(count)] for i in range(count)]


def _failed(provider: PeerId, error: CocoonError) -> Judged:
    return Judged(provider, None, 0, None, error=error.message)


def _too_few(order: Order, found: int, count: int) -> CocoonError:
    some = f"only {found} provider{'s' if found != 1 else ''} of {order.model} can do this job"
    hint = "wait for more: cocoon-node offers shows them; or loosen the limits of price, tier or reliability"
    if found >= 2:
        hint = f"ask for {found} answers; {hint}"
    return CocoonError(f"a quorum of {count} needs {count} providers; {some}", code="PROVIDERS", hint=hint)


def _no_quorum(answers: Sequence[Purchase], table: list[list[Agreement]], asked: int, bound: Tolerance) -> NoQuorum:
    lines = []
    for i, answer in enumerate(answers):
        with_it = [answers[j].provider for j in range(len(answers)) if j != i and table[i][j].within(bound.bound)]
        lines.append(f"{answer.provider} agrees with {', '.join(with_it) or 'nobody'}")
    missing = f"; {asked - len(answers)} gave none" if asked > len(answers) else ""
    total = sum(answer.price for answer in answers)
    judged = [Judged(answer.provider, answer.job_id, answer.price, None) for answer in answers]
    return NoQuorum(
        f"no answer has a majority of {asked}: {'; '.join(lines)}{missing}",
        judged,
        hint=f"{format_nanogram(total)} were paid for {len(answers)} answers; ask more providers (--quorum {asked + 2}), or "
        "add the model here to see who is right: cocoon-node audit MODEL",
    )
