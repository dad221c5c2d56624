"""A model over many inputs: spread over many providers, answers in the order of the inputs, failures item by item.

`Spread` knows nothing of nodes: whatever runs one item can be behind it. `NodeMap` is the part of `Node`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import trio

from cocoon_p2p.assembly import Parts
from cocoon_p2p.drivers.trio_thread import in_trio_thread
from cocoon_p2p.errors import CocoonError, ConfigError, PeerRefused, RefusalReason
from cocoon_p2p.limits import JOBS_PER_PEER_MAX, MAP_IN_FLIGHT_MAX
from cocoon_p2p.node_jobs import NodeJobs, RunRequest, RunResult, payload_of
from cocoon_p2p.policy.map_window import MapWindow
from cocoon_p2p.policy.preference import Preference
from cocoon_p2p.tensors import Payload, PayloadError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Input = Mapping[str, Any] | Sequence[str] | str
"""Arrays by name, a list of texts, or one text."""
Progress = Callable[[int, int, int | None], None]
"""(done, failed, how many there are in all: None where nobody knows yet)."""

BUSY_WAIT_MIN_S = 0.05
BUSY_WAIT_MAX_S = 2.0
"""When all providers are busy they are asked again: soon, and not all the time."""
HOPELESS_ITEMS = 8
"""When so many of the first items, or as many as are under way at once, fail for one of HOPELESS, so will the others."""
HOPELESS = frozenset({"NO_MODEL", "AMBIGUOUS", "BALANCE", "TIER", "STANDING", "PROVIDERS", "NODE_GONE"})
"""Codes of errors that are no single item's fault."""
PASSING = frozenset({"BALANCE", "STANDING"})
"""Those of them that may be over when an item that is under way is done."""


@dataclass(frozen=True, slots=True)
class MapItem:
    """One input's result."""

    index: int
    """Its place among the inputs, from 0."""
    outputs: dict[str, NDArray[np.generic]] | None
    """None when it failed."""
    error: CocoonError | None = None
    provider: str | None = None
    price: int = 0
    """nanogram."""
    texts_cut: int = 0
    """Of an input of texts: how many had more tokens than the model takes, and were cut (`RunResult.texts_cut`)."""


RunOne = Callable[[int, Any], Awaitable[MapItem]]
"""Runs one input. What it raises ends the whole."""


class Spread:
    """Runs many items at once and gives them out in order. An async iterator; also an async context manager, which stops
    what is still running when its block is left early. (Without one that happens when the iterator is thrown away.)

    No input is read before there is room for it: never more than the window is read and not yet given out."""

    def __init__(self, nursery: trio.Nursery, work: Work) -> None:
        self._nursery = nursery
        self._work = work
        self._started = False
        self._left = in_trio_thread(work.stop)

    def __aiter__(self) -> AsyncIterator[MapItem]:
        return self

    async def __anext__(self) -> MapItem:
        if not self._started:
            self._started = True
            self._nursery.start_soon(self._work.run)
        taken = False
        try:
            item = await self._work.take()
            taken = True
        finally:
            if not taken:  # the end, a failure, or whoever waits is cancelled
                self._work.stop()
        return item

    @property
    def all_failed(self) -> int:
        """How many items failed, given out or not; 0 when one was done."""
        return 0 if self._work.done else self._work.failed

    async def aclose(self) -> None:
        """Stop what is still running. Idempotent."""
        self._work.stop()
        if self._started:
            with trio.CancelScope(shield=True):
                await self._work.stopped.wait()

    async def __aenter__(self) -> Spread:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._left()


class _Kept:
    """Keeps what its block raises, for another task to raise: not a cancellation, which is its own task's matter."""

    error: Exception | None = None

    def __enter__(self) -> _Kept:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self.error = error
            return True
        return False


class Work:
    """What goes on behind a `Spread`, which it does not refer to."""

    def __init__(
        self,
        inputs: Iterable[Any] | AsyncIterable[Any],
        run_one: RunOne,
        window: Callable[[], int],
        *,
        progress: Progress | None = None,
        raises: bool = False,
    ) -> None:
        self._inputs = inputs
        self._run_one = run_one
        self._window = window
        self._progress = progress
        self._raises = raises
        self._total = len(inputs) if isinstance(inputs, Sized) else None
        self._scope = trio.CancelScope()
        self.stopped = trio.Event()
        self._changed = trio.Event()
        self._results: dict[int, MapItem | Exception] = {}
        self.done = self.failed = 0
        """Items, given out or not."""
        self._read = self._given = 0
        self._all_read = False
        self._hopeless: Counter[str] = Counter()
        self._shared: dict[str, CocoonError] = {}
        self._broken: Exception | None = None
        self._ended = False

    def stop(self) -> None:
        """From the trio thread. Nothing is given out after it."""
        self._ended = True
        self._scope.cancel()

    async def take(self) -> MapItem:
        """The next item in order. Raises StopAsyncIteration, what the inputs or `run_one` raised, or, where that is wanted,
        an item's error."""
        while self._ended or self._given not in self._results:
            if self._ended or (self._all_read and self._given == self._read):
                raise StopAsyncIteration
            if self._broken is not None:
                raise self._broken
            if self.stopped.is_set():
                raise CocoonError("the node stopped", code="CANCELLED")
            await self._changed.wait()
        item = self._results.pop(self._given)
        self._given += 1
        self._pulse()
        if isinstance(item, Exception):
            raise item
        if item.error is not None and self._raises:
            raise item.error
        return item

    async def run(self) -> None:
        """Read and run, until the inputs end or `stop`."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    await self._read_all(nursery)
        finally:
            self.stopped.set()
            self._pulse()

    async def _read_all(self, nursery: trio.Nursery) -> None:
        source = _reader(self._inputs)
        while True:
            while self._is_in_doubt() or self._read - self._given >= max(1, self._window()):
                if self._broken is not None:
                    return
                await self._changed.wait()
            with _Kept() as kept:
                given = await source()
            if kept.error is not None:
                if isinstance(kept.error, StopAsyncIteration):
                    self._all_read = True
                else:
                    self._broken = kept.error
                self._pulse()
                return
            nursery.start_soon(self._one, self._read, given)
            self._read += 1

    def _is_in_doubt(self) -> bool:
        """Whether nothing was ever done and the first items failed for a reason that all share: that reason ends it, if
        need be once those under way have failed, too; no further one is begun before."""
        if self.done or not self._hopeless:
            return False
        ((code, count),) = self._hopeless.most_common(1)
        if count < min(HOPELESS_ITEMS, max(1, self._window())):
            return False
        if code not in PASSING or self.failed == self._read:
            self._broken = self._shared[code]
            self._pulse()
        return True

    async def _one(self, index: int, given: Any) -> None:
        result: MapItem | Exception | None = None
        with _Kept() as kept:
            result = await self._run_one(index, given)
            failed = result.error is not None
            self.failed += failed
            if result.error is not None and result.error.code in HOPELESS:
                self._hopeless[result.error.code] += 1
                self._shared[result.error.code] = result.error
            self.done += not failed
            if self._progress is not None:
                self._progress(self.done, self.failed, self._known_total())
        if kept.error is not None:
            result = kept.error
        assert result is not None
        self._results[index] = result
        self._pulse()

    def _known_total(self) -> int | None:
        return self._read if self._all_read else self._total

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _reader(inputs: Iterable[Any] | AsyncIterable[Any]) -> Callable[[], Awaitable[Any]]:
    """Calls give one input after the other. Raises StopAsyncIteration at the end."""
    if isinstance(inputs, AsyncIterable):
        return aiter(inputs).__anext__
    plain = iter(inputs)
    end = object()

    async def read() -> Any:
        await trio.lowlevel.checkpoint()  # a long source of inputs that all fail at once holds up nobody
        value = next(plain, end)
        if value is end:
            raise StopAsyncIteration
        return value

    return read


class NodeMap(NodeJobs):
    """The part of `Node` that runs a model over many inputs."""

    _parts: Parts

    def map(
        self,
        model: str,
        inputs: Iterable[Input] | AsyncIterable[Input],
        *,
        in_flight: int | None = None,
        progress: Progress | None = None,
        on_error: Literal["collect", "raise"] = "collect",
        max_price: int | None = None,
        tier: str | None = None,
        provider: str | None = None,
        timeout_s: float | None = None,
        min_reliability: float | None = None,
        prefer: str | Preference | None = None,
        hedge: int = 1,
        quorum: int = 1,
        outputs: Sequence[str] = (),
    ) -> Spread:
        """Run a model over many inputs, each a job of its own (arrays by name, a list of texts, or one text), at many
        providers at once::

            async for item in node.map("minilm", texts):
                ...  # item.outputs, or item.error; in the order of the inputs

        `in_flight` is how many are under way at most; None: as many as the providers have room for, at most
        limits.MAP_IN_FLIGHT_MAX. `progress` is called after each item. With on_error="raise" the first failure, in order,
        ends it. The limits are those of `run`, for each item; an item that finds all providers busy waits until its
        `timeout_s` is over. When nothing was ever done and the first items all fail for a reason that is no item's (nobody
        offers the model, the balance is empty), that error is raised, whatever `on_error` says. Leaving the loop early cancels what is under way (`async with node.map(…) as items` at once).
        """
        if on_error not in ("collect", "raise"):
            raise ConfigError(f"on_error: {on_error!r} is neither collect nor raise")
        if in_flight is not None and not 1 <= in_flight <= MAP_IN_FLIGHT_MAX:
            raise ConfigError(f"in_flight must be from 1 to {MAP_IN_FLIGHT_MAX}, not {in_flight!r}")
        request = RunRequest(
            model,
            tier=tier,
            max_price=max_price,
            provider=provider,
            timeout_s=timeout_s,
            min_reliability=min_reliability,
            prefer=prefer,
            hedge=hedge,
            quorum=quorum,
        )
        self._order(request, payload_of({}, None, ()))  # wrong limits are no item's fault
        window = MapWindow(in_flight or MAP_IN_FLIGHT_MAX, adapts=in_flight is None)
        runner = _Runner(self, request, tuple(outputs), window)
        work = Work(inputs, runner.run_one, runner.window, progress=progress, raises=on_error == "raise")
        return Spread(self._parts.nursery, work)


class _Runner:
    """Runs the items of one map."""

    def __init__(self, node: NodeMap, request: RunRequest, outputs: tuple[str, ...], window: MapWindow) -> None:
        self._node = node
        self._request = request
        self._outputs = outputs
        self._window = window
        self._model = request.model
        """Once a job is done: its id, whatever the model was called."""

    def window(self) -> int:
        providers = self._node._parts.buyer.providers(self._model)
        return self._window.size(providers, providers * JOBS_PER_PEER_MAX)

    async def run_one(self, index: int, given: Input) -> MapItem:
        from cocoon_p2p.execution.arrays import to_arrays

        try:
            texts = [given] if isinstance(given, str) else None if isinstance(given, Mapping) else list(given)
            payload = payload_of(given if isinstance(given, Mapping) else None, texts, self._outputs)
            result = await self._patiently(payload)
            self._model = result.model_id
            return MapItem(
                index,
                to_arrays(result.payload),
                provider=result.provider,
                price=result.paid_nanogram,
                texts_cut=result.texts_cut,
            )
        except PayloadError as error:
            return MapItem(index, None, ConfigError(f"input {index}: {error}", code="INPUT"))
        except CocoonError as error:
            return MapItem(index, None, error)

    async def _patiently(self, payload: Payload) -> RunResult:
        """Busy providers are asked again, as long as the item has time."""
        clock, request = self._node._parts.clock, self._request
        timeout_s = self._node._parts.config.client.timeout_s if request.timeout_s is None else request.timeout_s
        deadline = clock.now() + timeout_s
        while True:
            left = replace(request, timeout_s=max(deadline - clock.now(), 0.001))
            try:
                result = await self._node.run_payload(left, payload)
            except PeerRefused as error:
                wait_s = min(max((error.needed or 0) / 1000, BUSY_WAIT_MIN_S), BUSY_WAIT_MAX_S)
                if error.reason is not RefusalReason.BUSY or clock.now() + wait_s >= deadline:
                    raise
                self._window.busy()
                await trio.sleep(wait_s)
            else:
                self._window.done()
                return result
