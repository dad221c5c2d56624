"""Works on sets of jobs in a worker process: which of them go into one run, and whose each row of its output is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tokenizers import Encoding

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.batch_proof import proves_batching
from cocoon_p2p.execution.batching import could_batch, length_groups
from cocoon_p2p.execution.cancellation import Cancellation
from cocoon_p2p.execution.session import (
    RUN_ERRORS,
    OnnxModel,
    Values,
    first_line,
    is_out_of_memory,
    run_options,
    tensors_of,
    values_of,
)
from cocoon_p2p.execution.text import TextReader
from cocoon_p2p.tensors import PayloadError, Tensor, unpack_strings

_PROOF_TIMEOUT_S = 5.0
"""A model that takes longer for three tiny runs gains nothing by batching."""
_PROOF_TEXTS = ("a", "a somewhat longer text, for the padding", "another one")


class Job:
    """One job of a set. `finish` or `fail` ends it."""

    def __init__(self, number: int, tensors: Sequence[Tensor], *, as_text: bool, outputs: tuple[str, ...]) -> None:
        self.number = number
        self.tensors = tensors
        self.as_text = as_text
        self.outputs = outputs
        self.error: ExecutionError | None = None
        self.values: Values = {}
        self.dtypes: dict[str, str] = {}
        self.waited_us = 0
        self.execute_us = 0
        """Duration of the runs that it took part in."""
        self.work_us = 0
        """Its share of them."""
        self.open_rows = 0
        self.cut = 0
        """Of a text job: texts that had more tokens than the model takes."""

    def output_tensors(self) -> list[Tensor]:
        """Raises PayloadError for an output that cannot travel."""
        return tensors_of(self.values, self.dtypes)

    def fail(self, code: str, text: str) -> None:
        self.error = self.error or ExecutionError(text, code=code)

    def drop(self) -> None:
        """Let go of input and output."""
        self.tensors = ()
        self.values = {}


class Runner:
    """Raises one of RUN_ERRORS when the model cannot even be tried."""

    def __init__(
        self, model: OnnxModel, reader: TextReader | None, cancellation: Cancellation, batch_items_max: int
    ) -> None:
        self._model = model
        self._reader = reader
        self._cancellation = cancellation
        self._items_max = batch_items_max
        self.batches = batch_items_max > 1 and could_batch(model.manifest) and self._prove()
        """Whether rows of several jobs may stand in one run."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """Work on a set; each job comes out as soon as it has ended."""
        started = time.perf_counter_ns()
        for job in jobs:
            job.dtypes = self._reader.dtypes if job.as_text and self._reader is not None else self._model.dtypes
        texts = [job for job in jobs if job.as_text]
        tensors = [job for job in jobs if not job.as_text]
        if texts:
            yield from self._run_texts(texts, started)
        if self.batches and len(tensors) > 1:
            yield from self._run_together(tensors, started)
        else:
            for job in tensors:
                yield from self._run_alone(job, started)

    def _run_alone(self, job: Job, started: int) -> Iterator[Job]:
        job.waited_us = _microseconds_since(started)
        begun = time.perf_counter_ns()
        try:
            values = self._execute([job], values_of(job.tensors), job.outputs)
        except PayloadError as error:
            job.fail("INPUT", str(error))
        else:
            if values is not None:
                job.values = values
        job.execute_us = job.work_us = _microseconds_since(begun)
        yield job

    def _run_together(self, jobs: list[Job], started: int) -> Iterator[Job]:
        """Jobs whose inputs differ in the leading dimension only, as one run."""
        counts = [job.tensors[0].shape[0] for job in jobs]
        begun = time.perf_counter_ns()
        try:
            parts = [values_of(job.tensors) for job in jobs]
        except PayloadError:  # of one of them; each by itself finds out whose
            parts = []
        values: Values | None = None
        if parts:
            joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            values = self._execute(jobs, joined, jobs[0].outputs, isolate=True)
        if values is None or any(np.shape(array)[:1] != (sum(counts),) for array in values.values()):
            for job in jobs:
                yield from self._run_alone(job, started)
            return
        duration = _microseconds_since(begun)
        row = 0
        for job, count in zip(jobs, counts, strict=True):
            job.values = {name: values[name][row : row + count] for name in job.outputs}
            job.waited_us = (begun - started) // 1000
            job.execute_us, job.work_us = duration, duration * count // sum(counts)
            row += count
            yield job

    def _run_texts(self, jobs: list[Job], started: int) -> Iterator[Job]:
        assert self._reader is not None
        rows: list[tuple[Job, int, Encoding]] = []
        for job in jobs:
            encodings = self._tokenise(job)
            job.open_rows = len(encodings)
            job.cut = sum(bool(encoding.overflowing) for encoding in encodings)
            job.values = {name: self._reader.empty(name, len(encodings)) for name in job.outputs}
            rows += [(job, index, encoding) for index, encoding in enumerate(encodings)]
            if not encodings:
                yield job
        items_max = self._items_max if self.batches else 1
        lengths = [len(encoding.ids) for _, _, encoding in rows]
        for group in length_groups(lengths, items_max, equal=self._reader.text.mask is None):
            yield from self._run_rows([rows[index] for index in group], started)

    def _tokenise(self, job: Job) -> list[Encoding]:
        assert self._reader is not None
        begun = time.perf_counter_ns()
        try:
            encodings = self._reader.tokenise(unpack_strings(job.tensors[0]))
        except PayloadError as error:
            job.fail("INPUT", str(error))
            encodings = []
        except ExecutionError as error:
            job.error = error
            encodings = []
        job.execute_us = job.work_us = _microseconds_since(begun)
        return encodings

    def _run_rows(self, rows: list[tuple[Job, int, Encoding]], started: int) -> Iterator[Job]:
        """One run over rows of perhaps several jobs; a job comes out with its last row."""
        assert self._reader is not None
        jobs = list({job.number: job for job, _, _ in rows}.values())
        names = tuple(sorted({name for job in jobs for name in job.outputs}))
        begun = time.perf_counter_ns()
        live = [job for job in jobs if job.error is None]
        values = None
        if live:
            encodings = [encoding for _, _, encoding in rows]
            values = self._execute(live, self._reader.batch(encodings), names, isolate=len(jobs) > 1, texts=encodings)
        if values is None and len(jobs) > 1:
            for own in jobs:
                yield from self._run_rows([row for row in rows if row[0] is own], started)
            return
        duration = _microseconds_since(begun)
        for number, (job, index, _) in enumerate(rows):
            if job.error is None and values is not None:
                for name in job.outputs:
                    job.values[name][index] = values[name][number]
            job.work_us += duration // len(rows)
            job.open_rows -= 1
        for job in jobs:
            job.waited_us = job.waited_us or (begun - started) // 1000
            job.execute_us += duration
            if job.open_rows == 0:
                yield job

    def _execute(
        self,
        jobs: list[Job],
        inputs: Values,
        outputs: Sequence[str],
        *,
        isolate: bool = False,
        texts: Sequence[Encoding] | None = None,
    ) -> Values | None:
        """Run the graph for these jobs, whose rows are `texts` if they are of texts. None when it failed: with `isolate` the jobs are
        to be run one by one, else they have failed."""
        options = self._cancellation.begin(job.number for job in jobs)
        try:
            if options is not None and texts is not None:
                return self._run_graph_on_texts(texts, inputs, outputs, options)
            if options is not None:
                return self._model.run(inputs, outputs, options)
        except RUN_ERRORS as error:
            if isolate:
                return None
            self._fail(jobs, error)
            return None
        finally:
            self._cancellation.end()
        for job in jobs:
            job.fail("CANCELLED", "the job was cancelled")
        return None

    def _run_graph_on_texts(
        self, rows: Sequence[Encoding], inputs: Values, outputs: Sequence[str], options: Any
    ) -> Values:
        assert self._reader is not None
        return self._reader.finish(self._model.run(inputs, self._reader.graph_outputs(outputs), options), rows)

    def _fail(self, jobs: list[Job], error: BaseException) -> None:
        for job in jobs:
            if self._cancellation.is_cancelled(job.number):
                job.fail("CANCELLED", "the job was cancelled")
            elif is_out_of_memory(error):
                job.fail("LIMITS", "there is not enough memory for this job")
            else:
                job.fail("MODEL", f"the model failed: {first_line(error)}")

    def _prove(self) -> bool:
        options = run_options()
        timer = threading.Timer(_PROOF_TIMEOUT_S, lambda: setattr(options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            return self._prove_text(options) if self._reader is not None else proves_batching(self._model, options)
        finally:
            timer.cancel()

    def _prove_text(self, options: Any) -> bool:
        """Whether texts give the same rows in one padded run as in runs of their own."""
        assert self._reader is not None
        rows = self._reader.tokenise(_PROOF_TEXTS)
        if self._reader.text.mask is None:
            rows = [rows[0], rows[0]]
        names = self._reader.text.outputs
        try:
            together = self._run_graph_on_texts(rows, self._reader.batch(rows), names, options)
            alone = [self._run_graph_on_texts([row], self._reader.batch([row]), names, options) for row in rows]
        except RUN_ERRORS:
            return False
        return all(
            len(together[name]) == len(rows) and np.allclose(together[name][i], part[name][0], rtol=1e-2, atol=1e-4)
            for name in names
            for i, part in enumerate(alone)
        )


def _microseconds_since(begun: int) -> int:
    return (time.perf_counter_ns() - begun) // 1000
