"""The local backend beyond the port's contract: openings, the wallet, bounds, and files that are not right."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cocoon_p2p.errors import ConfigError, RemoteProtocolError, SettlementError
from cocoon_p2p.ids import JobId
from cocoon_p2p.limits import (
    CHANNELS_PER_PAYER_MAX,
    DEPOSIT_NANOGRAM_MAX,
    LOCAL_DEPOSIT_NANOGRAM,
    LOCAL_GRANT_NANOGRAM,
)
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.ledger import Ledger
from cocoon_p2p.settlement.ledger_schema import LEDGER_SCHEMA
from cocoon_p2p.settlement.local import LocalSettlement, open_local_settlement, read_local_settlement
from cocoon_p2p.settlement.vouchers import VoucherSigner, sign_opening
from cocoon_p2p.store.database import open_database
from cocoon_p2p.units import NANOGRAM_PER_GRAM
from cocoon_p2p.wire.voucher import ChannelConfig, Payment, decode_payment, local_channel_address

ALICE, BOB, CAROL = (IdentityKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
KEY = IdentityKey.from_seed(b"\x0a" * 32)
CONFIG = ChannelConfig(KEY.public_key, ALICE.peer_id, BOB.peer_id, b"\5" * 16, 0, 0)
GRAM = NANOGRAM_PER_GRAM
Opener = Callable[..., LocalSettlement]


def job() -> JobId:
    return JobId(os.urandom(16))


def payment(
    config: ChannelConfig = CONFIG,
    *,
    deposit: int = GRAM,
    cumulative: int = 100,
    signer: IdentityKey = ALICE,
    channel: bytes | None = None,
) -> bytes:
    """A payment of one's own making."""
    encoded = config.encode()
    channel = channel or local_channel_address(encoded)
    voucher = VoucherSigner(KEY, 0).sign(channel, cumulative)
    return Payment(channel, sign_opening(signer, encoded, deposit), voucher.encode()).encode()


async def test_payment_of_ones_own_making_is_taken(open_wallet: Opener) -> None:
    bob = open_wallet(BOB)
    await bob.accept_payment(ALICE.peer_id, job(), payment(), 100)
    (status,) = await bob.channels()
    assert (status.deposit, status.cumulative, status.reserved) == (GRAM, 100, 100)


@pytest.mark.parametrize(
    ("code", "made"),
    [
        ("CHANNEL_SIGNATURE", {"signer": CAROL}),
        ("VOUCHER_FOREIGN", {"config": replace(CONFIG, payee=CAROL.peer_id)}),
        ("VOUCHER_FOREIGN", {"config": replace(CONFIG, payer=CAROL.peer_id)}),
        ("VOUCHER_FOREIGN", {"config": replace(CONFIG, network_id=-3)}),
        ("VOUCHER_FOREIGN", {"channel": b"\1" * 32}),
        ("VOUCHER_SIGNATURE", {"config": replace(CONFIG, payer_key=b"\1" * 32)}),
        ("DEPOSIT", {"deposit": 0}),
        ("DEPOSIT", {"deposit": DEPOSIT_NANOGRAM_MAX + 1}),
        ("DEPOSIT", {"deposit": 99}),
    ],
)
async def test_hostile_openings(open_wallet: Opener, code: str, made: dict[str, Any]) -> None:
    bob = open_wallet(BOB)
    with pytest.raises(RemoteProtocolError) as raised:
        await bob.accept_payment(ALICE.peer_id, job(), payment(**made), 100)
    assert raised.value.code == code
    assert await bob.channels() == ()
    await bob.accept_payment(ALICE.peer_id, job(), payment(), 100)


async def test_deposit_only_grows(open_wallet: Opener) -> None:
    bob = open_wallet(BOB)
    for deposit in (GRAM, 2 * GRAM, GRAM):
        await bob.accept_payment(ALICE.peer_id, job(), payment(deposit=deposit), 0)
    (status,) = await bob.channels()
    assert status.deposit == 2 * GRAM


async def test_opening_is_sent_until_a_job_was_paid_and_again_after_a_failure(open_wallet: Opener) -> None:
    alice = open_wallet(ALICE)

    async def opening_of(job_id: JobId) -> bytes:
        return decode_payment(await alice.reserve(BOB.peer_id, job_id, 100)).open

    first, second, third = job(), job(), job()
    assert await opening_of(first) == await opening_of(second) != b""
    await alice.paid(first, 100)
    assert await opening_of(third) == b""
    await alice.end_reservation(third, "released")
    assert await opening_of(job()) != b""


async def test_payee_that_lost_its_ledger_learns_the_channel_again(open_wallet: Opener, tmp_path: Path) -> None:
    alice, bob = open_wallet(ALICE), open_wallet(BOB)
    done = job()
    await bob.accept_payment(ALICE.peer_id, done, await alice.reserve(BOB.peer_id, done, 100), 100)
    await alice.paid(done, 100)
    with open_local_settlement(tmp_path / "new.db", BOB, KEY) as forgetful:
        failed, again = job(), job()
        with pytest.raises(SettlementError) as raised:
            await forgetful.accept_payment(ALICE.peer_id, failed, await alice.reserve(BOB.peer_id, failed, 100), 100)
        assert raised.value.code == "CHANNEL_UNKNOWN"
        await alice.end_reservation(failed, "released")
        await forgetful.accept_payment(ALICE.peer_id, again, await alice.reserve(BOB.peer_id, again, 100), 100)


async def test_channel_on_which_every_job_fails_is_left(open_wallet: Opener) -> None:
    alice, bob = open_wallet(ALICE), open_wallet(BOB)
    first = job()
    await bob.accept_payment(ALICE.peer_id, first, await alice.reserve(BOB.peer_id, first, 100), 100)
    await bob.earned(first, 100)
    await alice.paid(first, 100)
    (status,) = await bob.channels()
    await bob.close(status.channel)
    running = job()
    await alice.reserve(BOB.peer_id, running, 100)
    for _ in range(3):
        refused = job()
        with pytest.raises(SettlementError) as raised:
            await bob.accept_payment(ALICE.peer_id, refused, await alice.reserve(BOB.peer_id, refused, 100), 100)
        assert raised.value.code == "CHANNEL_CLOSED"
        await alice.end_reservation(refused, "released")
    again = job()
    await bob.accept_payment(ALICE.peer_id, again, await alice.reserve(BOB.peer_id, again, 100), 100)
    assert sum(not status.closed for status in await alice.channels()) == 2, "a job is in progress on the old one"
    await alice.end_reservation(running, "unknown")
    assert sum(not status.closed for status in await alice.channels()) == 1
    balance = await alice.balance()
    assert balance.available + balance.deposited + balance.spent == LOCAL_GRANT_NANOGRAM
    assert balance.spent == 200


async def test_deposits_and_top_ups(open_wallet: Opener) -> None:
    alice = open_wallet(ALICE)
    await alice.reserve(BOB.peer_id, job(), 100)
    (status,) = await alice.channels()
    assert status.deposit == LOCAL_DEPOSIT_NANOGRAM
    await alice.reserve(BOB.peer_id, job(), LOCAL_DEPOSIT_NANOGRAM)
    (status,) = await alice.channels()
    assert status.deposit == 2 * LOCAL_DEPOSIT_NANOGRAM
    await alice.reserve(BOB.peer_id, job(), 3 * GRAM)
    (status,) = await alice.channels()
    assert status.deposit == status.cumulative == LOCAL_DEPOSIT_NANOGRAM + 100 + 3 * GRAM
    balance = await alice.balance()
    assert balance.available + balance.deposited == LOCAL_GRANT_NANOGRAM


async def test_empty_wallet_says_what_it_has_and_what_is_needed(open_wallet: Opener) -> None:
    alice = open_wallet(ALICE)
    await alice.reserve(BOB.peer_id, job(), 9 * GRAM)
    with pytest.raises(SettlementError) as raised:
        await alice.reserve(CAROL.peer_id, job(), 2 * GRAM)
    assert raised.value.code == "BALANCE"
    assert "1 GRAM" in raised.value.message
    assert "2 GRAM" in raised.value.message
    assert "test money, no value" in raised.value.message
    with pytest.raises(SettlementError) as raised:
        await alice.reserve(BOB.peer_id, job(), DEPOSIT_NANOGRAM_MAX + 1)
    assert raised.value.code == "BALANCE"
    for nonsense in (-1, 2**63):
        with pytest.raises(SettlementError):
            await alice.reserve(BOB.peer_id, job(), nonsense)


async def test_more_payees_than_the_wallet_has_deposits_for(open_wallet: Opener) -> None:
    alice = open_wallet(ALICE)
    kept = job()
    await alice.reserve(BOB.peer_id, kept, 100)  # stays in progress: its channel must not be closed
    for n in range(3 * LOCAL_GRANT_NANOGRAM // LOCAL_DEPOSIT_NANOGRAM):
        done = job()
        await alice.reserve(IdentityKey.from_seed(n.to_bytes(32)).peer_id, done, 1000)
        await alice.paid(done, 1000)
    balance = await alice.balance()
    assert balance.available + balance.deposited + balance.spent == LOCAL_GRANT_NANOGRAM
    assert balance.spent == 60_000
    assert [status.other for status in await alice.channels() if status.reserved] == [BOB.peer_id]


async def test_full_channel_is_followed_by_a_new_one(open_wallet: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cocoon_p2p.settlement.payer.DEPOSIT_NANOGRAM_MAX", GRAM)
    alice, bob = open_wallet(ALICE), open_wallet(BOB)
    jobs = [job() for _ in range(7)]
    for job_id in jobs:
        await bob.accept_payment(ALICE.peer_id, job_id, await alice.reserve(BOB.peer_id, job_id, GRAM // 3), GRAM // 3)
    assert len(await alice.channels()) == 3
    for job_id in jobs:
        await bob.earned(job_id, GRAM // 3)
        await alice.paid(job_id, GRAM // 3)
    assert sorted(status.closed for status in await alice.channels()) == [False, True, True]
    balance = await alice.balance()
    assert balance.spent == 7 * (GRAM // 3) == (await bob.balance()).earned
    assert balance.available + balance.deposited + balance.spent == LOCAL_GRANT_NANOGRAM


async def test_replaced_channel_key(open_wallet: Opener) -> None:
    alice, bob = open_wallet(ALICE), open_wallet(BOB)
    first, second = job(), job()
    await bob.accept_payment(ALICE.peer_id, first, await alice.reserve(BOB.peer_id, first, 100), 100)
    alice = open_wallet(ALICE, KEY)
    await bob.accept_payment(ALICE.peer_id, second, await alice.reserve(BOB.peer_id, second, 100), 100)
    for job_id in (first, second):
        await bob.earned(job_id, 100)
        await alice.paid(job_id, 100)
    assert sorted(status.closed for status in await alice.channels()) == [False, True]


async def test_released_job_may_be_tried_with_another_payee(open_wallet: Opener) -> None:
    alice, carol = open_wallet(ALICE), open_wallet(CAROL)
    job_id = job()
    await alice.reserve(BOB.peer_id, job_id, 100)
    await alice.end_reservation(job_id, "released")
    await carol.accept_payment(ALICE.peer_id, job_id, await alice.reserve(CAROL.peer_id, job_id, 70), 70)
    await alice.paid(job_id, 70)
    assert (await alice.balance()).spent == 70


async def test_channels_of_one_payer_are_bounded(open_wallet: Opener) -> None:
    bob = open_wallet(BOB)

    def opened(n: int) -> bytes:
        return payment(replace(CONFIG, channel_id=n.to_bytes(16)))

    jobs = [job() for _ in range(CHANNELS_PER_PAYER_MAX)]
    for n, job_id in enumerate(jobs):
        await bob.accept_payment(ALICE.peer_id, job_id, opened(n), 100)
    with pytest.raises(SettlementError) as raised:
        await bob.accept_payment(ALICE.peer_id, job(), opened(99), 100)
    assert raised.value.code == "CHANNELS"
    await bob.earned(jobs[3], 100)
    await bob.accept_payment(ALICE.peer_id, job(), opened(99), 100)
    balance = await bob.balance()
    assert (balance.earned, balance.claimed) == (100, 100), "the idle channel was claimed before it was closed"
    assert sum(not status.closed for status in await bob.channels()) == CHANNELS_PER_PAYER_MAX


async def test_channels_in_all_are_bounded(open_wallet: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cocoon_p2p.settlement.payee.CHANNELS_KEPT_MAX", 100)
    bob = open_wallet(BOB)
    for n in range(150):
        payer = IdentityKey.from_seed(n.to_bytes(32))
        made = payment(replace(CONFIG, payer=payer.peer_id), signer=payer)
        job_id = job()
        await bob.accept_payment(payer.peer_id, job_id, made, 100)
        await bob.earned(job_id, 100)
        assert len(await bob.channels()) <= 100
    balance = await bob.balance()
    assert balance.earned == 15_000
    assert balance.available == LOCAL_GRANT_NANOGRAM + balance.claimed


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60, deadline=None
)
@given(data=st.data())
def test_any_bytes_are_an_answer_and_never_a_crash(open_wallet: Opener, data: st.DataObject) -> None:
    bob = open_wallet(BOB)
    good = payment()
    raw = data.draw(
        st.binary(max_size=64)
        | st.builds(
            lambda at, bit: good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :],
            st.integers(0, len(good) - 1),
            st.integers(0, 7),
        )
    )
    with suppress(RemoteProtocolError, StopIteration):
        bob.accept_payment(ALICE.peer_id, job(), raw, 100).send(None)  # local never waits, so this runs it to its end


def test_ledger_of_another_identity(open_wallet: Opener, tmp_path: Path) -> None:
    open_wallet(ALICE)
    path = tmp_path / f"{ALICE.peer_id}.db"
    with pytest.raises(ConfigError, match="is the ledger of"), open_local_settlement(path, BOB, KEY):
        pass


def test_damaged_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(ConfigError) as raised, open_local_settlement(path, BOB, KEY):
        pass
    assert str(path) in raised.value.message
    assert raised.value.hint is not None
    assert path.read_bytes() == b"not a database" * 1000


async def test_reading_a_ledger_without_keys(open_wallet: Opener, tmp_path: Path) -> None:
    path = tmp_path / f"{ALICE.peer_id}.db"
    balance, channels = read_local_settlement(path)
    assert (balance.available, channels) == (LOCAL_GRANT_NANOGRAM, ())
    assert not path.exists()
    alice = open_wallet(ALICE)
    await alice.reserve(BOB.peer_id, job(), 100)
    assert read_local_settlement(path) == (await alice.balance(), await alice.channels())


def test_a_ledger_of_before_is_kept(tmp_path: Path) -> None:
    before = replace(LEDGER_SCHEMA, migrations=LEDGER_SCHEMA.migrations[:1])
    path = tmp_path / "ledger.db"
    with open_database(path, before, failure=SettlementError) as database:
        Ledger(database).set_owner(ALICE.peer_id)
        for number, state in enumerate(("reserved", "settled")):
            database.execute(
                "INSERT INTO reservations VALUES (?,?,?,?,?,?,?,?)",
                (number, "payer", bytes([number]) * 16, BOB.peer_id, b"", 0, state, 0),
            )
    with open_local_settlement(path, ALICE, KEY) as wallet:
        assert [each.job_id for each in wallet._ledger.open_reservations()] == [bytes(16)]
        kept = wallet._ledger.reservation("payer", JobId(b"\1" * 16), BOB.peer_id)
        assert kept is not None
        assert kept.state == "settled"
