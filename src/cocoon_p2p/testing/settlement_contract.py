"""What every backend of the port `Settlement` does, as checks: `for check in SETTLEMENT_CHECKS: await check(pair)`, each
with a new pair. Amounts are small against a wallet's grant, so that a backend of real coins could run them too.
"""

from __future__ import annotations

from dataclasses import replace

from cocoon_p2p.errors import RemoteProtocolError, SettlementError
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.port import OpenReservation
from cocoon_p2p.settlement.vouchers import VoucherSigner
from cocoon_p2p.testing.settlement_instalments import INSTALMENT_CHECKS
from cocoon_p2p.testing.settlement_pair import JOB, SettlementCheck, SettlementPair, held, new_job, refused
from cocoon_p2p.wire.voucher import Payment, Voucher, decode_payment, decode_voucher

__all__ = ["SETTLEMENT_CHECKS", "SettlementCheck", "SettlementPair"]


async def check_one_job(pair: SettlementPair) -> None:
    before = held(await pair.payer.balance())
    job = new_job()
    await pair.pay(job, JOB)
    payer, payee = await pair.channel("payer"), await pair.channel("payee")
    assert payer.other == pair.payee_id
    assert payee.other == pair.payer_id
    assert payer.channel == payee.channel
    assert payer.reserved == payee.reserved == payee.cumulative == JOB
    await pair.settle(job, JOB - 1)
    for side in ("payer", "payee"):
        status = await pair.channel(side)
        assert (status.earned, status.reserved) == (JOB - 1, 0)
    assert (await pair.payee.balance()).earned == JOB - 1
    balance = await pair.payer.balance()
    assert balance.spent == JOB - 1
    assert held(balance) == before
    assert balance.network_id == pair.payer.network_id


async def check_unused_credit_serves_the_next_job(pair: SettlementPair) -> None:
    job = new_job()
    await pair.pay(job, JOB)
    await pair.settle(job, JOB // 2)
    await pair.pay(new_job(), JOB // 2)
    assert (await pair.channel("payee")).cumulative == JOB


async def check_credit_without_a_voucher(pair: SettlementPair) -> None:
    job = new_job()
    await pair.pay(job, JOB)
    await pair.settle(job, 0)
    job = new_job()
    payment = decode_payment(await pair.payer.reserve(pair.payee_id, job, JOB))
    await pair.payee.accept_payment(pair.payer_id, job, Payment(payment.channel, b"", b"").encode(), JOB)
    await pair.settle(job, JOB)


async def check_many_jobs_in_any_order(pair: SettlementPair) -> None:
    jobs = [new_job() for _ in range(12)]
    payments = {job: await pair.payer.reserve(pair.payee_id, job, JOB) for job in jobs}
    for job in [*reversed(jobs[1:6]), jobs[0], *jobs[6:]]:
        await pair.payee.accept_payment(pair.payer_id, job, payments[job], JOB)
    assert (await pair.channel("payee")).reserved == 12 * JOB
    for job in jobs[::2] + jobs[1::2]:
        await pair.settle(job, JOB)
    assert (await pair.payer.balance()).spent == 12 * JOB == (await pair.payee.balance()).earned


async def check_everything_is_idempotent(pair: SettlementPair) -> None:
    job = new_job()
    first = await pair.pay(job, JOB)
    again = await pair.payer.reserve(pair.payee_id, job, JOB)
    for payment in (first, again):
        await pair.payee.accept_payment(pair.payer_id, job, payment, JOB)
    for _ in range(2):
        await pair.settle(job, JOB - 5)
    await pair.payer.end_reservation(job, "unknown")
    await pair.payee.release(job)
    for side in ("payer", "payee"):
        status = await pair.channel(side)
        assert (status.cumulative, status.earned, status.reserved) == (JOB, JOB - 5, 0)
    await refused("JOB_ENDED", SettlementError, pair.payer.reserve(pair.payee_id, job, JOB))


async def check_released_reservations(pair: SettlementPair) -> None:
    job = new_job()
    await pair.pay(job, JOB)
    for _ in range(2):
        await pair.payee.release(job)
        await pair.payer.end_reservation(job, "released")
    assert (await pair.payer.balance()).spent == 0
    await pair.pay(new_job(), JOB)
    assert (await pair.channel("payee")).cumulative == JOB
    never = new_job()
    await pair.payee.release(never)
    await pair.payer.end_reservation(never, "released")


async def check_refunds(pair: SettlementPair) -> None:
    """What was earned is credit again, whatever came before, and serves the next job."""
    done, running, never = new_job(), new_job(), new_job()
    before = held(await pair.payer.balance())
    for job in (done, running):
        await pair.pay(job, JOB)
    await pair.payee.earned(done, JOB - 3)
    for _ in range(2):
        for job in (done, running, never):
            await pair.payee.refund(job)
        for job in (done, running):
            await pair.payer.end_reservation(job, "cancelled")
    status, balance = await pair.channel("payee"), await pair.payee.balance()
    assert (status.earned, status.reserved, balance.earned) == (0, 0, 0)
    assert held(await pair.payer.balance()) == before
    await refused("JOB_ENDED", SettlementError, pair.payee.earned(done, JOB - 3))
    job = new_job()
    await pair.pay(job, 2 * JOB)
    assert (await pair.channel("payee")).cumulative == 2 * JOB, "no new voucher was needed"
    await pair.settle(job, 2 * JOB)
    assert (await pair.payee.balance()).earned == 2 * JOB


async def check_refunds_after_a_claim(pair: SettlementPair) -> None:
    """The payee has taken the money out of the channel already: it works for it."""
    job = new_job()
    await pair.pay(job, JOB)
    channel = (await pair.channel("payee")).channel
    await pair.payee.earned(job, JOB)
    assert await pair.payee.claim(channel) == JOB
    await pair.payee.refund(job)
    await pair.payer.end_reservation(job, "released")
    assert await pair.payee.claim(channel) == 0
    job = new_job()
    await pair.pay(job, JOB)
    assert (await pair.channel("payee")).cumulative == JOB
    await pair.settle(job, JOB)
    assert await pair.payee.claim(channel) == 0
    assert (await pair.payee.balance()).claimed == JOB == (await pair.payer.balance()).spent


async def check_refunds_survive_a_restart(pair: SettlementPair) -> None:
    job = new_job()
    await pair.pay(job, JOB)
    await pair.payee.earned(job, JOB)
    await pair.payee.refund(job)
    await pair.restart(pair)
    assert (await pair.payee.balance()).earned == 0
    assert list(await pair.payee.open_reservations()) == []
    await pair.payee.refund(job)
    assert (await pair.channel("payee")).earned == 0


async def check_a_job_that_failed_may_come_again(pair: SettlementPair) -> None:
    job = new_job()
    await pair.pay(job, JOB)
    await pair.payee.release(job)
    await pair.payer.end_reservation(job, "released")
    await pair.pay(job, JOB)
    await pair.settle(job, JOB)
    assert (await pair.payee.balance()).earned == JOB == (await pair.payer.balance()).spent


async def check_one_job_given_to_two(pair: SettlementPair) -> None:
    """One id stands for one wish, whoever is asked for it."""
    job, other = new_job(), IdentityKey.generate().peer_id
    await pair.pay(job, JOB)
    await pair.payer.reserve(other, job, JOB)
    await pair.payer.end_reservation(job, "unknown", payee=other)
    await pair.payee.earned(job, JOB - 1)
    await pair.payer.paid(job, JOB - 1, payee=pair.payee_id)
    assert (await pair.payer.balance()).spent == 2 * JOB - 1
    await pair.payer.end_reservation(job, "released", payee=other)
    assert (await pair.payer.balance()).spent == JOB - 1
    assert list(await pair.payer.open_reservations()) == []


async def check_unknown_counts_as_spent(pair: SettlementPair) -> None:
    late, lost, failed = new_job(), new_job(), new_job()
    for job in (late, lost, failed):
        await pair.pay(job, JOB)
        await pair.payer.end_reservation(job, "unknown")
    assert (await pair.payer.balance()).spent == 3 * JOB
    await pair.settle(late, JOB - 7)
    await pair.payer.end_reservation(failed, "released")
    assert (await pair.payer.balance()).spent == 2 * JOB - 7


async def check_prices_above_the_reservation(pair: SettlementPair) -> None:
    job = new_job()
    await pair.pay(job, JOB)
    await refused("PRICE", SettlementError, pair.payee.earned(job, JOB + 1))
    await refused("PRICE", SettlementError, pair.payer.paid(job, JOB + 1))
    for call in (pair.payee.earned(new_job(), 1), pair.payer.paid(new_job(), 1)):
        await refused("JOB_UNKNOWN", SettlementError, call)
    await pair.settle(job, JOB)


async def check_an_empty_wallet(pair: SettlementPair) -> None:
    before = await pair.payer.balance()
    wanted = before.available + 1
    error = await refused("BALANCE", SettlementError, pair.payer.reserve(pair.payee_id, new_job(), wanted))
    assert isinstance(error, SettlementError)
    assert error.needed is not None
    assert error.hint
    assert await pair.payer.balance() == before
    await pair.pay(new_job(), JOB)


async def check_too_little_credit(pair: SettlementPair) -> None:
    job = new_job()
    payment = await pair.payer.reserve(pair.payee_id, job, JOB)
    error = await refused("CREDIT", SettlementError, pair.payee.accept_payment(pair.payer_id, job, payment, JOB + 3))
    assert isinstance(error, SettlementError)
    assert error.needed == JOB + 3
    assert (await pair.channel("payee")).cumulative == JOB, "a voucher that was too small is kept all the same"
    await pair.payee.accept_payment(pair.payer_id, job, payment, JOB)


async def check_hostile_vouchers(pair: SettlementPair) -> None:
    job = new_job()
    old = await pair.pay(job, JOB)
    await pair.settle(job, JOB)
    job = new_job()
    await pair.pay(job, JOB)
    await pair.settle(job, JOB)
    before = await pair.payee.channels()

    good = decode_payment(await pair.payer.reserve(pair.payee_id, new_job(), JOB))
    voucher = decode_voucher(good.voucher)
    deposit = (await pair.channel("payer")).deposit
    sign = VoucherSigner(pair.channel_key, pair.payee.network_id).sign
    elsewhere = VoucherSigner(pair.channel_key, pair.payee.network_id + 1).sign
    flipped = bytes([voucher.signature[0] ^ 1]) + voucher.signature[1:]
    for code, bad in {
        "flipped signature": ("VOUCHER_SIGNATURE", Voucher(voucher.cumulative, flipped)),
        "raised amount": ("VOUCHER_SIGNATURE", Voucher(voucher.cumulative + 1, voucher.signature)),
        "another channel": ("VOUCHER_SIGNATURE", sign(b"\1" * 32, voucher.cumulative)),
        "another network": ("VOUCHER_SIGNATURE", elsewhere(good.channel, voucher.cumulative)),
        "stranger's key": (
            "VOUCHER_SIGNATURE",
            VoucherSigner(IdentityKey.generate(), pair.payee.network_id).sign(good.channel, voucher.cumulative),
        ),
        "more than the deposit": ("DEPOSIT", sign(good.channel, deposit + 1)),
        "stale": ("VOUCHER_STALE", decode_voucher(decode_payment(old).voucher)),
    }.values():
        payment = replace(good, voucher=bad.encode()).encode()
        await refused(code, RemoteProtocolError, pair.payee.accept_payment(pair.payer_id, new_job(), payment, JOB))
    assert await pair.payee.channels() == before
    await pair.payee.accept_payment(pair.payer_id, new_job(), good.encode(), JOB)


async def check_foreign_payments(pair: SettlementPair) -> None:
    payment = await pair.payer.reserve(pair.payee_id, new_job(), JOB)
    stranger = IdentityKey.generate().peer_id
    for _ in range(2):  # before and after the channel is known
        try:
            await pair.payee.accept_payment(stranger, new_job(), payment, JOB)
        except RemoteProtocolError:
            pass
        else:
            raise AssertionError("a stranger paid with somebody else's channel")
        await pair.payee.accept_payment(pair.payer_id, new_job(), payment, 0)


async def check_repeated_job_ids(pair: SettlementPair) -> None:
    job = new_job()
    payment = await pair.pay(job, JOB)
    accept = pair.payee.accept_payment
    # another's job of the same id is another job: what is wrong with it is that the channel is not his
    await refused("VOUCHER_FOREIGN", RemoteProtocolError, accept(IdentityKey.generate().peer_id, job, payment, JOB))
    await refused("REPLAY", RemoteProtocolError, accept(pair.payer_id, job, payment, JOB - 1))
    await pair.settle(job, JOB)
    await refused("REPLAY", RemoteProtocolError, accept(pair.payer_id, job, payment, JOB))


async def check_garbage(pair: SettlementPair) -> None:
    good = await pair.payer.reserve(pair.payee_id, new_job(), JOB)
    for length in range(0, len(good), 7):
        try:
            await pair.payee.accept_payment(pair.payer_id, new_job(), good[:length], JOB)
        except RemoteProtocolError:
            continue
        raise AssertionError(f"the first {length} bytes of a payment were taken")


async def check_jobs_that_cost_nothing(pair: SettlementPair) -> None:
    job = new_job()
    await pair.pay(job, 0)
    await pair.settle(job, 0)
    assert (await pair.payer.balance()).spent == 0
    job = new_job()
    await pair.pay(job, 0)
    await pair.payee.release(job)
    await pair.payer.end_reservation(job, "unknown")


async def check_claims(pair: SettlementPair) -> None:
    done, running = new_job(), new_job()
    await pair.pay(done, JOB)
    await pair.settle(done, JOB - 1)
    await pair.pay(running, JOB)
    channel = (await pair.channel("payee")).channel
    before = (await pair.payee.balance()).available
    assert await pair.payee.claim(channel) == JOB - 1
    assert await pair.payee.claim(channel) == 0
    balance = await pair.payee.balance()
    assert (balance.available - before, balance.claimed) == (JOB - 1, JOB - 1)
    assert (await pair.channel("payee")).claimed == JOB - 1
    await pair.settle(running, JOB)
    assert await pair.payee.claim(channel) == JOB
    await refused("CHANNEL_UNKNOWN", SettlementError, pair.payee.claim(b"\0" * 32))


async def check_closing(pair: SettlementPair) -> None:
    total = held(await pair.payer.balance())
    job = new_job()
    await pair.pay(job, JOB)
    channel = (await pair.channel("payer")).channel
    for side in (pair.payer, pair.payee):
        error = await refused("IN_FLIGHT", SettlementError, side.close(channel))
        assert error.retryable
    await pair.settle(job, JOB - 1)
    for _ in range(2):
        await pair.payee.close(channel)
        await pair.payer.close(channel)
    assert (await pair.payee.balance()).claimed == JOB - 1
    balance = await pair.payer.balance()
    assert (balance.available, balance.deposited, balance.spent) == (total - JOB + 1, 0, JOB - 1)
    assert all(status.closed for status in await pair.payee.channels())
    await pair.pay(new_job(), JOB)  # over a new channel
    assert (await pair.channel("payee")).channel != channel


async def check_payments_over_a_closed_channel(pair: SettlementPair) -> None:
    job = new_job()
    await pair.pay(job, JOB)
    await pair.settle(job, JOB)
    channel = (await pair.channel("payee")).channel
    await pair.payee.close(channel)
    job = new_job()
    payment = await pair.payer.reserve(pair.payee_id, job, JOB)
    accept = pair.payee.accept_payment(pair.payer_id, job, payment, JOB)
    await refused("CHANNEL_CLOSED", SettlementError, accept)
    await pair.payer.end_reservation(job, "released")
    await pair.payer.close(channel)
    await pair.pay(job, JOB)


async def check_restarts(pair: SettlementPair) -> None:
    done, running, unknown = new_job(), new_job(), new_job()
    for job in (done, running, unknown):
        await pair.pay(job, JOB)
    await pair.settle(done, JOB)
    await pair.payer.end_reservation(unknown, "unknown")
    before = [await backend.channels() for backend in (pair.payer, pair.payee)]
    balances = [await backend.balance() for backend in (pair.payer, pair.payee)]
    await pair.restart(pair)
    assert [await backend.channels() for backend in (pair.payer, pair.payee)] == before
    assert [await backend.balance() for backend in (pair.payer, pair.payee)] == balances
    assert list(await pair.payer.open_reservations()) == [OpenReservation(running, "payer", pair.payee_id)]
    still_open = {OpenReservation(job, "payee", pair.payer_id) for job in (running, unknown)}
    assert set(await pair.payee.open_reservations()) == still_open
    await pair.settle(running, JOB)
    await pair.settle(unknown, JOB)
    await pair.pay(new_job(), JOB)
    assert (await pair.channel("payee")).cumulative == 4 * JOB


SETTLEMENT_CHECKS: tuple[SettlementCheck, ...] = (
    check_one_job,
    check_unused_credit_serves_the_next_job,
    check_credit_without_a_voucher,
    check_many_jobs_in_any_order,
    check_everything_is_idempotent,
    check_released_reservations,
    check_refunds,
    check_refunds_after_a_claim,
    check_refunds_survive_a_restart,
    check_a_job_that_failed_may_come_again,
    check_one_job_given_to_two,
    check_unknown_counts_as_spent,
    check_prices_above_the_reservation,
    check_an_empty_wallet,
    check_too_little_credit,
    check_hostile_vouchers,
    check_foreign_payments,
    check_repeated_job_ids,
    check_garbage,
    check_jobs_that_cost_nothing,
    check_claims,
    check_closing,
    check_payments_over_a_closed_channel,
    check_restarts,
    *INSTALMENT_CHECKS,
)
