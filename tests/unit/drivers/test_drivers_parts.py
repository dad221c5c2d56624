"""The small parts that drivers are made of: outbox, alarm, bulk pieces, nursery, recovery."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from cocoon_p2p.drivers import outbox as outbox_module
from cocoon_p2p.drivers.alarm import Alarm
from cocoon_p2p.drivers.bulk import PIECE_BYTES, full_pieces, sealed_pieces
from cocoon_p2p.drivers.clock import SystemClock
from cocoon_p2p.drivers.outbox import Outbox
from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.drivers.recovery import recover
from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import JobId, ModelId, Tier
from cocoon_p2p.sealing.envelope import RequestSecrets, SealKey, seal_request
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import open_local_settlement
from cocoon_p2p.store import JobRecord, ReceiptRecord, open_store
from cocoon_p2p.wire.job import ReceiptBody


class HeldStream:
    """A stream whose reader takes a batch whenever `let_through` is called."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self._permits = trio.Semaphore(0)
        self.broken = False

    def let_through(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._permits.release()

    async def send(self, *frames: bytes) -> None:
        await self._permits.acquire()
        if self.broken:
            raise TransportError("gone", outcome_known=False)
        self.batches.append([bytes(frame) for frame in frames])


async def test_short_messages_go_together_and_overtake_bulk() -> None:
    stream = HeldStream()
    outbox = Outbox(stream)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        await outbox.put_bulk(b"1" * outbox_module.FRAME_BYTES_MAX)
        await wait_all_tasks_blocked()
        await outbox.put_bulk(b"2")
        outbox.put(b"a")
        outbox.put(b"b")
        stream.let_through(2)
        await outbox.flushed()
        assert [[frame[:1] for frame in batch] for batch in stream.batches] == [[b"1"], [b"a", b"b", b"2"]]
        nursery.cancel_scope.cancel()


async def test_bulk_waits_for_the_reader_and_short_messages_do_not() -> None:
    stream = HeldStream()
    outbox = Outbox(stream)  # type: ignore[arg-type]
    put = []

    async def pump() -> None:
        for number in range(8):
            await outbox.put_bulk(bytes(PIECE_BYTES))
            put.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        nursery.start_soon(pump)
        await wait_all_tasks_blocked()
        waiting = len(put)
        assert waiting <= 4, "about BULK_BYTES_MAX"
        outbox.put(b"short")
        stream.let_through(1)
        await wait_all_tasks_blocked()
        assert waiting < len(put) <= waiting + 2, "as much as was taken, and no more"
        stream.let_through(20)
        await outbox.flushed()
        assert len(put) == 8
        nursery.cancel_scope.cancel()


async def test_a_peer_that_never_reads_is_cut_off() -> None:
    outbox = Outbox(HeldStream())  # type: ignore[arg-type]
    with pytest.raises(TransportError, match="does not read"):
        for _ in range(outbox_module.SHORT_MESSAGES_MAX + 1):
            outbox.put(b"x")
    with pytest.raises(TransportError):
        outbox.put(b"x")


async def test_after_the_stream_broke_everybody_who_waits_learns_it() -> None:
    stream = HeldStream()
    outbox = Outbox(stream)  # type: ignore[arg-type]
    errors = []

    async def pump() -> None:
        with pytest.raises(TransportError) as caught:
            for _ in range(8):
                await outbox.put_bulk(bytes(PIECE_BYTES))
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        nursery.start_soon(pump)
        await wait_all_tasks_blocked()
        stream.broken = True
        stream.let_through(1)
    assert len(errors) == 1
    await outbox.flushed()


async def test_the_alarm_follows_a_deadline_that_moves(autojump_clock: MockClock) -> None:
    deadline: float | None = None
    fired = []

    async def fire() -> None:
        nonlocal deadline
        fired.append(trio.current_time())
        deadline = None

    alarm = Alarm(lambda: deadline, fire, trio.current_time)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarm.run)
        started = trio.current_time()
        await trio.sleep(5)
        assert fired == []
        deadline = started + 100
        alarm.poke()
        await trio.sleep(1)
        deadline = started + 10
        alarm.poke()
        await trio.sleep(50)
        assert fired == [started + 10]
        nursery.cancel_scope.cancel()


@given(st.lists(st.binary(max_size=200), max_size=8), st.integers(1, 64))
def test_pieces_join_to_the_same_bytes(parts: list[bytes], scale: int) -> None:
    parts = [part * (scale * 500) for part in parts]
    pieces = [bytes(piece) for piece in full_pieces(parts)]
    assert b"".join(pieces) == b"".join(parts)
    assert all(len(piece) == PIECE_BYTES for piece in pieces[:-1])
    assert all(pieces)


def test_a_payload_of_many_frames_opens_again() -> None:
    key = SealKey.generate()
    payload = os.urandom(2 * PIECE_BYTES + 12345)
    request = seal_request(key.public_key, b"header", RequestSecrets.draw())
    opener = key.open_request(b"header", request.box).opener
    out, position = memoryview(bytearray(len(payload))), 0
    halves = [payload[:777], payload[777:]]
    flags = []
    for ciphertext, final in sealed_pieces(halves, len(payload), request.sealer):
        position += opener.open_into(ciphertext, out[position:], final)
        flags.append(final)
    assert bytes(out) == payload
    assert flags == [False, False, True]


async def test_a_single_failure_is_raised_as_itself_and_two_as_a_group() -> None:
    async def fail() -> None:
        raise TransportError("one", outcome_known=True)

    with pytest.raises(TransportError):
        async with open_plain_nursery() as nursery, open_plain_nursery() as inner:
            inner.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)
    with pytest.raises(BaseExceptionGroup):
        async with open_plain_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(fail)


# --- recovery --------------------------------------------------------------------------------------------------------

PAYER, PAYEE = IdentityKey.from_seed(b"1" * 32), IdentityKey.from_seed(b"2" * 32)
MODEL = ModelId("ab" * 32)


def job_record(number: int, role: str) -> JobRecord:
    return JobRecord(JobId(bytes([number]) * 16), role, MODEL, "m", PAYEE.peer_id, Tier.SEALED, "running", 50, 1, 1)  # type: ignore[arg-type]


def receipt(number: int, role: str) -> ReceiptRecord:
    other = (PAYEE if role == "client" else PAYER).peer_id
    job_id, none = JobId(bytes([number]) * 16), bytes(32)
    body = ReceiptBody(
        PAYEE.peer_id, PAYER.peer_id, job_id, MODEL, Tier.SEALED, none, 40, 1, none, none, 0, 0, 2
    ).encode()
    return ReceiptRecord(job_id, role, other, MODEL, 40, 1, 2, body, bytes(64))  # type: ignore[arg-type]


async def test_after_a_crash_both_files_tell_the_same_story(tmp_path: Path) -> None:
    """Three jobs each: nothing but a reservation; a receipt that the ledger has not heard of; all in order."""
    channel_key = IdentityKey.from_seed(b"c" * 32)
    with (
        open_local_settlement(tmp_path / "payer.sqlite3", PAYER, channel_key) as payer,
        open_local_settlement(tmp_path / "payee.sqlite3", PAYEE, channel_key) as payee,
        open_store(tmp_path / "payer-state.sqlite3") as payer_store,
        open_store(tmp_path / "payee-state.sqlite3") as payee_store,
    ):
        for number in (1, 2, 3):
            job_id = JobId(bytes([number]) * 16)
            payer_store.jobs.insert(job_record(number, "client"))
            payment = await payer.reserve(PAYEE.peer_id, job_id, 50)
            await payee.accept_payment(PAYER.peer_id, job_id, payment, 50)
        for number in (2, 3):
            payee_store.receipts.put(receipt(number, "provider"))
            payer_store.receipts.put(receipt(number, "client"))
        await payee.earned(JobId(bytes([3]) * 16), 40)
        await payer.paid(JobId(bytes([3]) * 16), 40)

        assert await recover(payee_store, payee, SystemClock()) == 2
        assert await recover(payer_store, payer, SystemClock()) == 2 + 3
        assert (await payee.balance()).earned == 80
        assert (await payer.balance()).spent == 80 + 50, "the job without a receipt may have been earned"
        states = {job.job_id[0]: (job.state, job.price) for job in payer_store.jobs.newest()}
        assert states == {1: ("unknown", 50), 2: ("done", 40), 3: ("done", 40)}
        (earned,) = payee_store.jobs.newest()
        assert (earned.job_id[0], earned.state, earned.price) == (2, "done", 40)
        for store, settlement in ((payee_store, payee), (payer_store, payer)):
            assert await settlement.open_reservations() == ()
            assert await recover(store, settlement, SystemClock()) == 0
