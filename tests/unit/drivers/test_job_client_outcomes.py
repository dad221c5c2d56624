"""Late words of providers about jobs of an earlier run of the node, when only the disk knows; and the memory of seal keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from far_provider import CLIENT, JOB, MODEL, PRICE, PROVIDER

from cocoon_p2p import limits
from cocoon_p2p.drivers.job_outcomes import JobOutcomes
from cocoon_p2p.drivers.seal_key_memory import SealKeyMemory
from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId, Tier
from cocoon_p2p.proto.job_answers import Owed
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import LocalSettlement, open_local_settlement
from cocoon_p2p.store import JobRecord, JobState, Store, open_store
from cocoon_p2p.testing.simulation import VirtualClock
from cocoon_p2p.wire.job import RECEIPT_DOMAIN, Cancel, FailureCode, QuoteBody, Receipt, ReceiptAck, ReceiptBody
from cocoon_p2p.wire.seal import SealKeyRecord

STRANGER = IdentityKey.from_seed(b"s" * 32)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "state.db") as opened:
        yield opened


@pytest.fixture
def money(tmp_path: Path) -> Iterator[LocalSettlement]:
    with open_local_settlement(tmp_path / "ledger.db", CLIENT, IdentityKey.generate(), threads=False) as opened:
        yield opened


@pytest.fixture
def outcomes(store: Store, money: LocalSettlement) -> JobOutcomes:
    return JobOutcomes(CLIENT, money, store, VirtualClock())


def receipt(*, price: int = PRICE, signer: IdentityKey = PROVIDER, output_hash: bytes = bytes(32)) -> Receipt:
    body = ReceiptBody(
        signer.peer_id, CLIENT.peer_id, JOB, MODEL, Tier.OPEN, bytes(32), price, 1, bytes(32), output_hash, 0, 0, 1
    ).encode()
    return Receipt(JOB, body, signer.sign(RECEIPT_DOMAIN, body), b"")


def owed(*, output_hash: bytes = bytes(32)) -> Owed:
    quote = QuoteBody(
        PROVIDER.peer_id, CLIENT.peer_id, JOB, MODEL, Tier.OPEN, 1, 64, 1000, 10, PRICE, 1, 0, 0, b"", b""
    )
    return Owed(quote, bytes(32), bytes(32), output_hash)


async def given(store: Store, money: LocalSettlement, state: JobState, peer: PeerId = PROVIDER.peer_id) -> None:
    """A job of an earlier run that ended so."""
    await money.reserve(peer, JOB, PRICE)
    await money.end_reservation(JOB, "unknown", payee=peer)
    store.jobs.insert(JobRecord(JOB, "client", MODEL, "m", peer, Tier.OPEN, state, PRICE, 1, 1))


async def spent(money: LocalSettlement) -> int:
    return (await money.balance()).spent


async def test_what_the_caller_had_is_paid_and_signed(
    outcomes: JobOutcomes, store: Store, money: LocalSettlement
) -> None:
    await given(store, money, "done")
    answer = await outcomes.on_receipt(PROVIDER.peer_id, receipt(price=1000))
    assert isinstance(answer, ReceiptAck)
    assert await spent(money) == 1000
    job = store.jobs.get(JOB, "client")
    assert job is not None
    assert (job.state, job.price) == ("done", 1000)
    kept = store.receipts.by_job(JOB, role="client")
    assert kept is not None
    assert kept.client_signature == answer.client_signature


@pytest.mark.parametrize("state", ["unknown", "failed"])
async def test_what_nobody_had_is_cancelled(
    outcomes: JobOutcomes, store: Store, money: LocalSettlement, state: JobState
) -> None:
    await given(store, money, state)
    assert await outcomes.on_receipt(PROVIDER.peer_id, receipt()) == Cancel(JOB)
    assert await spent(money) == PRICE, "until the provider has said that it gave it back"
    assert store.receipts.by_job(JOB) is None


async def test_a_job_that_still_goes_on_is_left_alone(
    outcomes: JobOutcomes, store: Store, money: LocalSettlement
) -> None:
    await given(store, money, "running")
    assert await outcomes.on_receipt(PROVIDER.peer_id, receipt()) is None


async def test_nobody_is_paid_for_the_job_of_another(
    outcomes: JobOutcomes, store: Store, money: LocalSettlement
) -> None:
    await given(store, money, "done")
    assert await outcomes.on_receipt(STRANGER.peer_id, receipt(signer=STRANGER)) is None
    with pytest.raises(RemoteProtocolError):
        await outcomes.on_receipt(STRANGER.peer_id, receipt())
    assert await spent(money) == PRICE
    assert store.receipts.by_job(JOB) is None


async def test_a_receipt_above_what_was_set_aside_is_not_signed(
    outcomes: JobOutcomes, store: Store, money: LocalSettlement
) -> None:
    await given(store, money, "done")
    assert await outcomes.on_receipt(PROVIDER.peer_id, receipt(price=PRICE + 1)) is None
    assert await spent(money) == PRICE


async def test_a_receipt_for_another_answer_than_came_is_a_fault(
    outcomes: JobOutcomes, store: Store, money: LocalSettlement
) -> None:
    await given(store, money, "done")
    outcomes.left_open(PROVIDER.peer_id, JOB, owed(output_hash=b"x" * 32))
    with pytest.raises(RemoteProtocolError) as caught:
        await outcomes.on_receipt(PROVIDER.peer_id, receipt())
    assert caught.value.code == "RECEIPT"
    outcomes.left_open(PROVIDER.peer_id, JOB, owed())
    assert isinstance(await outcomes.on_receipt(PROVIDER.peer_id, receipt()), ReceiptAck)


async def test_of_two_different_receipts_the_first_is_signed(
    outcomes: JobOutcomes, store: Store, money: LocalSettlement
) -> None:
    """A provider that gave a wrong answer, and its receipt, would like to have another one signed."""
    await given(store, money, "done")
    assert isinstance(await outcomes.on_receipt(PROVIDER.peer_id, receipt()), ReceiptAck)
    assert isinstance(await outcomes.on_receipt(PROVIDER.peer_id, receipt()), ReceiptAck)
    assert await outcomes.on_receipt(PROVIDER.peer_id, receipt(output_hash=b"x" * 32)) is None
    kept = store.receipts.by_job(JOB, role="client")
    assert kept is not None
    assert kept.body == receipt().body


async def test_a_failure_releases_what_was_open_and_nothing_else(
    outcomes: JobOutcomes, store: Store, money: LocalSettlement
) -> None:
    await given(store, money, "unknown")
    await outcomes.on_failure(STRANGER.peer_id, JOB, FailureCode.CANCELLED)
    await outcomes.on_failure(PROVIDER.peer_id, JOB, FailureCode.CANCELLED)
    assert await spent(money) == PRICE, "nobody asked"
    outcomes.left_open(PROVIDER.peer_id, JOB, owed())
    await outcomes.on_failure(PROVIDER.peer_id, JOB, FailureCode.CANCELLED)
    assert await spent(money) == PRICE, "its answer was had, whatever the provider says"
    outcomes.left_open(PROVIDER.peer_id, JOB, None)
    await outcomes.on_failure(PROVIDER.peer_id, JOB, FailureCode.CANCELLED)
    assert await spent(money) == 0
    job = store.jobs.get(JOB, "client")
    assert job is not None
    assert (job.state, job.price) == ("failed", 0)
    assert await outcomes.on_receipt(PROVIDER.peer_id, receipt()) == Cancel(JOB)
    assert await spent(money) == 0


# --- seal keys ------------------------------------------------------------------------------------------------------


def key(number: int, *, not_after_ms: int = 10**9) -> SealKeyRecord:
    return SealKeyRecord(PROVIDER.peer_id, bytes([number]) * 16, bytes(1216), 0, not_after_ms)


def test_seal_keys_are_forgotten_when_too_many_or_too_old() -> None:
    memory = SealKeyMemory(kept_max=2)
    one, two, three = (PeerId(name) for name in ("one", "two", "three"))
    memory.remember(one, key(1))
    memory.remember(two, key(2))
    memory.remember(one, key(3))
    memory.remember(three, key(4))
    assert memory.find(two, 0) is None, "it quoted longest ago"
    assert memory.find(one, 0) == key(3)
    memory.forget(one)
    assert memory.find(one, 0) is None
    last_ms = 10**9 - int(limits.FIRM_KEY_LEFT_S * 1000)
    assert memory.find(three, last_ms - 1) == key(4)
    assert memory.find(three, last_ms) is None
