"""What is written of each attempt at a provider: the job, and what it teaches of the provider; little, and together."""

from __future__ import annotations

from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.drivers.considerations import ConsiderationKeeper
from cocoon_p2p.drivers.experience import ExperienceKeeper
from cocoon_p2p.drivers.job_client import Attempt
from cocoon_p2p.drivers.stream_attempt import StreamAttempt
from cocoon_p2p.errors import (
    CocoonError,
    ExecutionError,
    PeerRefused,
    RefusalReason,
    RemoteProtocolError,
    TransportError,
)
from cocoon_p2p.policy.experience import Outcome
from cocoon_p2p.store import JobRecord, Store

_NOT_ITS_FAULT = frozenset({"INPUT", "ITEMS", "CANCELLED", "PAYMENT"})
_POLITE = frozenset({"SHUTTING_DOWN", "IDLE_POLICY", "SESSION"})
"""It said goodbye in mid-job, or kept a session no longer: better than silence, and no answer all the same."""
_HONEST_NO = frozenset({RefusalReason.PAYMENT, RefusalReason.QUOTE_EXPIRED, RefusalReason.STANDING})
"""What an honest provider may say to a job that it quoted. Its limits it knew before."""


class JobRecords:
    def __init__(
        self, store: Store, clock: Clock, experience: ExperienceKeeper, considerations: ConsiderationKeeper
    ) -> None:
        self._store = store
        self._clock = clock
        self._experience = experience
        self._considerations = considerations

    def begin(self, attempt: Attempt, name: str) -> None:
        """Before anything is sent: after a crash it is known that there was a job. What earlier jobs taught goes along."""
        job, quote = attempt.job, attempt.job.quote
        assert quote is not None
        with self._store.transaction():
            added = self._store.jobs.insert(
                JobRecord(
                    job_id=job.job_id,
                    role="client",
                    model_id=quote.model_id,
                    model_name=name,
                    peer_id=job.provider,
                    tier=quote.tier,
                    state="running",
                    price=quote.max_total,
                    items=quote.items,
                    created_at_ms=unix_ms(self._clock),
                )
            )
            if not added:  # it refused this job before, and gets it once more
                self._store.jobs.finish(
                    job.job_id, "client", "running", finished_at_ms=None, price=quote.max_total, peer=job.provider
                )
            self._experience.write()
            self._considerations.write()

    def end(self, attempt: Attempt, error: CocoonError | None, *, received: bool, good: bool = True) -> None:
        """How it ended; one with a receipt was finished together with that. `received`: its whole output is here; `good`:
        and is one."""
        if received and good:
            self._note_done(attempt)
            if attempt.job.receipt_body is None:
                self._finish(attempt, "done", error=None)
            return
        with self._store.transaction():
            outcome = None if error is None else blame(error, firm=attempt.job.firm)
            if outcome is not None and attempt.job.quote is not None:
                self._experience.note(attempt.job.provider, attempt.job.quote.model_id, outcome)
                self._experience.write()
            if attempt.job.receipt_body is None:
                self._finish(attempt, "done" if received else "unknown" if attempt.at_risk else "failed", error=error)

    def end_stream(self, attempt: StreamAttempt, error: CocoonError | None, *, firm: bool) -> None:
        """How one ended whose answer comes piece by piece, whether or not all of it came."""
        with self._store.transaction():
            quote = attempt.job.quote
            assert quote is not None
            if attempt.whole:
                self._note_stream(attempt)
            else:
                outcome = None if error is None else blame(error, firm=firm)
                if outcome is not None:
                    self._experience.note(attempt.job.provider, quote.model_id, outcome)
            self._experience.write()
            if attempt.job.receipt_body is None:
                state = "unknown" if attempt.at_risk else "done" if attempt.whole else "failed"
                self._finish(attempt, state, error=error, price=attempt.price)

    def _note_stream(self, attempt: StreamAttempt) -> None:
        """Its work is what passed from the prompt to the last token, by our own clock."""
        marks, job = attempt.marks, attempt.job
        assert job.quote is not None
        self._experience.note(
            job.provider,
            job.quote.model_id,
            Outcome.DONE,
            items=attempt.items,
            total_ms=max(0.0, (marks.output_complete - marks.accepted) * 1000),
            execute_us=round(max(0.0, marks.output_complete - marks.output_head) * 1e6),
        )

    def _note_done(self, attempt: Attempt) -> None:
        marks, job = attempt.marks, attempt.job
        assert job.quote is not None
        queue_ms = job.head.queue_us / 1000 if job.head else 0.0
        self._experience.note(
            job.provider,
            job.quote.model_id,
            Outcome.DONE,
            items=job.quote.items,
            total_ms=max(0.0, (marks.output_complete - marks.accepted) * 1000 - queue_ms),
            execute_us=job.head.execute_us if job.head else None,
        )

    def _finish(self, attempt: Attempt, state: str, *, error: CocoonError | None, price: int | None = None) -> None:
        self._store.jobs.finish(
            attempt.job.job_id,
            "client",
            state,  # type: ignore[arg-type]
            finished_at_ms=unix_ms(self._clock),
            price=attempt.at_risk if price is None else price,
            error="" if error is None else error.message,
            peer=attempt.job.provider,
        )


def blame(error: CocoonError, *, firm: bool) -> Outcome | None:
    """What a failed attempt says of the provider; None where it is not to blame. A price that was only announced may have
    been overtaken (`firm`), a quote may not."""
    match error:
        case PeerRefused():
            return None if firm or error.reason in _HONEST_NO else Outcome.FAILED
        case ExecutionError() if error.code in _POLITE:
            return Outcome.LATE
        case ExecutionError():
            return None if error.code in _NOT_ITS_FAULT else Outcome.FAILED
        case TransportError() | RemoteProtocolError():
            return Outcome.FAILED
        case _:
            return None
