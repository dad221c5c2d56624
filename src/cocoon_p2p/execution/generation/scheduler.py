"""Continuous batching: in each step every answer under way gets its next token, in one run, and some of a waiting prompt is
worked on; an answer enters when there is a row for it, and leaves when it ends.

Knows nothing of processes. A step never takes much longer than one run of the model, so that who runs it may look between two
steps for what has come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.generation.answer import Answer, Event
from cocoon_p2p.execution.generation.kept_prefixes import KeptPrefixes
from cocoon_p2p.execution.generation.kv_cache import KeyValues, Row
from cocoon_p2p.execution.generation.prefill_pace import PrefillPace
from cocoon_p2p.execution.generation.sampling import Logits
from cocoon_p2p.execution.session import RUN_ERRORS, first_line


class Runs(Protocol):
    """What can end a run while it lasts (`execution.cancellation.Cancellation`)."""

    def begin(self, jobs: Iterable[int]) -> Any: ...

    def end(self) -> None: ...

    def is_cancelled(self, job: int) -> bool: ...

    def forget(self, job: int) -> None: ...


class Scheduler:
    def __init__(self, key_values: KeyValues, runs: Runs, clock: Callable[[], float], *, vocab: int) -> None:
        """`clock` in seconds, on any clock that never jumps."""
        self._kv = key_values
        self._runs = runs
        self._clock = clock
        self._answers: dict[int, Answer] = {}
        """In the order in which they came."""
        self._kept = KeptPrefixes(key_values.close)
        self._pace = PrefillPace(vocab)
        self._events: list[Event] = []

    @property
    def answers(self) -> int:
        return len(self._answers)

    @property
    def kept(self) -> int:
        """Chats whose last turn is kept."""
        return len(self._kept)

    def add(self, answer: Answer) -> None:
        """Raises ExecutionError(code="LIMITS") for a prompt that there is never memory for."""
        if not self._kv.holds(len(answer.ids) + 1):
            text = f"there is no memory for the keys and values of a prompt of {len(answer.ids)} tokens"
            raise ExecutionError(text, code="LIMITS")
        answer.replay()
        self._answers[answer.number] = answer

    def allow(self, number: int, items: int) -> None:
        if (answer := self._answers.get(number)) is not None:
            answer.allowed = max(answer.allowed, items)

    def stop(self, number: int) -> None:
        if (answer := self._answers.get(number)) is not None:
            answer.stopping = True

    def cancel(self, number: int) -> None:
        if (answer := self._answers.get(number)) is not None:
            answer.cancelled = True

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something now."""
        return any(
            answer.may_go_on or self._is_over(answer) or self._is_cancelled(answer) for answer in self._answers.values()
        )

    def next_expiry(self) -> float | None:
        """When something that is kept is to be forgotten: call `step` then."""
        return self._kept.next_expiry()

    def step(self) -> list[Event]:
        self._events = []
        self._kept.expire(self._clock())
        self._end_answers()
        self._work_on_prompts()
        self._decode()
        return self._events

    # --- the parts of a step ------------------------------------------------------------------------------------------

    def _is_over(self, answer: Answer) -> bool:
        """One that had ended before it came here says so when its prompt is paid for, like any other."""
        return answer.stopping or (answer.finish is not None and answer.allowed >= len(answer.ids))

    def _is_cancelled(self, answer: Answer) -> bool:
        return answer.cancelled or self._runs.is_cancelled(answer.number)

    def _end_answers(self) -> None:
        """Those that were stopped, cancelled, or had ended before they came here."""
        for answer in list(self._answers.values()):
            if self._is_over(answer):
                self._tell(answer, answer.end_by_caller())
            elif self._is_cancelled(answer):
                self._fail(answer, ExecutionError("the job was cancelled", code="CANCELLED"))

    def _work_on_prompts(self) -> None:
        decoding = any(answer.decodes and answer.row and answer.may_go_on for answer in self._answers.values())
        until = self._clock() + self._pace.seconds(alone=not decoding)
        full = False
        for answer in list(self._answers.values()):
            if not answer.may_go_on or (answer.row is not None and answer.decodes):
                continue
            full = full or (answer.row is None and not self._open(answer))
            if answer.row is None:
                continue  # who came later does not overtake; who has a row goes on
            while answer.number in self._answers and not answer.decodes:
                left = until - self._clock()
                if left <= 0 or not self._prefill(answer, left):
                    return

    def _prefill(self, answer: Answer, seconds: float) -> bool:
        """Work on some of what the row lacks; behind the last of it comes a token. False: the run was ended."""
        assert answer.row is not None
        size = min(answer.missing, self._pace.tokens(seconds, answer.row.length))
        row, begun = answer.row, self._clock()
        ids = answer.ids[row.length : row.length + size]
        logits = self._run([answer], lambda options: self._kv.extend(row, ids, options))
        if logits is None:
            return False
        self._pace.note(size, self._clock() - begun)
        answer.worked = max(answer.worked, row.length)
        if answer.missing == 0:
            answer.decodes = True
            self._draw(answer, logits)
        return True

    def _decode(self) -> None:
        for answer in list(self._answers.values()):
            if answer.row is not None and answer.decodes and answer.may_go_on:
                self._grow(answer)
        batch = [answer for answer in self._answers.values() if answer.row and answer.decodes and answer.may_go_on]
        batch.sort(key=lambda answer: answer.row.place if answer.row else 0)
        for start in range(0, len(batch), self._kv.together):
            self._decode_together(batch[start : start + self._kv.together])

    def _decode_together(self, batch: list[Answer]) -> None:
        rows = [answer.row for answer in batch if answer.row is not None]
        ids = [answer.ids[-1] for answer in batch]
        logits = self._run(batch, lambda options: self._kv.step(rows, ids, options), alone=len(batch) == 1)
        if logits is not None:
            for answer, own in zip(batch, logits, strict=True):
                self._draw(answer, own)
        elif len(batch) > 1:  # perhaps one of them is at fault
            for answer in batch:
                if not self._runs.is_cancelled(answer.number):
                    self._decode_together([answer])

    def _draw(self, answer: Answer, logits: Logits) -> None:
        try:
            event = answer.take(logits)
        except ExecutionError as error:
            self._fail(answer, error)
        else:
            answer.paused_at = self._clock()
            self._tell(answer, event)

    def _run(self, answers: Sequence[Answer], run: Callable[[Any], Logits], *, alone: bool = True) -> Logits | None:
        """None when it failed, or was ended: who runs alone and was not cancelled, has failed."""
        options = self._runs.begin(answer.number for answer in answers)
        if options is None:
            return None
        begun = self._clock()
        try:
            return run(options)
        except RUN_ERRORS as error:
            if alone and not self._runs.is_cancelled(answers[0].number):
                self._fail(answers[0], _error_of(error))
            return None
        finally:
            self._runs.end()
            share = round((self._clock() - begun) / len(answers) * 1e6)
            for answer in answers:
                answer.execute_us += share

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _open(self, answer: Answer) -> bool:
        """Find a row for an answer that has none: its chat's, or a free one, at the cost of what waits."""
        row = self._reopen(answer) or self._kv.open(len(answer.ids) + 1)
        while row is None and (self._kept.drop_oldest() or self._take_from_paused()):
            row = self._kv.open(len(answer.ids) + 1)
        if row is None:
            return False
        answer.row = row
        answer.decodes = False
        if not answer.started:
            answer.started = True
            answer.reused = min(row.length, answer.prompt_tokens)
            answer.worked = row.length
            answer.waited_us = round((self._clock() - answer.begun_at) * 1e6)
        return True

    def _reopen(self, answer: Answer) -> Row | None:
        kept = self._kept.take(answer.key, answer.ids) if answer.key is not None else None
        if kept is None:
            return None
        row, same = kept
        self._kv.truncate(row, same)
        if not self._kv.reserve(row, len(answer.ids) + 1):
            self._kv.close(row)
            return None
        return row

    def _grow(self, answer: Answer) -> None:
        """Room for one more token in the answer's row, if need be in place of what waits, then of who came last."""
        assert answer.row is not None
        tokens = answer.row.length + 1
        while not self._kv.reserve(answer.row, tokens):
            if not self._kv.holds(tokens):
                self._tell(answer, answer.end_by_length())
                return
            if not (self._kept.drop_oldest() or self._take_from_paused()):
                last = [other for other in self._answers.values() if other.row is not None][-1]
                self._take_row(last)
                if last is answer:
                    return

    def _take_from_paused(self) -> bool:
        """The row of the answer that has been waiting for its allowance for longest: it is computed anew when it goes on."""
        paused = [answer for answer in self._answers.values() if answer.row is not None and not answer.may_go_on]
        if not paused:
            return False
        self._take_row(min(paused, key=lambda answer: answer.paused_at))
        return True

    def _take_row(self, answer: Answer) -> None:
        assert answer.row is not None
        self._kv.close(answer.row)
        answer.row = None
        answer.decodes = False

    # --- endings ------------------------------------------------------------------------------------------------------

    def _tell(self, answer: Answer, event: Event) -> None:
        self._events.append(event)
        if event.final:
            self._forget(answer, keep=True)

    def _fail(self, answer: Answer, error: ExecutionError) -> None:
        self._events.append(answer.failed(error))
        self._forget(answer, keep=False)

    def _forget(self, answer: Answer, *, keep: bool) -> None:
        del self._answers[answer.number]
        self._runs.forget(answer.number)
        row, answer.row = answer.row, None
        if row is None:
            return
        if keep and answer.key is not None and row.length:
            self._kept.put(answer.key, row, answer.ids, self._clock())
        else:
            self._kv.close(row)


def _error_of(error: BaseException) -> ExecutionError:
    if isinstance(error, MemoryError):
        return ExecutionError("there is not enough memory for this answer", code="LIMITS")
    return ExecutionError(f"the model failed: {first_line(error)}", code="MODEL")
