"""One job at one provider as a client: what its machine (`proto.job_client`) wants done, carried out on a session's stream."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, assert_never

import trio

from cocoon_p2p.drivers.bulk import bulk_frame, payload_memory, sealed_pieces
from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.drivers.job_outcomes import JobOutcomes, keep_receipt
from cocoon_p2p.drivers.outbox import Outbox
from cocoon_p2p.drivers.seal_key_memory import SealKeyMemory
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.errors import (
    CocoonError,
    ExecutionError,
    LocalProtocolError,
    PeerRefused,
    RemoteProtocolError,
    TransportError,
)
from cocoon_p2p.net.port import BulkFrame, Bytes
from cocoon_p2p.proto.job_client import ClientJob, Transcript
from cocoon_p2p.proto.job_effects import (
    BeginOutput,
    ClientEffect,
    EndReservation,
    Finished,
    KeepMarks,
    MarkPaid,
    Penalise,
    Quoted,
    Received,
    ReserveMore,
    Send,
    SendInput,
    StreamBegun,
    WriteOutput,
)
from cocoon_p2p.sealing.envelope import ChunkOpener
from cocoon_p2p.settlement.port import ReservationEnd, Settlement
from cocoon_p2p.store import Store
from cocoon_p2p.wire.job import Cancel, Input, Receipt, ReceiptBody

StreamEffect = StreamBegun | Received | ReserveMore | KeepMarks


@dataclass(slots=True)
class Marks:
    """When things happened, on the clock's `now`: the raw material of a job's timeline."""

    asked: float = 0.0
    quoted: float = 0.0
    accepted: float = 0.0
    input_sent: float = 0.0
    output_head: float = 0.0
    output_complete: float = 0.0
    finished: float = 0.0


@dataclass(frozen=True, slots=True)
class AttemptPorts:
    """What all attempts of a client share."""

    settlement: Settlement
    store: Store
    standing: StandingKeeper
    clock: Clock
    outcomes: JobOutcomes
    seal_keys: SealKeyMemory


class Lane(Protocol):
    """The stream to the provider, as far as one attempt needs it: `drivers.job_session`."""

    outbox: Outbox
    silent: bool

    def add(self, attempt: Attempt) -> None:
        """Messages of its job go to it from now on. Raises TransportError when the stream has ended."""

    def discard(self, attempt: Attempt) -> None:
        """Its job is over."""

    def expect_bulk(self, payload_bytes: int) -> None:
        """So much input may follow soon."""

    def doubt_bulk(self) -> bool:
        """Whether what was received last, and does not open, may have been altered by others than the provider."""

    def expect_timer(self, deadline: float) -> None:
        """An attempt wants its timer fired then."""

    def cancel(self, message: Cancel) -> None:
        """Tell the provider. Raises TransportError."""

    def left_open(self, attempt: Attempt) -> None:
        """A job that was paid for ended without a receipt; what the provider says of it is waited for."""


class _Output:
    """Fills as its pieces are opened."""

    __slots__ = ("buffer", "digest", "opener", "position", "whole")

    def __init__(self, effect: BeginOutput) -> None:
        self.buffer = payload_memory(effect.payload_bytes)
        self.opener: ChunkOpener = effect.opener
        self.position = 0
        self.whole = False
        # SPEC job/1 §3.7
        self.digest = hashlib.sha256(effect.header)


class Attempt:
    """One job at one provider, from the quote on; or from its announced price on, where that is taken as a quote."""

    def __init__(self, ports: AttemptPorts, session: Lane, job: ClientJob) -> None:
        self._ports = ports
        self._session = session
        self.job = job
        self.marks = Marks()
        self.on_whole: Callable[[], None] | None = None
        """Called in the step in which the whole output is here, before anything else of any job is opened."""
        self._pieces: Sequence[Bytes] = ()
        self._output: _Output | None = None
        self._input: SendInput | None = None
        self._waiting_for_room: trio.CancelScope | None = None
        self._quoted = trio.Event()
        self._finished = trio.Event()
        self._error: CocoonError | None = None
        self._at_risk = 0

    async def ask(self) -> None:
        """Ask for a quote; returns with one. Raises PeerRefused, TransportError, RemoteProtocolError."""
        now = self._ports.clock.now()
        self.marks.asked = now
        self._session.add(self)
        self._session.expect_bulk(self.job.terms.payload_bytes)
        await self.run_effects(self.job.start(now))
        try:
            await self._quoted.wait()
        except trio.Cancelled:
            await self.cancel()
            raise
        if self._error is not None:
            raise self._error

    async def run(self, payment: bytes, pieces: Sequence[Bytes]) -> memoryview:
        """Carry the job through; the output payload. Raises the error that it ended with."""
        await self.carry(payment, pieces)
        assert self._output is not None
        return self._output.buffer

    async def carry(self, payment: bytes, pieces: Sequence[Bytes]) -> None:
        """From the payment to the receipt. Raises the error that it ended with."""
        self._pieces = pieces
        now = self._ports.clock.now()
        self.marks.accepted = now
        try:
            if self.job.firm:
                await self._begin_unasked(now)
            await self.run_effects(self.job.accept(payment, now=now, unix_ms=unix_ms(self._ports.clock)))
            await self._send_input()
            await self._finished.wait()
        except trio.Cancelled:
            await self.cancel()
            raise
        if self._error is not None:
            raise self._error

    async def cancel(self) -> None:
        """Not chosen, or no longer wanted. A job whose whole output is here stays owed."""
        with trio.CancelScope(shield=True):
            await self.run_effects(self.job.cancel())

    def received_output(self) -> memoryview | None:
        """All of the output, authenticated, whatever became of the receipt; None when it is not all here."""
        return self._output.buffer if self._output is not None and self._output.whole else None

    @property
    def reserved(self) -> int:
        """Nanogram that were set aside for it."""
        return 0 if self.job.quote is None else self.job.quote.max_total

    @property
    def at_risk(self) -> int:
        """Nanogram that the provider may have earned although the job failed here."""
        return self._at_risk

    @property
    def last_refusal(self) -> tuple[bytes, bytes] | None:
        """The provider's signed "no": body and signature."""
        return self._error.signed if isinstance(self._error, PeerRefused) else None

    def transcript(self) -> Transcript | None:
        """What shows input and output to others, of a job that is done; else None. It holds secrets: never to be logged."""
        return self.job.transcript()

    async def run_effects(self, effects: Sequence[ClientEffect]) -> None:
        """In order."""
        for effect in effects:
            await self._run_one(effect)

    async def _begin_unasked(self, now: float) -> None:
        self.marks.asked = self.marks.quoted = now
        try:
            self._session.add(self)
            self._session.expect_bulk(self.job.terms.payload_bytes)
        except TransportError as error:
            await self.run_effects(self.job.lost(error))

    async def _run_one(self, effect: ClientEffect) -> None:
        match effect:
            case Send(Cancel() as message):
                with suppress(TransportError):
                    self._session.cancel(message)
            case Send(message):
                with suppress(TransportError):  # the reader sees it too, and ends the session
                    self._session.outbox.put(message.encode())
            case Penalise(fault):
                self._ports.standing.penalise(self.job.provider, fault)
            case Quoted():
                self.marks.quoted = self._ports.clock.now()
                if self.job.seal_key is not None:
                    self._ports.seal_keys.remember(self.job.provider, self.job.seal_key)
                self._quoted.set()
            case SendInput():
                self._input = effect
            case BeginOutput():
                self.marks.output_head = self._ports.clock.now()
                self._output = _Output(effect)
            case WriteOutput(ciphertext, final):
                await self._write_output(ciphertext, final)
            case StreamBegun() | Received() | ReserveMore() | KeepMarks():
                await self.run_stream_effect(effect)
            case MarkPaid(receipt, body):
                self._keep_receipt(receipt, body)
                await self._ports.settlement.paid(self.job.job_id, body.price, payee=self.job.provider)
            case EndReservation():
                await self._end_reservation(effect)
            case Finished(error):
                self._finish(error)
            case _:
                assert_never(effect)

    async def run_stream_effect(self, effect: StreamEffect) -> None:
        """What only jobs have whose answer comes piece by piece (`drivers.stream_attempt`)."""
        raise LocalProtocolError(f"{type(effect).__name__} in a job that is no stream")

    async def _end_reservation(self, effect: EndReservation) -> None:
        end: ReservationEnd = "released" if effect.job_failed else "cancelled"
        if effect.payment_refused:
            end = "refused"
        elif not effect.outcome_known:
            end = "unknown"
            if self.job.quote is not None:
                self._at_risk = self.reserved
            self._session.left_open(self)
        await self._ports.settlement.end_reservation(self.job.job_id, end, payee=self.job.provider)

    def _keep_receipt(self, receipt: Receipt, body: ReceiptBody) -> None:
        """Receipt and end of the job in one transaction: each commit waits for the disk."""
        store = self._ports.store
        with store.transaction():
            keep_receipt(store, receipt, body)
            store.jobs.finish(
                body.job_id,
                "client",
                "done",
                finished_at_ms=unix_ms(self._ports.clock),
                price=body.price,
                items=body.items,
                peer=self.job.provider,
            )

    async def _send_input(self) -> None:
        """In the task of `run`, so that a full outbox holds up this job alone."""
        effect, self._input = self._input, None
        if effect is None:
            return
        sealer = effect.sealer
        # SPEC job/1 §3.7
        digest = hashlib.sha256(effect.header)
        for ciphertext, final in sealed_pieces(self._pieces, self.job.terms.payload_bytes, sealer):
            if self.job.over:
                return
            digest.update(ciphertext)
            if final:
                await self.run_effects(self.job.input_sent(digest.digest()))
                self.marks.input_sent = self._ports.clock.now()
            deadline = self.job.next_deadline()
            if deadline is not None:
                self._session.expect_timer(deadline)
            try:
                await self._put(bulk_frame(Input(self.job.job_id, ciphertext, final), sealer))
            except TransportError:
                return  # the reader sees it too, and ends the session
        self._pieces = ()

    async def _put(self, frame: Bytes | BulkFrame) -> None:
        """Waits for room, but not for longer than the job lives. Raises TransportError."""
        outbox, purpose = self._session.outbox, self.job.job_id
        if not outbox.full:
            await outbox.put_bulk(frame, purpose=purpose)
            return
        with trio.CancelScope() as self._waiting_for_room:
            await outbox.put_bulk(frame, purpose=purpose)

    async def _write_output(self, ciphertext: Bytes, final: bool) -> None:
        output = self._output
        assert output is not None
        try:
            with output.buffer[output.position :] as rest:
                output.position += output.opener.open_into(ciphertext, rest, final)
            if final and output.position != len(output.buffer):
                raise RemoteProtocolError("the output ended before its announced length", code="ENVELOPE")
        except RemoteProtocolError as error:
            await self.run_effects(self._output_bad(error))
            return
        output.digest.update(ciphertext)
        if final:
            output.whole = True
            self.marks.output_complete = self._ports.clock.now()
            await self.run_effects(self.job.output_complete(output.digest.digest()))
            if self.on_whole is not None:
                self.on_whole()

    def _output_bad(self, error: RemoteProtocolError) -> list[ClientEffect]:
        # SPEC data/1 §6
        if not self._session.doubt_bulk():
            return self.job.output_bad(error)
        altered = TransportError(f"the output was altered on its way ({error})", outcome_known=False, code="ALTERED")
        return [Send(Cancel(self.job.job_id)), *self.job.lost(altered)]

    def _finish(self, error: CocoonError | None) -> None:
        self.marks.finished = self._ports.clock.now()
        self._error = error
        if isinstance(error, ExecutionError) and error.code == "ENVELOPE":
            self._ports.seal_keys.forget(self.job.provider)
        self._session.discard(self)
        if error is not None:
            self._session.outbox.drop(self.job.job_id)  # input that nobody wants any more
            self._session.silent |= error.code == "SILENT"
        if self._waiting_for_room is not None:
            self._waiting_for_room.cancel()
        self._quoted.set()
        self._finished.set()
