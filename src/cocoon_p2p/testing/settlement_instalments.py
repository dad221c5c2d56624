"""What every backend of the port `Settlement` does with a job that is paid for as it goes on (protocols/voucher/1 §4.3)."""

from __future__ import annotations

from dataclasses import replace

from cocoon_p2p.errors import RemoteProtocolError, SettlementError
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.testing.settlement_pair import JOB, SettlementCheck, SettlementPair, new_job, refused
from cocoon_p2p.wire.voucher import decode_payment


async def check_a_job_paid_by_instalments(pair: SettlementPair) -> None:
    """Over one channel, topped up on the way, beside another job; what is not earned in the end is credit again."""
    job, beside = new_job(), new_job()
    await pair.pay(job, JOB)
    await pair.pay(beside, JOB)
    # more than the deposit that the channel began with
    top = (await pair.channel("payer")).deposit + JOB
    for total in (2 * JOB, 2 * JOB, 3 * JOB, top):
        payment = await pair.payer.reserve_more(pair.payee_id, job, total)
        for _ in range(2):
            await pair.payee.accept_more(pair.payer_id, job, payment, total)
    for side in ("payer", "payee"):
        assert (await pair.channel(side)).reserved == top + JOB
    await pair.settle(job, top - 7)
    await pair.settle(beside, JOB)
    assert (await pair.payer.balance()).spent == top - 7 + JOB == (await pair.payee.balance()).earned
    more = await pair.payer.reserve(pair.payee_id, new_job(), 7)
    await pair.payee.accept_payment(pair.payer_id, new_job(), more, 7)
    assert (await pair.channel("payee")).cumulative == top + JOB, "no new voucher was needed"


async def check_instalments_in_any_order(pair: SettlementPair) -> None:
    """A payment that was overtaken is made good by the next one, and reaches as far as it says."""
    job = new_job()
    await pair.pay(job, JOB)
    second, third = [await pair.payer.reserve_more(pair.payee_id, job, n * JOB) for n in (2, 3)]
    await pair.payee.accept_more(pair.payer_id, job, third, 3 * JOB)
    error = await refused("AMOUNT", SettlementError, pair.payee.accept_more(pair.payer_id, job, second, 2 * JOB))
    assert not isinstance(error, RemoteProtocolError)
    error = await refused("CREDIT", SettlementError, pair.payee.accept_more(pair.payer_id, job, third, 3 * JOB + 1))
    assert isinstance(error, SettlementError)
    assert error.needed == 3 * JOB + 1
    assert (await pair.channel("payee")).reserved == 3 * JOB, "what was reserved stays so"
    await pair.payer.end_reservation(job, "unknown")
    assert (await pair.payer.balance()).spent == 3 * JOB
    await pair.settle(job, 2 * JOB)
    assert (await pair.payer.balance()).spent == 2 * JOB == (await pair.payee.balance()).earned


async def check_instalments_of_no_such_job(pair: SettlementPair) -> None:
    job, never = new_job(), new_job()
    payment = await pair.pay(job, JOB)
    await refused("AMOUNT", SettlementError, pair.payer.reserve_more(pair.payee_id, job, JOB - 1))
    await refused("JOB_UNKNOWN", SettlementError, pair.payer.reserve_more(pair.payee_id, never, JOB))
    await refused("JOB_UNKNOWN", SettlementError, pair.payee.accept_more(pair.payer_id, never, payment, JOB))
    wallet = await pair.payer.balance()
    beyond = 2 * JOB + wallet.available + wallet.deposited
    await refused("BALANCE", SettlementError, pair.payer.reserve_more(pair.payee_id, job, beyond))
    stranger = IdentityKey.generate().peer_id
    await refused("JOB_UNKNOWN", SettlementError, pair.payee.accept_more(stranger, job, payment, 2 * JOB))
    other = replace(decode_payment(payment), channel=b"\7" * 32).encode()
    await refused("VOUCHER_FOREIGN", RemoteProtocolError, pair.payee.accept_more(pair.payer_id, job, other, 2 * JOB))
    await pair.settle(job, JOB)
    await refused("JOB_ENDED", SettlementError, pair.payer.reserve_more(pair.payee_id, job, 2 * JOB))
    await refused("JOB_ENDED", SettlementError, pair.payee.accept_more(pair.payer_id, job, payment, 2 * JOB))


async def check_instalments_that_cost_nothing(pair: SettlementPair) -> None:
    job = new_job()
    await pair.pay(job, 0)
    assert await pair.payer.reserve_more(pair.payee_id, job, 0) == b""
    await pair.payee.accept_more(pair.payer_id, job, b"", 0)
    payment = await pair.payer.reserve_more(pair.payee_id, job, JOB)
    await pair.payee.accept_more(pair.payer_id, job, payment, JOB)
    await pair.settle(job, JOB)
    assert (await pair.payer.balance()).spent == JOB == (await pair.payee.balance()).earned


async def check_instalments_survive_a_restart(pair: SettlementPair) -> None:
    job = new_job()
    await pair.pay(job, JOB)
    payment = await pair.payer.reserve_more(pair.payee_id, job, 2 * JOB)
    await pair.payee.accept_more(pair.payer_id, job, payment, 2 * JOB)
    await pair.restart(pair)
    payment = await pair.payer.reserve_more(pair.payee_id, job, 3 * JOB)
    await pair.payee.accept_more(pair.payer_id, job, payment, 3 * JOB)
    await pair.settle(job, 3 * JOB)
    assert (await pair.payer.balance()).spent == 3 * JOB == (await pair.payee.balance()).earned


INSTALMENT_CHECKS: tuple[SettlementCheck, ...] = (
    check_a_job_paid_by_instalments,
    check_instalments_in_any_order,
    check_instalments_of_no_such_job,
    check_instalments_that_cost_nothing,
    check_instalments_survive_a_restart,
)
