"""job/1 as a client: one stream to one provider, and all attempts on it."""

from __future__ import annotations

import logging

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.alarm import Alarm
from cocoon_p2p.drivers.clock import unix_ms
from cocoon_p2p.drivers.job_attempt import Attempt, AttemptPorts
from cocoon_p2p.drivers.outbox import Outbox
from cocoon_p2p.errors import CocoonError, EndOfStream, RemoteProtocolError, TransportError, one_line
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.net.port import Stream
from cocoon_p2p.policy.reputation import fault_of_code
from cocoon_p2p.wire.job import Cancel, Failure, FailureCode, JobMessage, Receipt, decode_message

log = logging.getLogger(__name__)

_CANCELS_REMEMBERED_MAX = 4 * limits.JOBS_PER_PEER_MAX
"""That a provider has not answered: an honest one answers each within a round trip."""


class JobSession:
    """`serve` until the stream ends. `relay` is between, or None."""

    def __init__(self, ports: AttemptPorts, stream: Stream, relay: PeerId | None) -> None:
        self._ports = ports
        self._stream = stream
        self._relay = relay
        self.peer = stream.peer
        self.outbox = Outbox(stream)
        self.ended = False
        self.silent = False
        """A job was given up for the provider's silence, and nothing has come since."""
        self._attempts: dict[JobId, Attempt] = {}
        self._cancelled: dict[JobId, int] = {}
        """CANCELs that wait for their answer: what comes of these jobs before it is not of a newer attempt."""
        self._unanswered: set[JobId] = set()
        """Jobs that were paid for and given up."""
        self._all_answered = trio.Event()
        self._all_answered.set()
        self._alarm = Alarm(self._next_deadline, self._on_timer, ports.clock.now)

    # --- for attempts ---

    def add(self, attempt: Attempt) -> None:
        """Messages of its job go to it from now on. Raises TransportError when the stream has ended."""
        if self.ended:
            raise TransportError(f"the connection to provider {self.peer} ended", outcome_known=True)
        self._attempts[attempt.job.job_id] = attempt
        deadline = attempt.job.next_deadline()
        if deadline is not None:
            self._alarm.expect(deadline)

    def discard(self, attempt: Attempt) -> None:
        """Its job is over."""
        if self._attempts.get(attempt.job.job_id) is attempt:
            del self._attempts[attempt.job.job_id]

    def expect_bulk(self, payload_bytes: int) -> None:
        """So much input may follow soon."""
        self._stream.expect_bulk(payload_bytes)

    def doubt_bulk(self) -> bool:
        """Whether what was received last, and does not open, may have been altered by others than the provider."""
        return self._stream.doubt_bulk()

    def expect_timer(self, deadline: float) -> None:
        """An attempt wants its timer fired then."""
        self._alarm.expect(deadline)

    def cancel(self, message: Cancel) -> None:
        """Tell the provider. Raises TransportError when the stream has ended."""
        self.outbox.put(message.encode())
        self._cancelled[message.job_id] = self._cancelled.get(message.job_id, 0) + 1
        if len(self._cancelled) > _CANCELS_REMEMBERED_MAX:
            del self._cancelled[next(iter(self._cancelled))]

    def left_open(self, attempt: Attempt) -> None:
        """A job that was paid for ended without a receipt; what the provider says of it is waited for."""
        job = attempt.job
        self._ports.outcomes.left_open(self.peer, job.job_id, job.owed)
        if not self.ended:
            self._unanswered.add(job.job_id)
            if self._all_answered.is_set():
                self._all_answered = trio.Event()

    # --- for the client ---

    async def serve(self) -> None:
        """Reads until the stream ends, and ends the attempts on it."""
        lost: CocoonError = TransportError(f"provider {self.peer} went away", outcome_known=False)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.outbox.run)
                nursery.start_soon(self._alarm.run)
                lost = await self._read()
                nursery.cancel_scope.cancel()
        finally:
            self.ended = True
            self._ports.seal_keys.forget(self.peer)
            self._all_answered.set()
            with trio.CancelScope(shield=True):
                for attempt in list(self._attempts.values()):
                    await attempt.run_effects(attempt.job.lost(lost))

    async def aclose(self) -> None:
        """Say goodbye, once the provider has said what became of jobs that were given up (within ANSWER_TIMEOUT_S)."""
        await self.outbox.flushed()
        with trio.move_on_after(limits.ANSWER_TIMEOUT_S):
            await self._all_answered.wait()
        await self._stream.aclose()

    def ask_for_outcomes(self) -> None:
        """About jobs of earlier streams: what the provider has not earned is not spent."""
        # SPEC job/1 §3.9
        for job_id in self._ports.store.jobs.without_outcome(self.peer, limits.OUTCOMES_ASKED_MAX):
            if not self._ports.outcomes.is_owed(self.peer, job_id):
                self._ports.outcomes.ask_about(self.peer, job_id)
                self.cancel(Cancel(job_id))

    # --- time ---

    def _next_deadline(self) -> float | None:
        deadlines = [d for a in self._attempts.values() if (d := a.job.next_deadline()) is not None]
        return min(deadlines, default=None)

    async def _on_timer(self) -> None:
        now = self._ports.clock.now()
        attempts = list(self._attempts.values())
        line_busy = any(attempt.job.moves_bulk for attempt in attempts)
        for attempt in attempts:
            await attempt.run_effects(attempt.job.handle_timer(now, line_busy=line_busy))

    # --- messages ---

    async def _read(self) -> CocoonError:
        """Reads until the stream ends; why it did."""
        clock = self._ports.clock
        try:
            while True:
                message = decode_message(await self._stream.receive())
                self.silent = False
                attempt = self._attempts.get(message.job_id)
                if attempt is None or message.job_id in self._cancelled:
                    await self._on_stray(message)
                    continue
                attempt.job.heard(clock.now())
                effects = attempt.job.handle_message(message, unix_ms=unix_ms(clock))
                await attempt.run_effects(effects)
        except EndOfStream:
            return TransportError(f"provider {self.peer} closed the connection", outcome_known=False)
        except TransportError as error:
            return self._broke(error)
        except RemoteProtocolError as error:
            log.warning("provider %s broke a rule of job/1 (%s): %s", self.peer, error.code, one_line(error))
            self._ports.standing.penalise(self.peer, fault_of_code(error.code))
            await self._stream.reset()
            return error
        except CocoonError as error:  # ours: a full disk, for instance. It ends these jobs, not the node
            log.error("a job could not be carried on (%s): %s", error.code, one_line(error))
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

    async def _on_stray(self, message: JobMessage) -> None:
        """Of a job that is over here. What is neither about money was under way when it ended."""
        if isinstance(message, Failure):
            await self._on_stray_failure(message)
        elif isinstance(message, Receipt):
            await self._on_stray_receipt(message)

    async def _on_stray_failure(self, message: Failure) -> None:
        if message.job_id not in self._attempts:  # otherwise its reservation is the newer attempt's
            await self._ports.outcomes.on_failure(self.peer, message.job_id, message.code)
        if message.code is FailureCode.CANCELLED:
            self._cancel_answered(message.job_id)
        self._answered(message.job_id)

    def _cancel_answered(self, job_id: JobId) -> None:
        left = self._cancelled.pop(job_id, 1) - 1
        if left > 0:
            self._cancelled[job_id] = left

    async def _on_stray_receipt(self, message: Receipt) -> None:
        answer = await self._ports.outcomes.on_receipt(self.peer, message)
        if answer is None:
            return
        if not isinstance(answer, Cancel):
            self._cancel_answered(message.job_id)  # of an answer that came in part
            self._answered(message.job_id)
            self.outbox.put(answer.encode())
        elif message.job_id not in self._cancelled:
            self.cancel(answer)

    def _answered(self, job_id: JobId) -> None:
        self._unanswered.discard(job_id)
        if not self._unanswered:
            self._all_answered.set()
