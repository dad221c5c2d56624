"""job/1 as a provider: for each client stream one task reads messages, runs the machine, and carries out its effects."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.alarm import Alarm
from cocoon_p2p.drivers.bulk import bulk_frame, sealed_pieces
from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.drivers.outbox import Outbox
from cocoon_p2p.drivers.provider_books import ProviderBooks
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.drivers.stream_provider import StreamProvider
from cocoon_p2p.errors import (
    EndOfStream,
    ExecutionError,
    RemoteProtocolError,
    SettlementError,
    TransportError,
    one_line,
)
from cocoon_p2p.execution.port import Engine, ExecutionResult, InputBuffer
from cocoon_p2p.ids import JobId, ModelId, PeerId
from cocoon_p2p.net.port import Bytes, Stream
from cocoon_p2p.policy.reputation import fault_of_code
from cocoon_p2p.proto.job_effects import (
    Allow,
    BeginInput,
    Closed,
    Earn,
    EndWork,
    Execute,
    Generate,
    GiveBack,
    KeepReceipt,
    KeepSignature,
    Penalise,
    ProviderEffect,
    ReleasePayment,
    Send,
    SendOutput,
    TakeMore,
    TakePayment,
    WriteInput,
)
from cocoon_p2p.proto.job_provider import ProviderSession
from cocoon_p2p.proto.provider_desk import ProviderDesk
from cocoon_p2p.sealing.envelope import ChunkOpener
from cocoon_p2p.settlement.port import Settlement
from cocoon_p2p.store import Store
from cocoon_p2p.wire.job import Cancel, Frame, JobMessage, Output, Receipt, decode_message, decode_receipt_body

if TYPE_CHECKING:
    from hashlib import _Hash

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProviderPorts:
    """What all sessions of a provider share."""

    engine: Engine
    settlement: Settlement
    store: Store
    desk: ProviderDesk
    standing: StandingKeeper
    clock: Clock


@dataclass(slots=True)
class _Work:
    """What one accepted job holds."""

    created_at_ms: int
    buffer: InputBuffer | None = None
    opener: ChunkOpener | None = None
    position: int = 0
    input_digest: _Hash = field(default_factory=hashlib.sha256)
    result: ExecutionResult | None = None
    scope: trio.CancelScope | None = None
    kept: trio.Event = field(default_factory=trio.Event)
    """Set when the payment is on the disk, or `unkept` says why it is not."""
    unkept: SettlementError | None = None


class JobProvider:
    """Serves the job protocol: `serve_stream` is its stream handler."""

    def __init__(self, ports: ProviderPorts) -> None:
        self._ports = ports
        self._books = ProviderBooks(ports.store, ports.settlement, ports.desk, ports.clock)
        self._sessions: set[_Session] = set()

    async def serve_stream(self, stream: Stream) -> None:
        session = _Session(self._ports, self._books, stream, self._holder_of)
        self._sessions.add(session)
        try:
            await session.serve()
        finally:
            self._sessions.discard(session)

    def _holder_of(self, client: PeerId, job_id: JobId) -> _Session | None:
        """Where a job of this client goes on: it may have come back before its old stream was found dead."""
        return next((session for session in self._sessions if session.holds(client, job_id)), None)

    async def settled(self) -> None:
        """Waits until no accepted job is left."""
        for session in list(self._sessions):
            await session.settled()

    async def yield_jobs(self, detail: str) -> None:
        """The operator takes the machine back: every accepted job whose work is not done fails, and its work ends. `detail`
        says why, for the clients; that no new one comes is for `ProviderDesk.rests` to see to."""
        for session in list(self._sessions):
            await session.yield_jobs(detail)

    async def shut_down(self, grace_s: float) -> None:
        """Take no new job, let those that run finish for up to `grace_s`, and tell the clients of the rest."""
        self._ports.desk.open_to_jobs = False
        with trio.move_on_after(grace_s):
            await self.settled()
        for session in list(self._sessions):
            await session.shut_down()


class _Session:
    """The jobs of one client on one stream."""

    def __init__(
        self,
        ports: ProviderPorts,
        books: ProviderBooks,
        stream: Stream,
        holder_of: Callable[[PeerId, JobId], _Session | None],
    ) -> None:
        self._ports = ports
        self._books = books
        self._stream = stream
        self._holder_of = holder_of
        self._machine = ProviderSession(ports.desk, stream.peer, entropy=secrets.token_bytes)
        self._outbox = Outbox(stream)
        self._alarm = Alarm(self._machine.next_deadline, self._on_timer, ports.clock.now)
        self._work: dict[JobId, _Work] = {}
        self._settled = trio.Event()
        self._streams = StreamProvider(ports, self._machine, self._run)
        self._resent: set[JobId] = set()
        """Receipts that were sent again and are not settled, where there may be more of them."""
        self._nursery: trio.Nursery

    async def serve(self) -> None:
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._outbox.run)
                self._nursery.start_soon(self._alarm.run)
                self._books.recall(self._stream.peer)
                await self._resend_receipts()
                await self._read()
                self._nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._run(self._machine.lost("the connection to the client ended"))
            self._settled.set()

    async def _resend_receipts(self) -> None:
        """The next of those that were not signed before this stream; the rest when these are settled."""
        # SPEC job/1 §3.8
        client = self._stream.peer
        receipts = self._books.unsigned_receipts(client)
        self._resent = {each.job_id for each in receipts} if len(receipts) == limits.RECEIPTS_RESENT_MAX else set()
        # that of an answer that still comes, over another stream, is not the last word
        over = [each for each in receipts if self._holder_of(client, each.job_id) is None]
        await self._run(self._machine.resend_receipts(over))

    async def _settled_receipt(self, job_id: JobId) -> None:
        if job_id in self._resent:
            self._resent.remove(job_id)
            if not self._resent:
                await self._resend_receipts()

    async def settled(self) -> None:
        """Waits until no accepted job is left."""
        while self._work:
            if self._settled.is_set():
                self._settled = trio.Event()
            await self._settled.wait()

    def holds(self, client: PeerId, job_id: JobId) -> bool:
        return self._stream.peer == client and job_id in self._machine.jobs()

    async def cancel(self, job_id: JobId) -> None:
        clock = self._ports.clock
        await self._run(self._machine.handle_message(Cancel(job_id), now=clock.now(), unix_ms=unix_ms(clock)))

    async def yield_jobs(self, detail: str) -> None:
        await self._run(self._machine.yield_jobs(detail))

    async def shut_down(self) -> None:
        await self._run(self._machine.shut_down())
        with trio.move_on_after(1.0):
            await self._outbox.flushed()
            await self._stream.aclose()

    async def _read(self) -> None:
        try:
            while True:
                message = decode_message(await self._stream.receive())
                clock = self._ports.clock
                await self._run(self._machine.handle_message(message, now=clock.now(), unix_ms=unix_ms(clock)))
                self._alarm.poke()
        except EndOfStream:
            log.debug("peer %s closed its job stream", self._stream.peer)
        except TransportError as error:
            log.info("the job stream of peer %s broke: %s", self._stream.peer, one_line(error))
        except RemoteProtocolError as error:
            log.warning("peer %s broke a rule of job/1 (%s): %s", self._stream.peer, error.code, one_line(error))
            self._ports.standing.penalise(self._stream.peer, fault_of_code(error.code))
            await self._stream.reset()

    async def _on_timer(self) -> None:
        await self._run(self._machine.handle_timer(self._ports.clock.now()))

    # --- effects ---

    async def _run(self, effects: Sequence[ProviderEffect]) -> None:
        for effect in effects:
            await self._run_one(effect)

    async def _run_one(self, effect: ProviderEffect) -> None:
        match effect:
            case Send(message):
                with suppress(TransportError):  # the reader sees it too, and ends the session
                    await self._send(message)
            case Penalise(fault):
                self._ports.standing.penalise(self._stream.peer, fault)
            case TakePayment(job_id, payment, max_total):
                await self._take_payment(job_id, payment, max_total)
            case BeginInput():
                await self._begin_input(effect)
            case WriteInput(job_id, ciphertext, final):
                await self._write_input(job_id, ciphertext, final)
            case Execute(job_id, model_id, items_max):
                self._nursery.start_soon(self._execute, job_id, model_id, items_max)
            case SendOutput():
                await self._send_output(effect)
            case Generate() | Allow() | EndWork() | TakeMore() | KeepReceipt():
                await self._run_for_stream(effect)
            case Earn(job_id, receipt, body):
                await self._books.earn(receipt, body, self._work[job_id].created_at_ms)
            case GiveBack(job_id):
                await self._give_back(job_id)
            case KeepSignature(job_id, signature):
                self._books.signed(self._stream.peer, job_id, signature)
                await self._settled_receipt(job_id)
            case ReleasePayment(job_id):
                await self._ports.settlement.release(job_id, payer=self._stream.peer)
            case Closed():
                self._close(effect)
            case _:
                assert_never(effect)

    async def _send(self, message: JobMessage) -> None:
        """Raises TransportError."""
        match message:
            case Frame():
                await self._outbox.put_bulk(message.encode(), purpose=message.job_id)
            case Receipt() if decode_receipt_body(message.body).frames == 0:
                # After the output that it is for. It is on disk, and goes out again with the next session.
                await self._outbox.put_bulk(message.encode(), purpose=message.job_id)
            case _:
                self._outbox.put(message.encode())

    async def _run_for_stream(self, effect: Generate | Allow | EndWork | TakeMore | KeepReceipt) -> None:
        match effect:
            case Generate():
                self._nursery.start_soon(self._generate, effect)
            case Allow(job_id, items):
                self._streams.allow(job_id, items)
            case EndWork(job_id):
                self._streams.stop(job_id)
            case TakeMore():
                await self._streams.take_more(effect, self._nursery)
            case KeepReceipt(_, receipt, body):
                self._books.keep(receipt, body)
            case _:
                assert_never(effect)

    async def _give_back(self, job_id: JobId) -> None:
        # SPEC job/1 §3.9
        client = self._stream.peer
        self._outbox.drop(job_id)
        holder = self._holder_of(client, job_id)
        if holder is not None:
            await holder.cancel(job_id)
        acknowledged = self._books.unsigned_stream(client, job_id)
        if acknowledged is not None:  # a part of an answer, which is owed
            await self._run(self._machine.resend_receipts([acknowledged]))
            return
        if await self._books.give_back(client, job_id):
            await self._run(self._machine.not_earned(job_id))
            await self._settled_receipt(job_id)

    async def _take_payment(self, job_id: JobId, payment: bytes, max_total: int) -> None:
        clock = self._ports.clock
        work = self._work[job_id] = _Work(unix_ms(clock))
        try:
            await self._ports.settlement.accept_payment(self._stream.peer, job_id, payment, max_total)
        except SettlementError as error:
            refused = self._machine.payment_refused(job_id, error.message, error.needed, unix_ms=unix_ms(clock))
            await self._run(refused)
        except RemoteProtocolError as error:
            await self._run(self._machine.payment_bad(job_id, error, unix_ms=unix_ms(clock)))
        else:
            self._nursery.start_soon(self._keep_payment, work)
            await self._run(self._machine.payment_taken(job_id, unix_ms=unix_ms(clock)))

    async def _keep_payment(self, work: _Work) -> None:
        """While the input comes in and the model runs."""
        try:
            await self._ports.settlement.kept()
        except SettlementError as error:
            work.unkept = error
        finally:
            work.kept.set()

    async def _begin_input(self, begun: BeginInput) -> None:
        work = self._work[begun.job_id]
        try:
            work.buffer = self._ports.engine.input_buffer(begun.payload_bytes)
        except ExecutionError as error:
            await self._run(self._machine.input_failed(begun.job_id, error))
        else:
            work.opener = begun.opener
            work.input_digest.update(begun.header)

    async def _write_input(self, job_id: JobId, ciphertext: Bytes, final: bool) -> None:
        work = self._work[job_id]
        assert work.buffer is not None
        assert work.opener is not None
        try:
            work.position += work.opener.open_into(ciphertext, work.buffer.view[work.position :], final)
            if final and work.position != len(work.buffer.view):
                raise RemoteProtocolError("the input ended before its announced length", code="ENVELOPE")
            work.input_digest.update(ciphertext)
            if final:
                hashed = work.input_digest.digest()
                await self._run(self._machine.input_complete(job_id, hashed, unix_ms=unix_ms(self._ports.clock)))
        except RemoteProtocolError as error:
            effects = self._machine.input_bad(job_id, error)
            # SPEC data/1 §6
            if self._stream.doubt_bulk():
                effects = [effect for effect in effects if not isinstance(effect, Penalise)]
            await self._run(effects)

    async def _execute(self, job_id: JobId, model_id: ModelId, items_max: int) -> None:
        work = self._work.get(job_id)
        if work is None or work.buffer is None:
            return  # ended between the effect and this task
        buffer, work.buffer = work.buffer, None
        with trio.CancelScope() as work.scope:
            try:
                client = self._stream.peer
                result = await self._ports.engine.run(model_id, buffer, items_max=items_max, client=client)
            except ExecutionError as error:
                await self._run(self._machine.execution_failed(job_id, error))
                return
            with result:
                await work.kept.wait()  # nothing is handed out for a voucher that a power cut could take away
                if work.unkept is not None:
                    log.error("job %s: its payment cannot be kept: %s", job_id.hex(), work.unkept)
                    failure = ExecutionError("the provider's disk failed", code="WORKER")
                    await self._run(self._machine.execution_failed(job_id, failure))
                    return
                work.result = result
                await self._run(
                    self._machine.executed(
                        job_id,
                        items=result.items,
                        payload_bytes=len(result.payload),
                        queue_us=int(result.queue_s * 1e6),
                        execute_us=int(result.execute_s * 1e6),
                    )
                )
                work.result = None

    async def _generate(self, effect: Generate) -> None:
        work = self._work.get(effect.job_id)
        if work is None or work.buffer is None:
            return  # ended between the effect and this task
        buffer, work.buffer = work.buffer, None
        with trio.CancelScope() as work.scope:
            await self._streams.generate(effect, buffer, work)

    async def _send_output(self, output: SendOutput) -> None:
        job_id, sealer = output.job_id, output.sealer
        result = self._work[job_id].result
        assert result is not None
        digest = hashlib.sha256(output.header)
        self._stream.expect_bulk(len(result.payload))
        try:
            for ciphertext, final in sealed_pieces([result.payload], len(result.payload), sealer):
                digest.update(ciphertext)
                frame = bulk_frame(Output(job_id, ciphertext, final), sealer)
                await self._outbox.put_bulk(frame, purpose=job_id)
        except TransportError:
            return  # the reader sees it too, and ends the session
        await self._run(
            self._machine.output_sent(job_id, digest.digest(), unix_ms=unix_ms(self._ports.clock)),
        )

    def _close(self, closed: Closed) -> None:
        work = self._work.pop(closed.job_id, None)
        if work is None:
            return
        if closed.error is not None:
            self._outbox.drop(closed.job_id)  # but for the receipt of a part, which is a short message
            if work.scope is not None:
                work.scope.cancel()
        if work.buffer is not None:
            work.buffer.release()
        self._books.ended(closed, work.created_at_ms)
        if not self._work:
            self._settled.set()
