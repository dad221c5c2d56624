"""Late words about an answer that broke off in the middle: what was acknowledged is owed, and no more, also after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from far_provider import CLIENT, JOB, MODEL, PROVIDER

from cocoon_p2p.drivers.job_outcomes import JobOutcomes
from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import Tier
from cocoon_p2p.proto.job_answers import Owed, StreamMark
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import LocalSettlement, open_local_settlement
from cocoon_p2p.store import JobRecord, Store, open_store
from cocoon_p2p.testing.simulation import VirtualClock
from cocoon_p2p.wire.job import RECEIPT_DOMAIN, Cancel, FailureCode, QuoteBody, Receipt, ReceiptAck, ReceiptBody

BASE, EACH, RESERVED = 1000, 10, 3000
EARLIER, LAST = StreamMark(2, 40, b"a" * 32), StreamMark(4, 80, b"b" * 32)
OWED = Owed(
    QuoteBody(
        PROVIDER.peer_id, CLIENT.peer_id, JOB, MODEL, Tier.OPEN, 400, 64, BASE, EACH, BASE + 400 * EACH, 1, 0, 0,
        b"", b"", instalment=64,
    ),
    bytes(32), bytes(32), b"", (EARLIER, LAST),
)  # fmt: skip


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


def receipt(mark: StreamMark, *, items: int | None = None) -> Receipt:
    count = mark.items if items is None else items
    body = ReceiptBody(
        PROVIDER.peer_id, CLIENT.peer_id, JOB, MODEL, Tier.OPEN, bytes(32), BASE + EACH * count, count, bytes(32),
        mark.output_hash, 0, 0, 1, frames=mark.frames,
    ).encode()  # fmt: skip
    return Receipt(JOB, body, PROVIDER.sign(RECEIPT_DOMAIN, body), b"")


async def broke_off(store: Store, money: LocalSettlement, *, acknowledged: bool = True) -> None:
    """In an earlier run of the node, or in this one."""
    await money.reserve(PROVIDER.peer_id, JOB, RESERVED)
    await money.end_reservation(JOB, "unknown", payee=PROVIDER.peer_id)
    store.jobs.insert(JobRecord(JOB, "client", MODEL, "m", PROVIDER.peer_id, Tier.OPEN, "unknown", RESERVED, 400, 1))
    if acknowledged:
        store.stream_marks.put(JOB, PROVIDER.peer_id, OWED.encode())


async def spent(money: LocalSettlement) -> int:
    return (await money.balance()).spent


@pytest.mark.parametrize("asked_first", [True, False])
@pytest.mark.parametrize("mark", [EARLIER, LAST])
async def test_a_receipt_for_what_was_acknowledged_is_paid(
    outcomes: JobOutcomes, store: Store, money: LocalSettlement, mark: StreamMark, asked_first: bool
) -> None:
    await broke_off(store, money)
    if asked_first:
        outcomes.ask_about(PROVIDER.peer_id, JOB)
        assert not outcomes.is_owed(PROVIDER.peer_id, JOB), "it may be asked about with CANCEL"
    price = BASE + EACH * mark.items
    assert isinstance(await outcomes.on_receipt(PROVIDER.peer_id, receipt(mark)), ReceiptAck)
    assert await spent(money) == price
    job = store.jobs.get(JOB, "client")
    assert job is not None
    assert (job.state, job.price, job.items) == ("failed", price, mark.items)
    assert store.stream_marks.get(JOB, PROVIDER.peer_id) is None
    assert isinstance(await outcomes.on_receipt(PROVIDER.peer_id, receipt(mark)), ReceiptAck | Cancel)
    assert await spent(money) == price


async def test_a_receipt_for_more_is_a_fault(outcomes: JobOutcomes, store: Store, money: LocalSettlement) -> None:
    await broke_off(store, money)
    for wrong in (receipt(StreamMark(5, 90, b"c" * 32)), receipt(LAST, items=90)):
        with pytest.raises(RemoteProtocolError) as caught:
            await outcomes.on_receipt(PROVIDER.peer_id, wrong)
        assert caught.value.code == "RECEIPT"
    assert await spent(money) == RESERVED, "until the provider says something true"


async def test_a_receipt_for_what_was_never_acknowledged_is_cancelled(
    outcomes: JobOutcomes, store: Store, money: LocalSettlement
) -> None:
    await broke_off(store, money, acknowledged=False)
    outcomes.ask_about(PROVIDER.peer_id, JOB)
    assert await outcomes.on_receipt(PROVIDER.peer_id, receipt(LAST)) == Cancel(JOB)
    await outcomes.on_failure(PROVIDER.peer_id, JOB, FailureCode.CANCELLED)
    assert await spent(money) == 0


async def test_only_the_answer_to_our_question_says_that_nothing_is_owed(
    outcomes: JobOutcomes, store: Store, money: LocalSettlement
) -> None:
    await broke_off(store, money)
    outcomes.ask_about(PROVIDER.peer_id, JOB)
    await outcomes.on_failure(PROVIDER.peer_id, JOB, FailureCode.WORKER)
    assert await spent(money) == RESERVED, "its receipt follows"
    await outcomes.on_failure(PROVIDER.peer_id, JOB, FailureCode.CANCELLED)
    assert await spent(money) == 0
    assert store.stream_marks.get(JOB, PROVIDER.peer_id) is None
