"""Random histories of one payer and two payees: messages that are lost, doubled or late, restarts, closes. After every step
both ledgers must agree with each other and with a model that only counts.

The payer is honest, and so are the payees: hostile ones are in the contract suite and in test_local.py.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from cocoon_p2p.errors import RemoteProtocolError, SettlementError
from cocoon_p2p.ids import JobId
from cocoon_p2p.limits import LOCAL_GRANT_NANOGRAM
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import LocalSettlement, open_local_settlement
from cocoon_p2p.units import NANOGRAM_PER_GRAM
from cocoon_p2p.wire.voucher import decode_payment

PAYER = IdentityKey.from_seed(b"\1" * 32)
PAYEES = (IdentityKey.from_seed(b"\2" * 32), IdentityKey.from_seed(b"\3" * 32))
KEY = IdentityKey.from_seed(b"\4" * 32)
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""A third of the time went to making and removing files."""
AMOUNTS = st.sampled_from((0, 1, 1000, 400_000_000, NANOGRAM_PER_GRAM, 3 * NANOGRAM_PER_GRAM))


def now(call: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the coroutine waited")


@dataclass
class Job:
    """What the model knows of a job."""

    job_id: JobId
    payee: int
    max_total: int
    payment: bytes
    at_payee: Literal["not there", "reserved", "earned", "released"] = "not there"
    at_payer: Literal["reserved", "paid", "released", "unknown"] = "reserved"
    price: int = 0
    lost: bool = False
    """Its payment will never arrive."""
    channel: bytes = b""
    """That the payee holds its reservation on."""


class Ledgers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=IN_MEMORY))
        self.stacks = [ExitStack() for _ in range(3)]
        self.nodes: list[LocalSettlement] = [self._open(n) for n in range(3)]
        self.jobs: list[Job] = []
        self.counter = 0
        self.refunded = False

    def _open(self, n: int) -> LocalSettlement:
        identity = (*PAYEES, PAYER)[n]
        return self.stacks[n].enter_context(open_local_settlement(self.folder / f"{n}.db", identity, KEY))

    def teardown(self) -> None:
        for stack in self.stacks:
            stack.close()
        shutil.rmtree(self.folder)

    @property
    def payer(self) -> LocalSettlement:
        return self.nodes[2]

    def pick(self, data: st.DataObject, jobs: list[Job]) -> Job | None:
        return data.draw(st.sampled_from(jobs)) if jobs else None

    @rule(payee=st.sampled_from((0, 1)), max_total=AMOUNTS)
    def reserve(self, payee: int, max_total: int) -> None:
        self.counter += 1
        job_id = JobId(self.counter.to_bytes(16))
        try:
            payment = now(self.payer.reserve(PAYEES[payee].peer_id, job_id, max_total))
        except SettlementError as error:
            assert error.code == "BALANCE"
            idle = sum(c.deposit - c.earned for c in now(self.payer.channels()) if not (c.closed or c.reserved))
            assert now(self.payer.balance()).available < max_total, "the wallet had enough"
            assert error.needed is not None
            assert now(self.payer.balance()).available + idle < error.needed + self._idle_with(payee), (
                "idle money was left"
            )
            return
        self.jobs.append(Job(job_id, payee, max_total, payment))

    @rule(data=st.data())
    def reserve_again(self, data: st.DataObject) -> None:
        """A job that failed is given to the same payee once more."""
        job = self.pick(data, [job for job in self.jobs if job.at_payer == "released"])
        if job is None or job.at_payee == "earned" or any(status.closed for status in now(self.payer.channels())):
            return
        try:
            job.payment = now(self.payer.reserve(PAYEES[job.payee].peer_id, job.job_id, job.max_total))
        except SettlementError as error:
            assert error.code == "BALANCE"
            return
        job.at_payer = "reserved"
        job.lost = False

    def _idle_with(self, payee: int) -> int:
        """What the payer's channel with this payee holds unspent: it is topped up, not closed."""
        other = PAYEES[payee].peer_id
        return sum(c.deposit - c.earned for c in now(self.payer.channels()) if c.other == other and not c.closed)

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """Any payment that was ever sent and not lost, in any order, any number of times; but one of a job that failed
        comes again only when the payer has set money aside again."""
        again = [job for job in self.jobs if not job.lost]
        job = self.pick(data, [job for job in again if job.at_payee != "released" or job.at_payer == "reserved"])
        if job is None:
            return
        try:
            now(self.nodes[job.payee].accept_payment(PAYER.peer_id, job.job_id, job.payment, job.max_total))
        except RemoteProtocolError as error:
            assert error.code == "REPLAY"
            assert job.at_payee == "earned"
        except SettlementError as error:
            assert error.code == "CHANNEL_CLOSED", error.message
            assert job.at_payee in ("not there", "released")
            job.at_payee = "released"
            job.lost = True
        else:
            assert job.at_payee != "earned"
            if job.at_payee != "reserved":
                job.channel = decode_payment(job.payment).channel if job.payment else b""
            job.at_payee = "reserved"

    @rule(data=st.data())
    def lose_payment(self, data: st.DataObject) -> None:
        job = self.pick(data, [job for job in self.jobs if job.at_payee == "not there"])
        if job:
            job.lost = True

    @rule(data=st.data(), share=st.sampled_from((0, 1, 2, 3)))
    def earn(self, data: st.DataObject, share: int) -> None:
        job = self.pick(data, [job for job in self.jobs if job.at_payee in ("reserved", "earned")])
        if job is None:
            return
        if job.at_payee == "reserved":
            job.at_payee = "earned"
            job.price = job.max_total * share // 3
        now(self.nodes[job.payee].earned(job.job_id, job.price))

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        job = self.pick(data, self.jobs)
        if job is None:
            return
        now(self.nodes[job.payee].release(job.job_id))
        if job.at_payee == "reserved":
            job.at_payee = "released"

    @rule(data=st.data())
    def refund(self, data: st.DataObject) -> None:
        """The payer, which has not paid, never got the answer. From a channel that the payee closed nothing comes back."""
        closed = {status.channel for node in self.nodes[:2] for status in now(node.channels()) if status.closed}
        owed = [job for job in self.jobs if job.at_payer != "paid" and job.channel not in closed]
        job = self.pick(data, [job for job in owed if job.at_payee in ("earned", "reserved", "released")])
        if job is None:
            return
        now(self.nodes[job.payee].refund(job.job_id))
        self.refunded |= job.at_payee == "earned"
        job.at_payee = "released"
        job.price = 0

    @rule(data=st.data())
    def receipt(self, data: st.DataObject) -> None:
        job = self.pick(data, [job for job in self.jobs if job.at_payee == "earned"])
        if job:
            now(self.payer.paid(job.job_id, job.price))
            job.at_payer = "paid"

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """The payer stops waiting: it knows that the job cannot have been earned, or it does not."""
        job = self.pick(data, self.jobs)
        if job is None:
            return
        certain = job.at_payee == "released" or (job.at_payee == "not there" and job.lost)
        now(self.payer.end_reservation(job.job_id, "released" if certain else "unknown"))
        if certain and job.at_payer != "paid":
            job.at_payer = "released"
        elif job.at_payer == "reserved":
            job.at_payer = "unknown"

    @rule(n=st.sampled_from((0, 1, 2)))
    def restart(self, n: int) -> None:
        self.stacks[n].close()
        self.nodes[n] = self._open(n)

    @rule(n=st.sampled_from((0, 1)))
    def claim(self, n: int) -> None:
        for status in now(self.nodes[n].channels()):
            now(self.nodes[n].claim(status.channel))

    @precondition(lambda self: self.counter > 5)
    @rule(n=st.sampled_from((0, 1, 2)), data=st.data())
    def close(self, n: int, data: st.DataObject) -> None:
        channels = now(self.nodes[n].channels())
        if not channels:
            return
        status = data.draw(st.sampled_from(channels))
        # honest: a payer does not take back money that the payee has in hand, and the payee's close it learns of by refusal
        try:
            now(self.nodes[n].close(status.channel))
        except SettlementError as error:
            assert error.code == "IN_FLIGHT"
            assert status.reserved > 0

    @invariant()
    def payer_counts(self) -> None:
        balance = now(self.payer.balance())
        assert balance.available >= 0
        assert balance.available + balance.deposited + balance.spent == LOCAL_GRANT_NANOGRAM
        reserved = sum(job.max_total for job in self.jobs if job.at_payer == "reserved")
        assert sum(status.reserved for status in now(self.payer.channels())) == reserved
        paid = sum(job.price for job in self.jobs if job.at_payer == "paid")
        unknown = sum(job.max_total for job in self.jobs if job.at_payer == "unknown")
        # what was unknown when its channel was closed has been paid out as it was counted then
        assert paid + unknown <= balance.spent, "spent less than was owed"
        assert balance.spent <= sum(
            job.max_total for job in self.jobs if job.at_payer in ("paid", "unknown", "released")
        )
        if not any(status.closed for status in now(self.payer.channels())):
            assert balance.spent == paid + unknown

    @invariant()
    def payees_count(self) -> None:
        for n in (0, 1):
            balance = now(self.nodes[n].balance())
            earned = sum(job.price for job in self.jobs if job.payee == n and job.at_payee == "earned")
            assert balance.earned == earned
            assert balance.available == LOCAL_GRANT_NANOGRAM + balance.claimed
            statuses = now(self.nodes[n].channels())
            assert sum(status.claimed for status in statuses) == balance.claimed
            assert self.refunded or balance.claimed <= earned, "more was claimed than ever was earned"
            reserved = sum(job.max_total for job in self.jobs if job.payee == n and job.at_payee == "reserved")
            assert sum(status.reserved for status in statuses) == reserved

    @invariant()
    def sides_agree(self) -> None:
        signed = {status.channel: status for status in now(self.payer.channels())}
        for node in self.nodes[:2]:
            for status in now(node.channels()):
                ours = signed[status.channel]
                assert self.refunded or status.claimed <= status.earned
                assert status.earned + status.reserved <= status.cumulative <= status.deposit
                assert status.cumulative <= ours.cumulative <= ours.deposit
                assert status.deposit <= ours.deposit
                assert status.earned <= ours.earned + ours.reserved, "earned more than the payer counts"


def test_random_histories() -> None:
    run_state_machine_as_test(
        Ledgers,
        settings=settings(
            max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.slow
def test_many_random_histories() -> None:
    run_state_machine_as_test(
        Ledgers,
        settings=settings(
            max_examples=250, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
