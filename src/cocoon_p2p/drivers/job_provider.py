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
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.errors import EndOfStream, ExecutionError, RemoteProtocolError, SettlementError, TransportError
from cocoon_p2p.execution.port import Engine, ExecutionResult, InputBuffer
from cocoon_p2p.ids import JobId, ModelId, PeerId
from cocoon_p2p.net.port import Bytes, Stream
from cocoon_p2p.policy.reputation import fault_of_code
from cocoon_p2p.proto.job_effects import (
    BeginInput,
    Closed,
    Earn,
    Execute,
    KeepSignature,
    Penalise,
    ProviderEffect,
    ReleasePayment,
    Send,
    SendOutput,
    TakePayment,
    TellOutcome,
    WriteInput,
)
from cocoon_p2p.proto.job_provider import ProviderSession
from cocoon_p2p.proto.provider_desk import ProviderDesk
from cocoon_p2p.sealing.envelope import ChunkOpener, ChunkSealer
from cocoon_p2p.settlement.port import Settlement
from cocoon_p2p.store import JobRecord, ReceiptRecord, Store
from cocoon_p2p.wire.job import Cancel, Output, Receipt, ReceiptBody, decode_message

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
        self._sessions: set[_Session] = set()

    async def serve_stream(self, stream: Stream) -> None:
        session = _Session(self._ports, stream, self._holder_of)
        self._sessions.add(session)
        try:
            await session.serve()
        finally:
            self._sessions.discard(session)

    def _holder_of(self, client: PeerId, job_id: JobId) -> _Session | None:
        """Where a job of this client goes on: it may have come back before its old stream was found dead."""
        return next((session for session in self._sessions if session.holds(client, job_id)), None)

    async def shut_down(self, grace_s: float) -> None:
        """Take no new job, let those that run finish for up to `grace_s`, and tell the clients of the rest."""
        self._ports.desk.open_to_jobs = False
        with trio.move_on_after(grace_s):
            for session in list(self._sessions):
                await session.settled()
        for session in list(self._sessions):
            await session.shut_down()


class _Session:
    """The jobs of one client on one stream."""

    def __init__(
        self, ports: ProviderPorts, stream: Stream, holder_of: Callable[[PeerId, JobId], _Session | None]
    ) -> None:
        self._ports = ports
        self._stream = stream
        self._holder_of = holder_of
        self._machine = ProviderSession(ports.desk, stream.peer, entropy=secrets.token_bytes)
        self._outbox = Outbox(stream)
        self._alarm = Alarm(self._machine.next_deadline, self._on_timer, ports.clock.now)
        self._work: dict[JobId, _Work] = {}
        self._settled = trio.Event()
        self._nursery: trio.Nursery

    async def serve(self) -> None:
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._outbox.run)
                self._nursery.start_soon(self._alarm.run)
                await self._resend_receipts()
                await self._read()
                self._nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._run(self._machine.lost("the connection to the client ended"))
            self._settled.set()

    async def settled(self) -> None:
        """Waits until no accepted job is left."""
        while self._work:
            self._settled = trio.Event()
            await self._settled.wait()

    def holds(self, client: PeerId, job_id: JobId) -> bool:
        return self._stream.peer == client and job_id in self._machine.jobs()

    async def cancel(self, job_id: JobId) -> None:
        clock = self._ports.clock
        await self._run(self._machine.handle_message(Cancel(job_id), now=clock.now(), unix_ms=unix_ms(clock)))

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
            log.info("the job stream of peer %s broke: %s", self._stream.peer, error)
        except RemoteProtocolError as error:
            log.warning("peer %s broke a rule of job/1 (%s): %s", self._stream.peer, error.code, error)
            self._ports.standing.penalise(self._stream.peer, fault_of_code(error.code))
            await self._stream.reset()

    async def _on_timer(self) -> None:
        await self._run(self._machine.handle_timer(self._ports.clock.now()))

    async def _resend_receipts(self) -> None:
        kept = self._ports.store.receipts.unacknowledged(self._stream.peer, limits.RECEIPTS_RESENT_MAX)
        await self._run(self._machine.resend_receipts(list(map(_receipt_of, kept))))

    # --- effects ---

    async def _run(self, effects: Sequence[ProviderEffect]) -> None:
        for effect in effects:
            await self._run_one(effect)

    async def _run_one(self, effect: ProviderEffect) -> None:
        match effect:
            case Send(Receipt() as receipt):
                with suppress(TransportError):  # it is on disk, and goes out again with the next session
                    await self._outbox.put_bulk(receipt.encode())  # after the output that it is for
            case Send(message):
                with suppress(TransportError):  # the reader sees it too, and ends the session
                    self._outbox.put(message.encode())
            case Penalise(fault):
                self._ports.standing.penalise(self._stream.peer, fault)
            case TakePayment(job_id, payment, max_total):
                await self._take_payment(job_id, payment, max_total)
            case BeginInput(job_id, opener, payload_bytes):
                await self._begin_input(job_id, opener, payload_bytes)
            case WriteInput(job_id, ciphertext, final):
                await self._write_input(job_id, ciphertext, final)
            case Execute(job_id, model_id, items_max):
                self._nursery.start_soon(self._execute, job_id, model_id, items_max)
            case SendOutput(job_id, sealer):
                await self._send_output(job_id, sealer)
            case Earn(job_id, receipt, body):
                await self._earn(job_id, receipt, body)
            case TellOutcome(job_id):
                await self._tell_outcome(job_id)
            case KeepSignature(job_id, signature):
                self._ports.store.receipts.acknowledge(job_id, signature)
            case ReleasePayment(job_id):
                await self._ports.settlement.release(job_id)
            case Closed():
                self._close(effect)
            case _:
                assert_never(effect)

    async def _tell_outcome(self, job_id: JobId) -> None:
        # SPEC job/1 §3.9
        client = self._stream.peer
        holder = self._holder_of(client, job_id)
        if holder is not None:
            await holder.cancel(job_id)
            if holder.holds(client, job_id):
                return  # its output is on its way, and with that it is earned
        kept = self._ports.store.receipts.by_job(job_id, role="provider")
        if kept is not None and kept.peer_id == client:
            await self._run(self._machine.resend_receipts([_receipt_of(kept)]))
        else:
            await self._run(self._machine.not_earned(job_id))

    async def _take_payment(self, job_id: JobId, payment: bytes, max_total: int) -> None:
        self._work[job_id] = _Work(unix_ms(self._ports.clock))
        try:
            await self._ports.settlement.accept_payment(self._stream.peer, job_id, payment, max_total)
        except SettlementError as error:
            await self._run(self._machine.payment_refused(job_id, error.message, error.needed))
        except RemoteProtocolError as error:
            await self._run(self._machine.payment_bad(job_id, error))
        else:
            self._nursery.start_soon(self._keep_payment, self._work[job_id])
            await self._run(self._machine.payment_taken(job_id, unix_ms=unix_ms(self._ports.clock)))

    async def _keep_payment(self, work: _Work) -> None:
        """While the input comes in and the model runs."""
        try:
            await self._ports.settlement.kept()
        except SettlementError as error:
            work.unkept = error
        finally:
            work.kept.set()

    async def _begin_input(self, job_id: JobId, opener: ChunkOpener, payload_bytes: int) -> None:
        work = self._work[job_id]
        try:
            work.buffer = self._ports.engine.input_buffer(payload_bytes)
        except ExecutionError as error:
            await self._run(self._machine.input_failed(job_id, error))
        else:
            work.opener = opener

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
                result = await self._ports.engine.run(model_id, buffer, items_max=items_max)
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

    async def _send_output(self, job_id: JobId, sealer: ChunkSealer) -> None:
        result = self._work[job_id].result
        assert result is not None
        digest = hashlib.sha256()
        self._stream.expect_bulk(len(result.payload))
        try:
            for ciphertext, final in sealed_pieces([result.payload], len(result.payload), sealer):
                digest.update(ciphertext)
                await self._outbox.put_bulk(bulk_frame(Output(job_id, ciphertext, final), sealer))
        except TransportError:
            return  # the reader sees it too, and ends the session
        await self._run(
            self._machine.output_sent(job_id, digest.digest(), unix_ms=unix_ms(self._ports.clock)),
        )

    async def _earn(self, job_id: JobId, receipt: Receipt, body: ReceiptBody) -> None:
        store = self._ports.store
        with store.transaction():
            store.receipts.put(
                ReceiptRecord(
                    job_id=job_id,
                    role="provider",
                    peer_id=body.client,
                    model_id=body.model_id,
                    price=body.price,
                    items=body.items,
                    finished_at_ms=body.finished_at_ms,
                    body=receipt.body,
                    provider_signature=receipt.provider_signature,
                )
            )
            store.jobs.insert(self._record(body, self._work[job_id].created_at_ms))
        await self._ports.settlement.earned(job_id, body.price)

    def _record(self, body: ReceiptBody, created_at_ms: int) -> JobRecord:
        return JobRecord(
            job_id=body.job_id,
            role="provider",
            model_id=body.model_id,
            model_name=self._model_name(body.model_id),
            peer_id=body.client,
            tier=body.tier,
            state="done",
            price=body.price,
            items=body.items,
            created_at_ms=created_at_ms,
            finished_at_ms=body.finished_at_ms,
        )

    def _close(self, closed: Closed) -> None:
        work = self._work.pop(closed.job_id, None)
        if work is None:
            return
        if work.scope is not None and closed.error is not None:
            work.scope.cancel()
        if work.buffer is not None:
            work.buffer.release()
        if closed.error is not None:
            self._ports.store.jobs.insert(
                JobRecord(
                    job_id=closed.job_id,
                    role="provider",
                    model_id=closed.model_id,
                    model_name=self._model_name(closed.model_id),
                    peer_id=closed.client,
                    tier=closed.tier,
                    state="failed",
                    price=0,
                    items=closed.items,
                    created_at_ms=work.created_at_ms,
                    finished_at_ms=unix_ms(self._ports.clock),
                    error=closed.error,
                )
            )
        if not self._work:
            self._settled.set()

    def _model_name(self, model_id: ModelId) -> str:
        model = self._ports.desk.models.get(model_id)
        return model.name if model else ""


def _receipt_of(kept: ReceiptRecord) -> Receipt:
    """As it is sent again."""
    return Receipt(kept.job_id, kept.body, kept.provider_signature, b"")
