"""Canary jobs, and the repetition of some of our own jobs: how a provider that answers wrongly is found out.

A canary job looks like any other and is paid like any other. What its answer must be is known from our own run of the
model, or, where the model is not installed here, from what most of several providers say. Audits of 5 % catch a provider that
cheats on one job in ten within 1000 jobs with a probability of 0.993.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import trio

from cocoon_p2p.drivers.comparing import compare
from cocoon_p2p.drivers.evidence import EvidenceFolder, EvidenceShelf
from cocoon_p2p.drivers.order import Order, Purchase
from cocoon_p2p.drivers.own_engine import OwnEngine
from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.drivers.quorum import Judge, Judged, NoQuorum, Quorum, Right, Shop, spread
from cocoon_p2p.drivers.resolve import Resolver
from cocoon_p2p.errors import CocoonError, ExecutionError, one_line
from cocoon_p2p.ids import PeerId, Tier
from cocoon_p2p.limits import AUDITED_AT_ONCE_MAX, EVIDENCE_BYTES_MAX, QUORUM_MAX
from cocoon_p2p.models.canary import TAME_MAX, canary_input
from cocoon_p2p.models.manifest import Manifest
from cocoon_p2p.tensors import Payload, payload_bytes
from cocoon_p2p.wire.evidence import EvidenceKind

log = logging.getLogger(__name__)

Verdict = Literal["right", "wrong", "failed", "unknown"]
_QUORUM_MIN = 3
"""Of two answers that differ nobody knows which is right."""
_UNFIT = ("INPUT", "MODEL")
"""Codes of a run that fails because of its input."""
_REPEATS_WAITING_MAX = 2 * AUDITED_AT_ONCE_MAX


@dataclass(frozen=True, slots=True)
class Audited:
    """What one canary job at one provider showed."""

    provider: PeerId
    verdict: Verdict
    deviation: float | None
    price: int
    """Nanogram."""
    job_id: str | None
    evidence: Path | None
    """Where evidence of a wrong answer was put."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class AuditTerms:
    """What each canary job may cost and take."""

    tier: Tier
    max_total: int | None
    timeout_s: float


class Auditor:
    """Gives canary jobs. `rng` must not be foreseeable: who can tell a canary answers it well."""

    def __init__(
        self,
        shop: Shop,
        quorum: Quorum,
        judge: Judge,
        *,
        resolver: Resolver,
        own: OwnEngine,
        folder: EvidenceFolder,
        rng: random.Random,
    ) -> None:
        self._shop = shop
        self._quorum = quorum
        self._judge = judge
        self._resolver = resolver
        self._own = own
        self._folder = folder
        self._rng = rng

    async def audit(
        self, model: str, providers: Sequence[PeerId] | None, count: int, terms: AuditTerms
    ) -> list[Audited]:
        """`count` canary jobs for each of `providers`; None: for up to QUORUM_MAX that can do it. Raises CocoonError:
        NO_MODEL, CANARY (no input can be made up for this model), PROVIDERS (too few to know the answer by), and what is
        wrong when nobody can do the job."""
        manifest = (await self._resolver.resolve(model)).manifest
        rows: list[Audited] = []
        for _ in range(count):
            given, truth = await self._canary(manifest)
            order = Order(manifest.model_id, given, terms.tier, terms.max_total, None, terms.timeout_s)
            asked = await self._audited(order, providers)
            if truth is None:
                rows += await self._guessed(manifest, order, asked)
            else:
                rows += await self._by_own_run(manifest, order, asked)
        return rows

    async def _guessed(self, manifest: Manifest, order: Order, asked: list[PeerId]) -> list[Audited]:
        """What the manifest does not say of the model's inputs is guessed, until some provider can run it."""
        rows: list[Audited] = []
        for tame in range(TAME_MAX + 1):
            given = canary_input(manifest, random.Random(self._rng.getrandbits(64)), tame=tame)
            rows = await self._by_quorum(replace(order, payload=given), asked)
            if any(row.verdict != "failed" for row in rows):
                break
        return rows

    async def _canary(self, manifest: Manifest) -> tuple[Payload, Payload | None]:
        """An input and, if the model is here, its answer. What the manifest does not say of a model's inputs is guessed,
        until the model takes them. Raises CocoonError (CANARY, RANDOM)."""
        seed = self._rng.getrandbits(64)
        if self._own.manifest(manifest.model_id) is None:
            return canary_input(manifest, random.Random(seed)), None
        refused: ExecutionError | None = None
        for tame in range(TAME_MAX + 1):
            given = canary_input(manifest, random.Random(seed), tame=tame)
            try:
                return given, await self._own.run(manifest.model_id, given)
            except ExecutionError as error:
                if error.code not in _UNFIT:
                    raise
                refused = error
        raise CocoonError(
            f"the model takes no input that can be made up for it: {refused}",
            code="CANARY",
            hint="compare answers to an input of your own: cocoon-node run --quorum 3",
        )

    async def _by_own_run(self, manifest: Manifest, order: Order, asked: Sequence[PeerId]) -> list[Audited]:
        """Each gets a canary of its own: providers that talk to each other would know one that all of them get."""
        rows: list[Audited] = []
        limit = trio.CapacityLimiter(AUDITED_AT_ONCE_MAX)

        async def one(peer: PeerId) -> None:
            async with limit:
                given, truth = await self._canary(manifest)
                assert truth is not None
                rows.append(await self._against(replace(order, payload=given), peer, truth))

        async with open_plain_nursery() as nursery:
            for peer in asked:
                nursery.start_soon(one, peer)
        return rows

    async def _against(self, order: Order, peer: PeerId, truth: Payload) -> Audited:
        poll = await self._quorum.ask(order, [peer], 1)
        if not poll.answers:
            return _failed(*poll.failures[0])
        (answer,) = poll.answers
        bound = await self._judge.tolerance(answer.model_id)
        found = await compare(truth, answer.payload, bound.quantised)
        right = Right(truth, bound, EvidenceKind.OWN_RUN)
        return self._row(self._judge.pronounce(order.payload, answer, right, found))

    async def _by_quorum(self, order: Order, asked: list[PeerId]) -> list[Audited]:
        if len(asked) < _QUORUM_MIN:  # others must tell what is right
            others = [peer for peer in spread(await self._quorum.find(order, _QUORUM_MIN)) if peer not in asked]
            asked = asked + others[: _QUORUM_MIN - len(asked)]
        if len(asked) < _QUORUM_MIN:
            raise CocoonError(
                f"{_QUORUM_MIN} providers are needed to know the right answer by; of those that offer it {len(asked)} can do it",
                code="PROVIDERS",
                hint="with the model installed here one is enough: cocoon-node models add PATH",
            )
        asked = asked[:QUORUM_MAX]
        poll = await self._quorum.ask(order, asked, len(asked))
        rows = [_failed(peer, error) for peer, error in poll.failures]
        judged = [Judged(answer.provider, answer.job_id, answer.price, None) for answer in poll.answers]
        if len(poll.answers) > 1:  # one that agrees with itself proves nothing
            try:
                judged = (await self._judge.majority(order.payload, poll.answers, len(poll.answers)))[1]
            except NoQuorum as error:
                judged = list(error.judged)
        return rows + [self._row(each) for each in judged]

    async def _audited(self, order: Order, providers: Sequence[PeerId] | None) -> list[PeerId]:
        found = spread(await self._quorum.find(order, QUORUM_MAX))
        return found[:QUORUM_MAX] if providers is None else list(dict.fromkeys(providers))

    def _row(self, judged: Judged) -> Audited:
        verdict: Verdict = "unknown" if judged.agrees is None else "right" if judged.agrees else "wrong"
        path = None
        if judged.evidence is not None and judged.job_id is not None:
            path = self._folder.keep(judged.job_id, judged.evidence)
        job_id = None if judged.job_id is None else judged.job_id.hex()
        return Audited(judged.provider, verdict, judged.deviation, judged.price, job_id, path)


def _failed(peer: PeerId, error: CocoonError) -> Audited:
    return Audited(peer, "failed", None, 0, None, None, error.message)


@dataclass(frozen=True, slots=True, eq=False)
class _Done:
    """A job of ours that waits to be repeated."""

    order: Order
    purchase: Purchase


class Repeater:
    """Has a share of our own jobs done again by a second provider, in the background, and compares. Where the two differ,
    a third decides. Nobody's input is written to disk: evidence of these jobs stays on the shelf in memory."""

    def __init__(
        self,
        shop: Shop,
        quorum: Quorum,
        judge: Judge,
        *,
        shelf: EvidenceShelf,
        rng: random.Random,
        percent: float,
    ) -> None:
        self._shop = shop
        self._quorum = quorum
        self._judge = judge
        self._shelf = shelf
        self._rng = rng
        self._percent = percent
        self._waiting: deque[_Done] = deque()
        self._came = trio.Event()
        self.repeated = 0
        """Jobs that were compared."""
        self.differed = 0
        """Of these, those whose answers were not the same."""

    def offer(self, order: Order, purchase: Purchase) -> None:
        """A job of ours was done; perhaps it is repeated. Never waits: when many wait already, or it is very large (its
        input and output stay in memory meanwhile), it is not."""
        if not self._percent or self._rng.random() * 100 >= self._percent or len(self._waiting) >= _REPEATS_WAITING_MAX:
            return
        if payload_bytes(order.payload) + payload_bytes(purchase.payload) <= EVIDENCE_BYTES_MAX:
            self._waiting.append(_Done(order, purchase))
            self._came.set()

    async def run(self) -> None:
        """Repeat, until cancelled."""
        limit = trio.CapacityLimiter(AUDITED_AT_ONCE_MAX)
        async with trio.open_nursery() as nursery:
            while True:
                await self._came.wait()
                self._came = trio.Event()
                while self._waiting:
                    await limit.acquire_on_behalf_of(self._waiting[0])
                    nursery.start_soon(self._repeat_one, limit, self._waiting.popleft())

    async def _repeat_one(self, limit: trio.CapacityLimiter, job: _Done) -> None:
        try:
            await self.repeat(job.order, job.purchase)
        except CocoonError as error:
            log.info("job %s could not be repeated: %s", job.purchase.job_id.hex(), one_line(error))
        finally:
            limit.release_on_behalf_of(job)

    async def repeat(self, order: Order, purchase: Purchase) -> list[Judged]:
        """Give the job to a second provider and, where its answer differs, to a third. Raises CocoonError."""
        order = replace(order, model=purchase.model_id, provider=None)
        others = [peer for peer in spread(await self._shop.shortlist(order)) if peer != purchase.provider]
        answers, judged = [purchase], list[Judged]()
        for _ in range(_QUORUM_MIN - 1):
            poll = await self._quorum.ask(order, others, 1)
            if not poll.answers:
                raise poll.failures[-1][1] if poll.failures else CocoonError("there is nobody else", code="PROVIDERS")
            answers += poll.answers
            asked = {answers[-1].provider, *(peer for peer, _ in poll.failures)}
            others = [peer for peer in others if peer not in asked]
            try:
                judged = (await self._judge.majority(order.payload, answers, len(answers)))[1]
            except NoQuorum:
                self.differed += len(answers) == 2
                continue
            break
        self.repeated += 1
        self._shelf.put_all(judged)
        return judged
