"""Keeps the operator's idle rules: looks at the machine, closes the desk when a rule is not kept and opens it again.

When it closes, the offers are withdrawn at once and nothing new is taken; jobs that run may finish within a grace time,
and the clients of the rest are told to go elsewhere. Models stay loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import trio

from cocoon_p2p.drivers.clock import Clock
from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.limits import IDLE_LOOK_S
from cocoon_p2p.machine.port import Machine
from cocoon_p2p.policy.admission import Refused
from cocoon_p2p.policy.idle import IdleDecision, IdleJudge, IdleRules, MachineFacts, Rests, Serves
from cocoon_p2p.proto.provider_desk import ProviderDesk

log = logging.getLogger(__name__)

TOLD_TO_CLIENTS = "the operator's rules keep this machine for its own user at the moment"
"""No more than that: when somebody sits at which machine, or runs on battery, is nobody's business."""

NOT_LOOKED_YET = Refused(RefusalReason.IDLE_POLICY, TOLD_TO_CLIENTS)
"""Of a desk whose machine has idle rules, until the first look: nothing is offered that they forbid."""


class RunningJobs(Protocol):
    """The jobs that a provider has accepted (drivers/job_provider.py)."""

    async def settled(self) -> None:
        """Waits until no accepted job is left."""

    async def yield_jobs(self, detail: str) -> None:
        """Fails every accepted job with IDLE_POLICY."""


class Idling:
    """`look` once before anything is announced, then `run` in a task. `changed` is called when the node begins or ends to
    rest."""

    def __init__(
        self, rules: IdleRules, machine: Machine, desk: ProviderDesk, jobs: RunningJobs, clock: Clock, *, grace_s: float
    ) -> None:
        self._judge = IdleJudge(rules)
        self._machine = machine
        self._desk = desk
        self._jobs = jobs
        self._clock = clock
        self._grace_s = grace_s
        self._handing_off: trio.CancelScope | None = None
        self.changed: Callable[[], None] = lambda: None
        self.rules = rules
        self.seen: MachineFacts | None = None
        """What the last look showed."""

    @property
    def decision(self) -> IdleDecision:
        return self._judge.decision

    def row(self) -> dict[str, Any]:
        """For the status of the node; JSON as it stands."""
        decision = self.decision
        if isinstance(decision, Rests):
            return {"resting": True, "detail": decision.detail, "needed_ms": decision.needed_ms}
        return {"resting": False, "detail": None, "needed_ms": None}

    async def look(self) -> bool:
        """Look at the machine now. True when the node began or ended to rest."""
        facts = self.seen = await self._machine.facts()
        before = self.decision
        match decision := self._judge.judge(facts, self._clock.now()):
            case Rests(detail, needed_ms):
                self._desk.rests = Refused(RefusalReason.IDLE_POLICY, TOLD_TO_CLIENTS, needed_ms)
                if isinstance(before, Serves):
                    log.warning("this node rests: %s", detail)
            case Serves():
                self._desk.rests = None
                if isinstance(before, Rests):
                    log.warning("this node serves again")
        return isinstance(before, Rests) != isinstance(decision, Rests)

    async def run(self) -> None:
        """Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(IDLE_LOOK_S)
                if not await self.look():
                    continue
                self.changed()
                if self._handing_off is not None:
                    self._handing_off.cancel()
                    self._handing_off = None
                if isinstance(self.decision, Rests):
                    self._handing_off = trio.CancelScope()
                    nursery.start_soon(self._hand_off, self._handing_off)

    async def _hand_off(self, scope: trio.CancelScope) -> None:
        """Let what runs finish, and give up what takes too long."""
        with scope:
            with trio.move_on_after(self._grace_s):
                await self._jobs.settled()
                return
            self._handing_off = None  # too late to think better of it
            log.warning("the jobs that are still running are handed back to their clients")
            await self._jobs.yield_jobs(TOLD_TO_CLIENTS)
