"""job/1, the provider's end: the jobs of one client on one stream, and how each of them ends."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from cocoon_p2p import limits
from cocoon_p2p.errors import ExecutionError, RemoteProtocolError
from cocoon_p2p.ids import JobId, ModelId, PeerId
from cocoon_p2p.policy.admission import Refused
from cocoon_p2p.policy.late_cancels import LEFT_LATE, UNPAID_LATE
from cocoon_p2p.policy.reputation import fault_of_code
from cocoon_p2p.proto.job_effects import Closed, Earn, Penalise, ProviderEffect, ReleasePayment, Send
from cocoon_p2p.proto.job_states import ProviderEvent, ProviderState
from cocoon_p2p.proto.provider_answers import sign_refusal
from cocoon_p2p.proto.provider_desk import ProviderDesk
from cocoon_p2p.proto.provider_job import STREAM_STATES, ProviderJob
from cocoon_p2p.wire.job import Failure, FailureCode, Receipt


class ClientsJobs:
    """What `ProviderSession` and its answers in frames share."""

    def __init__(self, desk: ProviderDesk, client: PeerId, *, entropy: Callable[[int], bytes]) -> None:
        self._desk = desk
        self.client = client
        self._entropy = entropy
        self._jobs: dict[JobId, ProviderJob] = {}
        self._unsigned: OrderedDict[JobId, bytes] = OrderedDict()
        """Bodies of receipts that were sent and wait for the client's signature."""

    # --- getters ---

    def next_deadline(self) -> float | None:
        return min((job.next_deadline() for job in self._jobs.values()), default=None)

    def jobs(self) -> dict[JobId, ProviderState]:
        return {job_id: job.machine.state for job_id, job in self._jobs.items()}

    # --- endings ---

    def _refuse(self, job_id: JobId, model_id: ModelId | None, refused: Refused, unix_ms: int) -> Send:
        return Send(sign_refusal(self._desk.identity, self.client, job_id, model_id, refused, unix_ms=unix_ms))

    def _fault(self, job_id: JobId, error: RemoteProtocolError, *, submitted: bool = False) -> list[ProviderEffect]:
        """The client broke a rule of one job; where that job is none yet, a client that `submitted` it waits for a word."""
        effects: list[ProviderEffect] = [Penalise(fault_of_code(error.code))]
        job = self._jobs.get(job_id)
        streams = job is not None and job.machine.state in STREAM_STATES
        if job is not None or submitted:
            code = FailureCode.PAYMENT if streams else FailureCode.ENVELOPE
            effects.append(Send(Failure(job_id, code, error.message[: limits.DETAIL_CHARS_MAX])))
        if job is not None:
            wasted = job.wasted if streams else 0
            job.machine.local(ProviderEvent.FAULT)
            effects += self._close(job_id, UNPAID_LATE if wasted else error.message, wasted=wasted)
        return effects

    def _fail(self, job_id: JobId, event: ProviderEvent, error: ExecutionError) -> list[ProviderEffect]:
        job = self._jobs.get(job_id)
        if job is None:
            return []
        job.machine.local(event)
        code = FailureCode[error.code] if error.code in FailureCode.__members__ else FailureCode.MODEL
        detail = error.message[: limits.DETAIL_CHARS_MAX]
        # The client may read the detail; our own list of jobs keeps the code alone, since a name in the detail may come
        # out of the sealed input.
        return [Send(Failure(job_id, code, detail)), *self._close(job_id, error.code)]

    def lost(self, error: str) -> list[ProviderEffect]:
        """The stream ended: whatever is unfinished earns nothing. Of an answer on its way most may have arrived."""
        effects: list[ProviderEffect] = []
        for job_id, job in list(self._jobs.items()):
            wasted = job.wasted
            job.machine.local(ProviderEvent.LOST)
            effects += self._close(job_id, LEFT_LATE if wasted else error, wasted=wasted, gone=True)
        return effects

    def shut_down(self) -> list[ProviderEffect]:
        """This node stops: jobs that are not done yet are told so."""
        effects: list[ProviderEffect] = []
        for job_id, job in list(self._jobs.items()):
            effects.append(Send(Failure(job_id, FailureCode.SHUTTING_DOWN, "this provider is shutting down")))
            job.machine.local(ProviderEvent.LOST)
            effects += self._close(job_id, "shut down")
        return effects

    def yield_jobs(self, detail: str) -> list[ProviderEffect]:
        """The operator takes the machine back: accepted jobs whose work is not done end here. Those that are being returned
        take nothing from him any more, and go on."""
        effects: list[ProviderEffect] = []
        for job_id, job in list(self._jobs.items()):
            if job.machine.allows(ProviderEvent.YIELDED):
                job.machine.local(ProviderEvent.YIELDED)
                effects.append(Send(Failure(job_id, FailureCode.IDLE_POLICY, detail[: limits.DETAIL_CHARS_MAX])))
                effects += self._close(job_id, detail)
        return effects

    def _close(self, job_id: JobId, error: str | None, *, wasted: int = 0, gone: bool = False) -> list[ProviderEffect]:
        """`wasted`: nanogram of work that the client let be done, and did not take. `gone`: it cannot be told anything."""
        job = self._jobs.pop(job_id)
        self._desk.clients.closed(self.client)
        self._desk.work_ended(self.client, job_id, job.quote.model_id)
        if job.holds_slot:
            self._desk.clients.ended(self.client, job_id)
            self._desk.end(job.quote.model_id, job.queued_items, job.quote.input_bytes)
        earned = job.receipt is not None
        closed = Closed(job_id, job.quote.model_id, self.client, job.quote.tier, job.quote.items, error, wasted, earned)
        if job.receipt is not None:
            # SPEC job/1 §3.8
            receipt, body = job.receipt
            earn = Earn(job_id, receipt, body)
            if gone:
                return [earn, closed]
            self._await_signature(receipt)
            return [earn, Send(receipt), closed]
        return [ReleasePayment(job_id), closed] if job.holds_slot and error is not None else [closed]

    def _await_signature(self, receipt: Receipt) -> None:
        self._unsigned[receipt.job_id] = receipt.body
        if len(self._unsigned) > limits.RECEIPTS_UNSIGNED_MAX + limits.JOBS_PER_PEER_MAX:
            self._unsigned.popitem(last=False)  # it stays on disk, and is sent again at the next session
