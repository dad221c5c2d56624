"""job/1 as a client: one long-lived stream to each provider in use carries all jobs for it.

`JobClient.ask` asks one provider; the `Attempt` it returns is either carried through (`run`) or cancelled. Which provider
is asked, chosen or tried next is not decided here (`node_jobs`, `policy.selection`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import assert_never

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.alarm import Alarm
from cocoon_p2p.drivers.bulk import bulk_frame, payload_memory, sealed_pieces
from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.drivers.hearsay import open_announced
from cocoon_p2p.drivers.outbox import Outbox
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.errors import CocoonError, EndOfStream, RemoteProtocolError, SettlementError, TransportError
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.net.addresses import parse_address
from cocoon_p2p.net.port import Bytes, Network, Stream
from cocoon_p2p.policy.reputation import fault_of_code
from cocoon_p2p.proto.job_client import ClientJob, JobTerms, check_stray_receipt
from cocoon_p2p.proto.job_effects import (
    BeginOutput,
    ClientEffect,
    EndReservation,
    Finished,
    MarkPaid,
    Penalise,
    Quoted,
    Send,
    SendInput,
    WriteOutput,
)
from cocoon_p2p.sealing.envelope import ChunkOpener, ChunkSealer
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.port import ReservationEnd, Settlement
from cocoon_p2p.store import ReceiptRecord, Store
from cocoon_p2p.wire.job import (
    JOB_PROTOCOL,
    Cancel,
    Failure,
    Input,
    Receipt,
    ReceiptAck,
    ReceiptBody,
    decode_message,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClientPorts:
    """What all sessions of a client share."""

    identity: IdentityKey
    network: Network
    settlement: Settlement
    store: Store
    standing: StandingKeeper
    clock: Clock


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


class JobClient:
    """All job streams of this node as a client. `run` the nursery's life long."""

    def __init__(self, ports: ClientPorts, nursery: trio.Nursery) -> None:
        self._ports = ports
        self._nursery = nursery
        self._sessions: dict[PeerId, _Session] = {}
        self._opening: dict[PeerId, trio.Lock] = {}

    async def ask(
        self, provider: PeerId, addresses: Sequence[str], job_id: JobId, terms: JobTerms, *, deadline: float
    ) -> Attempt:
        """Ask for a quote. Raises PeerRefused, TransportError, RemoteProtocolError."""
        session = await self._session(provider, addresses)
        job = ClientJob(self._ports.identity, provider, job_id, terms, deadline=deadline)
        attempt = Attempt(self._ports, session, job)
        await attempt.ask()
        return attempt

    async def aclose(self) -> None:
        """Say goodbye on every stream."""
        for session in list(self._sessions.values()):
            with trio.move_on_after(1.0):
                await session.aclose()

    async def _session(self, provider: PeerId, addresses: Sequence[str]) -> _Session:
        lock = self._opening.setdefault(provider, trio.Lock())
        async with lock:
            session = self._sessions.get(provider)
            if session is None or session.ended:
                stream = await self._open(provider, addresses)
                session = _Session(self._ports, stream, self._way_to(provider))
                self._sessions[provider] = session
                self._nursery.start_soon(self._serve, session)
                session.ask_for_outcomes()
        return session

    async def _open(self, provider: PeerId, addresses: Sequence[str]) -> Stream:
        return await open_announced(self._ports.network, provider, addresses, JOB_PROTOCOL)

    def _way_to(self, provider: PeerId) -> PeerId | None:
        """The relay that new streams to the provider go through; None where none is between."""
        link = next((each for each in self._ports.network.peers() if each.peer == provider), None)
        return parse_address(link.address).relay if link is not None and link.relayed else None

    async def _serve(self, session: _Session) -> None:
        try:
            await session.serve()
        finally:
            if self._sessions.get(session.peer) is session:
                del self._sessions[session.peer]
                self._opening.pop(session.peer, None)


class _Session:
    """One stream to one provider, and the attempts on it."""

    def __init__(self, ports: ClientPorts, stream: Stream, relay: PeerId | None) -> None:
        self._ports = ports
        self._stream = stream
        self._relay = relay
        self.peer = stream.peer
        self.outbox = Outbox(stream)
        self.ended = False
        self._attempts: dict[JobId, Attempt] = {}
        self._unanswered: set[JobId] = set()
        self._all_answered = trio.Event()
        self._all_answered.set()
        self._alarm = Alarm(self._next_deadline, self._on_timer, ports.clock.now)

    def add(self, attempt: Attempt) -> None:
        if self.ended:
            raise TransportError(f"the connection to provider {self.peer} ended", outcome_known=True)
        self._attempts[attempt.job.job_id] = attempt
        self._alarm.poke()

    def expect_bulk(self, payload_bytes: int) -> None:
        """So much input may follow soon."""
        self._stream.expect_bulk(payload_bytes)

    def doubt_bulk(self) -> bool:
        """Whether what was received last, and does not open, may have been altered by others than the provider."""
        return self._stream.doubt_bulk()

    def discard(self, attempt: Attempt) -> None:
        self._attempts.pop(attempt.job.job_id, None)

    async def serve(self) -> None:
        lost: CocoonError = TransportError(f"provider {self.peer} went away", outcome_known=False)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.outbox.run)
                nursery.start_soon(self._alarm.run)
                lost = await self._read()
                nursery.cancel_scope.cancel()
        finally:
            self.ended = True
            self._all_answered.set()
            with trio.CancelScope(shield=True):
                for attempt in list(self._attempts.values()):
                    await attempt.run_effects(attempt.job.lost(lost))

    async def aclose(self) -> None:
        await self.outbox.flushed()
        with trio.move_on_after(limits.ANSWER_TIMEOUT_S):
            await self._all_answered.wait()
        await self._stream.aclose()

    def _next_deadline(self) -> float | None:
        deadlines = [d for a in self._attempts.values() if (d := a.job.next_deadline()) is not None]
        return min(deadlines, default=None)

    async def _on_timer(self) -> None:
        now = self._ports.clock.now()
        for attempt in list(self._attempts.values()):
            await attempt.run_effects(attempt.job.handle_timer(now))

    async def _read(self) -> CocoonError:
        """Reads until the stream ends; why it did."""
        try:
            while True:
                message = decode_message(await self._stream.receive())
                attempt = self._attempts.get(message.job_id)
                if attempt is not None:
                    effects = attempt.job.handle_message(message, unix_ms=unix_ms(self._ports.clock))
                    await attempt.run_effects(effects)
                elif isinstance(message, Receipt):
                    await self._on_stray_receipt(message)
                elif isinstance(message, Failure):
                    await self._on_stray_failure(message)
        except EndOfStream:
            return TransportError(f"provider {self.peer} closed the connection", outcome_known=False)
        except TransportError as error:
            return self._broke(error)
        except RemoteProtocolError as error:
            log.warning("provider %s broke a rule of job/1 (%s): %s", self.peer, error.code, error)
            self._ports.standing.penalise(self.peer, fault_of_code(error.code))
            await self._stream.reset()
            return error
        except CocoonError as error:  # ours: a full disk, for instance. It ends these jobs, not the node
            log.error("a job could not be carried on (%s): %s", error.code, error)
            await self._stream.reset()
            return error

    def _broke(self, error: TransportError) -> TransportError:
        """Who, over which way, why where that tells anything, and what to do."""
        through = f" through relay {self._relay}" if self._relay is not None else ""
        cause = error.__cause__
        told = "" if isinstance(cause, TransportError) and cause.code == "CUT_OFF" else f": {error.message}"
        return TransportError(
            f"the connection to provider {self.peer}{through} broke{told}",
            outcome_known=False,
            hint="ask again: another way to it may be there" if self._relay is not None else None,
        )

    def ask_for_outcomes(self) -> None:
        """About jobs of earlier streams: what the provider has not earned is not spent."""
        # SPEC job/1 §3.9
        for job_id in self._ports.store.jobs.without_outcome(self.peer, limits.OUTCOMES_ASKED_MAX):
            self.outbox.put(Cancel(job_id).encode())

    async def _on_stray_failure(self, message: Failure) -> None:
        """The answer to our CANCEL, or what crossed it: the provider has earned nothing."""
        job = self._ports.store.jobs.get(message.job_id, "client")
        if job is not None and job.peer_id == self.peer and job.state == "unknown":
            await self._ports.settlement.end_reservation(message.job_id, "released")
            self._ports.store.jobs.finish(
                message.job_id,
                "client",
                "failed",
                finished_at_ms=unix_ms(self._ports.clock),
                error=job.error,
            )
        self._answered(message.job_id)

    def expect_answer(self, job_id: JobId) -> None:
        """A paid job was given up here; the provider's answer will say whether it earned anything."""
        if not self.ended:
            self._unanswered.add(job_id)
            if self._all_answered.is_set():
                self._all_answered = trio.Event()

    def _answered(self, job_id: JobId) -> None:
        self._unanswered.discard(job_id)
        if not self._unanswered:
            self._all_answered.set()

    async def _on_stray_receipt(self, message: Receipt) -> None:
        """A receipt for a job that is over here. What it takes counts as spent; it is signed only for a job whose output
        we have."""
        receipt, body = check_stray_receipt(self._ports.identity, self.peer, message)
        self._answered(body.job_id)
        job = self._ports.store.jobs.get(body.job_id, "client")
        if job is None or job.peer_id != self.peer:
            log.warning("provider %s sent a receipt for a job that we never gave it", self.peer)
            return
        try:
            await self._ports.settlement.paid(body.job_id, body.price)
        except SettlementError as error:
            log.warning("provider %s sent a receipt that our own books contradict: %s", self.peer, error)
            return
        if job.state == "unknown":  # its output never came
            self._ports.store.jobs.finish(
                body.job_id,
                "client",
                "failed",
                finished_at_ms=unix_ms(self._ports.clock),
                price=body.price,
                items=body.items,
                error=job.error,
            )
        elif job.state == "done":
            keep_receipt(self._ports.store, receipt, body)
            self.outbox.put(ReceiptAck(body.job_id, receipt.client_signature).encode())


@dataclass(slots=True)
class _Output:
    buffer: memoryview
    opener: ChunkOpener
    position: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)


class Attempt:
    """One job at one provider, from the quote on."""

    def __init__(self, ports: ClientPorts, session: _Session, job: ClientJob) -> None:
        self._ports = ports
        self._session = session
        self.job = job
        self.marks = Marks()
        self._pieces: Sequence[Bytes] = ()
        self._output: _Output | None = None
        self._sealer: ChunkSealer | None = None
        self._quoted = trio.Event()
        self._finished = trio.Event()
        self._error: CocoonError | None = None
        self._at_risk = 0

    async def ask(self) -> None:
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
        self._pieces = pieces
        self.marks.accepted = self._ports.clock.now()
        try:
            await self.run_effects(self.job.accept(payment, unix_ms=unix_ms(self._ports.clock)))
            await self._send_input()
            await self._finished.wait()
        except trio.Cancelled:
            await self.cancel()
            raise
        if self._error is not None:
            raise self._error
        assert self._output is not None
        return self._output.buffer

    async def cancel(self) -> None:
        """Not chosen, or no longer wanted."""
        with trio.CancelScope(shield=True):
            await self.run_effects(self.job.cancel())

    def received_output(self) -> memoryview | None:
        """All of the output, authenticated, whatever became of the receipt; None when it is not all here."""
        return self._output.buffer if self._output is not None and self.marks.output_complete > 0 else None

    @property
    def at_risk(self) -> int:
        """Nanogram that the provider may have earned although the job failed here."""
        return self._at_risk

    async def run_effects(self, effects: Sequence[ClientEffect]) -> None:
        for effect in effects:
            await self._run_one(effect)

    async def _run_one(self, effect: ClientEffect) -> None:
        match effect:
            case Send(message):
                with suppress(TransportError):  # the reader sees it too, and ends the session
                    self._session.outbox.put(message.encode())
            case Penalise(fault):
                self._ports.standing.penalise(self.job.provider, fault)
            case Quoted():
                self.marks.quoted = self._ports.clock.now()
                self._quoted.set()
            case SendInput(sealer):
                self._sealer = sealer
            case BeginOutput(opener, payload_bytes):
                self.marks.output_head = self._ports.clock.now()
                self._output = _Output(payload_memory(payload_bytes), opener)
            case WriteOutput(ciphertext, final):
                await self._write_output(ciphertext, final)
            case MarkPaid(receipt, body):
                self._keep_receipt(receipt, body)
                await self._ports.settlement.paid(self.job.job_id, body.price)
            case EndReservation(outcome_known, refused):
                if not outcome_known and self.job.quote is not None:
                    self._at_risk = self.job.quote.max_total
                    self._session.expect_answer(self.job.job_id)
                end: ReservationEnd = "refused" if refused else "released" if outcome_known else "unknown"
                await self._ports.settlement.end_reservation(self.job.job_id, end)
            case Finished(error):
                self._finish(error)
            case _:
                assert_never(effect)

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
            )

    async def _send_input(self) -> None:
        """In the task of `run`, so that a full outbox holds up this job alone."""
        sealer, self._sealer = self._sealer, None
        if sealer is None:
            return
        digest = hashlib.sha256()
        for ciphertext, final in sealed_pieces(self._pieces, self.job.terms.payload_bytes, sealer):
            if self.job.over:
                return
            digest.update(ciphertext)
            if final:
                await self.run_effects(self.job.input_sent(digest.digest()))
                self.marks.input_sent = self._ports.clock.now()
            try:
                await self._session.outbox.put_bulk(bulk_frame(Input(self.job.job_id, ciphertext, final), sealer))
            except TransportError:
                return  # the reader sees it too, and ends the session
        self._pieces = ()

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
            self.marks.output_complete = self._ports.clock.now()
            await self.run_effects(self.job.output_complete(output.digest.digest()))

    def _output_bad(self, error: RemoteProtocolError) -> list[ClientEffect]:
        # SPEC data/1 §6
        if not self._session.doubt_bulk():
            return self.job.output_bad(error)
        altered = TransportError(f"the output was altered on its way ({error})", outcome_known=False, code="ALTERED")
        return [Send(Cancel(self.job.job_id)), *self.job.lost(altered)]

    def _finish(self, error: CocoonError | None) -> None:
        self.marks.finished = self._ports.clock.now()
        self._error = error
        self._session.discard(self)
        self._quoted.set()
        self._finished.set()


def keep_receipt(store: Store, receipt: Receipt, body: ReceiptBody) -> None:
    """Write a verified receipt to disk, in the client's role."""
    store.receipts.put(
        ReceiptRecord(
            job_id=body.job_id,
            role="client",
            peer_id=body.provider,
            model_id=body.model_id,
            price=body.price,
            items=body.items,
            finished_at_ms=body.finished_at_ms,
            body=receipt.body,
            provider_signature=receipt.provider_signature,
            client_signature=receipt.client_signature,
        )
    )
