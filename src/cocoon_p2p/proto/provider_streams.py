"""job/1, the provider's end: answers in frames, and what the client says of them (protocols/job/1 §3.14 to §3.17)."""

from __future__ import annotations

from math import inf

from cocoon_p2p import limits
from cocoon_p2p.errors import ExecutionError, RemoteProtocolError
from cocoon_p2p.ids import JobId
from cocoon_p2p.proto.job_effects import Allow, EndWork, KeepReceipt, ProviderEffect, Send, TakeMore
from cocoon_p2p.proto.job_states import ProviderEvent, ProviderState
from cocoon_p2p.proto.provider_jobs import ClientsJobs
from cocoon_p2p.wire.job import RECEIPT_DOMAIN, Failure, FailureCode, Pay, Receipt, Stop, StreamHead
from cocoon_p2p.wire.seal import RESPONSE_NONCE_BYTES, ResponseHeader


class StreamAnswers(ClientsJobs):
    """Part of `ProviderSession`."""

    # --- the client ---

    def _on_pay(self, message: Pay, now: float, unix_ms: int) -> list[ProviderEffect]:
        # SPEC job/1 §3.16
        job = self._jobs.get(message.job_id)
        if job is None:
            return []  # under way when the job ended
        job.machine.remote(ProviderEvent.PAY)
        assert job.stream is not None
        stream, allowed, promised = job.stream, job.stream.allowed, job.stream.promised
        owed = stream.acknowledge(message, now)
        effects: list[ProviderEffect] = []
        if owed:
            body = job.acknowledged_body(unix_ms)
            raw = body.encode()
            receipt = Receipt(message.job_id, raw, self._desk.identity.sign(RECEIPT_DOMAIN, raw), b"")
            stream.receipt = receipt, body
            if stream.all_acknowledged:
                job.machine.local(ProviderEvent.ALL_ACKNOWLEDGED)
                return self._close(message.job_id, None)
            effects.append(KeepReceipt(message.job_id, receipt, body))
        if message.paid > promised:
            effects.append(TakeMore(message.job_id, message.payment, stream.total(message.paid), message.paid))
        if stream.allowed > allowed:
            effects.append(Allow(message.job_id, stream.allowed))
        return effects

    def _on_stop(self, message: Stop) -> list[ProviderEffect]:
        # SPEC job/1 §3.17
        job = self._jobs.get(message.job_id)
        if job is None:
            return []
        job.machine.remote(ProviderEvent.STOP)
        assert job.stream is not None
        if job.machine.state is ProviderState.ENDING:
            return []
        job.stream.stop()
        if job.stream.may_work:
            return [EndWork(message.job_id)]
        return self._stopped_unbegun(message.job_id)

    def _stopped_unbegun(self, job_id: JobId) -> list[ProviderEffect]:
        self._jobs[job_id].machine.local(ProviderEvent.CANCEL)
        failure = Failure(job_id, FailureCode.CANCELLED, "stopped before anything was worked on")
        return [Send(failure), *self._close(job_id, "stopped by the client")]

    # --- answers of the driver ---

    def stream_begun(self, job_id: JobId, *, prompt_items: int, queue_us: int, now: float) -> list[ProviderEffect]:
        """The prompt is counted, and the model may begin."""
        job = self._jobs.get(job_id)
        if job is None:
            return []
        job.machine.local(ProviderEvent.STREAM_BEGUN)
        assert job.opened is not None
        assert job.stream is not None
        header = ResponseHeader(job_id=job_id, nonce=self._entropy(RESPONSE_NONCE_BYTES)).encode()
        job.stream.begin(header, job.opened.frame_sealer(header), prompt_items, queue_us, now)
        return [Send(StreamHead(job_id, header, prompt_items, queue_us)), Allow(job_id, job.stream.allowed)]

    def produced(
        self, job_id: JobId, *, data: bytes, items: int, final: bool, execute_us: int, now: float
    ) -> list[ProviderEffect]:
        """The next piece of an answer in frames; of `items` tokens until now, the prompt's among them."""
        job = self._jobs.get(job_id)
        if job is None:
            return []
        assert job.stream is not None
        if final and job.stream.stopping and items < (job.stream.prompt_items or 0):
            return self._stopped_unbegun(job_id)
        if final:
            items = max(items, job.stream.prompt_items or 0)  # of an answer that was at its end before it went on
        try:
            frame = job.stream.produced(data, items=items, final=final, execute_us=execute_us, now=now)
        except ExecutionError as error:
            return self._fail(job_id, ProviderEvent.EXECUTION_FAILED, error)
        job.progress_at = now + limits.PROGRESS_INTERVAL_S
        if final:
            job.machine.local(ProviderEvent.FRAMES_SENT)
            job.deadline = job.progress_at = inf
        return [Send(frame)]

    def more_taken(self, job_id: JobId, paid: int, *, now: float) -> list[ProviderEffect]:
        """A further payment is on disk, which covers `paid` items in all."""
        job = self._jobs.get(job_id)
        if job is None or job.stream is None:
            return []
        allowed = job.stream.allowed
        job.stream.more_taken(paid, now)
        return [Allow(job_id, job.stream.allowed)] if job.stream.allowed > allowed else []

    def more_refused(self, job_id: JobId, detail: str) -> list[ProviderEffect]:
        """The client's credit does not cover what it said: the answer ends here."""
        job = self._jobs.get(job_id)
        if job is None or not job.machine.allows(ProviderEvent.PAYMENT_REFUSED):
            return []
        wasted = job.wasted
        job.machine.local(ProviderEvent.PAYMENT_REFUSED)
        if job.machine.state is ProviderState.ENDING:
            return []  # all that will be worked on was paid for before
        failure = Failure(job_id, FailureCode.PAYMENT, detail[: limits.DETAIL_CHARS_MAX])
        return [Send(failure), *self._close(job_id, detail, wasted=wasted)]

    def more_bad(self, job_id: JobId, error: RemoteProtocolError) -> list[ProviderEffect]:
        """The further payment is none, or not this channel's: a fault."""
        return self._fault(job_id, error) if job_id in self._jobs else []
