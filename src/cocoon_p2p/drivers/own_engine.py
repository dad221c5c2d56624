"""Runs a model that is installed here for this node itself: what a canary job's answer must be, and whether evidence is
right."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from cocoon_p2p.drivers.comparing import compare
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.execution.jail import support
from cocoon_p2p.execution.port import Engine
from cocoon_p2p.ids import ModelId
from cocoon_p2p.models.allow_list import AllowList
from cocoon_p2p.models.check import check_inputs
from cocoon_p2p.models.manifest import Manifest
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry
from cocoon_p2p.policy.agreement import Precision, tolerance
from cocoon_p2p.tensors import Payload, decode_payload, payload_bytes, write_payload

EngineOpener = Callable[[], AbstractAsyncContextManager[Engine]]


class OwnEngine:
    """`serving` is the engine of a node that serves; for models that it has not loaded, `open_engine` gives one that lives
    as long as the run."""

    def __init__(
        self,
        registry: ModelRegistry,
        serving: Engine | None,
        open_engine: EngineOpener,
        allow_list: AllowList | None = None,
    ) -> None:
        """Without an `allow_list`, models that came from peers are run only where they can be jailed."""
        self._registry = registry
        self._serving = serving
        self._open_engine = open_engine
        self._allow_list = AllowList(no_jail=support().reason) if allow_list is None else allow_list

    def manifest(self, model_id: ModelId) -> Manifest | None:
        """Of a model that is installed here."""
        with suppress(CocoonError):
            return self._registry.get(model_id).manifest
        return None

    async def run(self, model_id: ModelId, payload: Payload) -> Payload:
        """The model's answer: it is run twice, since there are models that roll dice, whose answers prove nothing. Raises
        CocoonError: NO_MODEL, RANDOM (two runs gave two answers), ConfigError (the device), ExecutionError."""
        return (await self.timed_run(model_id, payload))[0]

    async def timed_run(self, model_id: ModelId, payload: Payload) -> tuple[Payload, float]:
        """The same, and the seconds of work for one item, as the engine measures them. Raises as `run`."""
        model = self._registry.get(model_id)
        bound = tolerance(Precision(model.manifest.precision))
        async with self._engine_for(model) as engine:
            answer, _ = await _run_once(engine, model, payload)
            again, item_s = await _run_once(engine, model, payload)  # warm: the first one's time says little
        if not (await compare(answer, again, bound.quantised)).within(bound.bound):
            raise CocoonError(
                f"model {model.name} answers the same input differently from run to run: no answer is the right one",
                code="RANDOM",
                hint="its answers cannot be checked by comparing them",
            )
        return answer, item_s

    @asynccontextmanager
    async def _engine_for(self, model: InstalledModel) -> AsyncIterator[Engine]:
        serving = self._serving
        if serving is not None and any(s.loaded and s.model_id == model.model_id for s in serving.models()):
            yield serving
            return
        self._allow_list.check(model)
        async with self._open_engine() as engine:
            await engine.load(model.model_id, model.folder)
            yield engine


async def _run_once(engine: Engine, model: InstalledModel, payload: Payload) -> tuple[Payload, float]:
    items = max(1, check_inputs(model.manifest, payload))
    buffer = engine.input_buffer(payload_bytes(payload))
    write_payload(payload, buffer.view)
    with await engine.run(model.model_id, buffer, items_max=items) as result:
        return decode_payload(bytes(result.payload)), result.execute_s / max(1, result.items)
