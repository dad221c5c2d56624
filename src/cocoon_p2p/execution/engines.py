"""All that a node runs models with, as one `Engine`: its own engine, clusters of its operator's, and the sessions whose state
stays here. Which one a model goes to follows from its id."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cocoon_p2p.errors import CocoonError, ExecutionError
from cocoon_p2p.execution.engine_jobs import EngineResult
from cocoon_p2p.execution.port import Engine, ExecutionResult, InputBuffer, ModelStatus, TokenStream
from cocoon_p2p.execution.session_states import SessionBounds, SessionStates, SessionTurn, State
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.models.check import check_inputs
from cocoon_p2p.models.layout import ModelDamaged, read_manifest
from cocoon_p2p.models.manifest import Manifest
from cocoon_p2p.models.session_call import SessionCall, first_state, returned_outputs, session_call
from cocoon_p2p.tensors import Payload, PayloadError, Tensor, decode_payload, payload_bytes, write_payload

if TYPE_CHECKING:  # httpx takes a moment to import, and few nodes have a cluster
    from cocoon_p2p.execution.upstream.engine import UpstreamEngine
    from cocoon_p2p.execution.upstream.settings import UpstreamSettings


@asynccontextmanager
async def open_engine_set(
    own: Engine, upstream: UpstreamEngine | None, bounds: SessionBounds
) -> AsyncIterator[EngineSet]:
    """Over engines that whoever opened them closes."""
    raised: CocoonError | None = None
    async with trio.open_nursery() as nursery:
        engines = EngineSet(own, upstream, SessionStates(bounds))
        nursery.start_soon(engines.sessions.expire)
        try:
            yield engines
        except CocoonError as error:
            raised = error  # leaves this block as it is, not in a group
        finally:
            nursery.cancel_scope.cancel()
            engines.sessions.close()
    if raised is not None:
        raise raised


class EngineSet:
    """Implements `Engine`; made by `open_engine_set`."""

    def __init__(self, own: Engine, upstream: UpstreamEngine | None, sessions: SessionStates) -> None:
        self.own = own
        self._upstream = upstream
        self.sessions = sessions
        self._stateful: dict[ModelId, Manifest] = {}

    async def add_upstream(self, settings: UpstreamSettings) -> Manifest:
        """Ask a cluster what it serves; afterwards its model can be loaded. Raises ConfigError, ExecutionError."""
        assert self._upstream is not None
        return await self._upstream.add(settings)

    def upstream_complaint(self, name: str) -> str:
        """What the operator was told last of the cluster of this name; "" when nothing was."""
        return "" if self._upstream is None else self._upstream.complaint(name)

    async def load(self, model_id: ModelId, folder: Path, *, keep: bool | None = None) -> ModelStatus:
        engine = self._engine_of(model_id)
        status = await engine.load(model_id, folder, keep=keep)
        if engine is self.own:
            try:
                manifest = read_manifest(folder, model_id)  # a small file, which the engine has just read
            except ModelDamaged as error:
                raise ExecutionError(error.message, code="MODEL", hint=error.hint) from error
            if manifest.state:
                self._stateful[model_id] = manifest
        return status

    async def unload(self, model_id: ModelId) -> None:
        """Its sessions end with it."""
        await self._engine_of(model_id).unload(model_id)
        self._stateful.pop(model_id, None)
        self.sessions.drop_model(model_id)

    def models(self) -> tuple[ModelStatus, ...]:
        return self.own.models() + (() if self._upstream is None else self._upstream.models())

    def input_buffer(self, payload_bytes: int) -> InputBuffer:
        return self.own.input_buffer(payload_bytes)

    async def run(
        self, model_id: ModelId, payload: InputBuffer, *, items_max: int, client: PeerId | None = None
    ) -> ExecutionResult:
        engine = self._engine_of(model_id)
        manifest = self._stateful.get(model_id)
        try:
            found = None if manifest is None else _session_call(manifest, payload)
        except ExecutionError:
            payload.release()
            raise
        if manifest is None or found is None:
            return await engine.run(model_id, payload, items_max=items_max, client=client)
        call, items = found
        try:
            if items > items_max:
                raise ExecutionError(f"the input has {items} items; {items_max} were agreed", code="ITEMS")
            return await self._run_call(model_id, manifest, call, items, client)
        finally:
            payload.release()

    async def generate(
        self,
        model_id: ModelId,
        payload: InputBuffer,
        *,
        items_max: int,
        items_allowed: int,
        client: PeerId | None = None,
    ) -> TokenStream:
        engine = self._engine_of(model_id)
        return await engine.generate(model_id, payload, items_max=items_max, items_allowed=items_allowed, client=client)

    def _engine_of(self, model_id: ModelId) -> Engine:
        return self._upstream if self._upstream is not None and self._upstream.knows(model_id) else self.own

    # --- a call of a session ---

    async def _run_call(
        self, model_id: ModelId, manifest: Manifest, call: SessionCall, items: int, client: PeerId | None
    ) -> EngineResult:
        """As a job that brings the state along and takes the new one back: nothing else in here knows of sessions."""
        if not self.sessions.enabled:
            raise ExecutionError(
                "this provider keeps no sessions", code="SESSION", hint="let the state travel with each call"
            )
        asked = trio.current_time()
        async with self.sessions.turn((client, model_id, call.session)) as turn:
            waited_s = trio.current_time() - asked
            used, state = _state_for(turn, manifest, call, items)
            buffer = self._whole_job(manifest, call, state)
            result = await self.own.run(model_id, buffer, items_max=items, client=client)
            with result:
                outputs = {tensor.name: tensor for tensor in decode_payload(result.payload).tensors}
                turn.keep(call.step, used, [_renamed(outputs[out], into) for into, out in manifest.state])
                answer = Payload(tuple(outputs[name] for name in returned_outputs(manifest, call)))
                encoded = memoryview(bytearray(payload_bytes(answer)))
                write_payload(answer, encoded)
                return EngineResult(encoded, result.items, waited_s + result.queue_s, result.execute_s, None)

    def _whole_job(self, manifest: Manifest, call: SessionCall, state: State) -> InputBuffer:
        """Raises ExecutionError(code="LIMITS")."""
        given = {tensor.name: tensor for tensor in (*state, *call.inputs)}
        tensors = tuple(given[spec.name] for spec in manifest.inputs)
        wanted = dict.fromkeys((*returned_outputs(manifest, call), *(out for _, out in manifest.state)))
        whole = Payload(tensors, tuple(wanted))
        buffer = self.own.input_buffer(payload_bytes(whole))
        write_payload(whole, buffer.view)
        return buffer


def _session_call(manifest: Manifest, payload: InputBuffer) -> tuple[SessionCall, int] | None:
    """The call and its items. None for what is no call of a session, or no payload at all. Raises ExecutionError(code="INPUT")."""
    try:
        decoded = decode_payload(payload.view)
    except PayloadError:
        return None  # the engine says so
    call = session_call(manifest, decoded)
    return None if call is None else (call, check_inputs(manifest, decoded))


def _state_for(turn: SessionTurn, manifest: Manifest, call: SessionCall, items: int) -> tuple[State, State]:
    """What the call was given to go on with (none: nothing), and the state tensors themselves. Raises
    ExecutionError(code="SESSION")."""
    names = {into for into, _ in manifest.state}
    if call.brings_state:
        return tuple(tensor for tensor in call.inputs if tensor.name in names), ()
    if call.step == 0:
        return (), first_state(manifest, items)
    kept = turn.state_for(call.step)
    return kept, kept


def _renamed(tensor: Tensor, name: str) -> Tensor:
    return Tensor(name, tensor.dtype, tensor.shape, tensor.data)
