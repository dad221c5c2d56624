"""Sessions: calls of a recurrent model, one after the other, whose state stays at one provider or travels. Part of `Node`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import SESSION_ID_BYTES
from cocoon_p2p.models.check import check_inputs
from cocoon_p2p.models.manifest import Manifest
from cocoon_p2p.models.session_call import SESSION_INPUT, STEP_INPUT, first_state
from cocoon_p2p.node_jobs import NodeJobs, RunRequest, RunResult, payload_of
from cocoon_p2p.policy.preference import Preference
from cocoon_p2p.tensors import Payload, Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["NodeSession", "Session"]

STAY, TRAVEL = KEEPS = ("stay", "travel")


class Session:
    """Calls of one model, each of which goes on where the one before ended. Made by `node.session`."""

    def __init__(self, node: NodeSession, request: RunRequest, manifest: Manifest, keep: str) -> None:
        self._node = node
        self._request = request
        self._manifest = manifest
        self._travels = keep == TRAVEL
        self._id = secrets.token_bytes(SESSION_ID_BYTES)
        self._state: tuple[Tensor, ...] = ()
        self._turn = trio.StrictFIFOLock()
        self._over = False
        self.calls = 0
        """That were done."""
        self.price_nanogram = 0
        """Of all calls together."""

    @property
    def provider(self) -> str | None:
        """Where the state is, once a call was done; None where it travels."""
        return None if self._travels else self._request.provider

    async def run(self, inputs: Mapping[str, Any], *, outputs: Sequence[str] = ()) -> dict[str, NDArray[np.generic]]:
        """The next call: its outputs by name, but for the state, unless `outputs` names that. The first call may bring the
        state to begin with; else it begins with zeros. A call that failed changed nothing, or, where only its answer got lost, is
        not done twice: just make it again. Raises as `node.run`; ExecutionError(code="SESSION"): the provider does not have the
        state any more, so a new session has to begin. ConfigError: the session's `async with` has ended."""
        from cocoon_p2p.execution.arrays import to_arrays

        return to_arrays((await self.run_payload(payload_of(inputs, None, outputs))).payload)

    async def run_payload(self, payload: Payload) -> RunResult:
        """The same for a payload as it travels, with everything that is known of the job."""
        async with self._turn:
            if self._over:
                raise ConfigError("this session is over", hint="call it within `async with node.session(…)`")
            result = await (self._run_travelling(payload) if self._travels else self._run_staying(payload))
            self.calls += 1
            self.price_nanogram += result.price_nanogram
            return result

    async def _run_staying(self, payload: Payload) -> RunResult:
        result = await self._node.buy_call(self._request, self._as_call(payload, self.calls))
        self._request = replace(self._request, provider=result.provider)
        return result

    async def _run_travelling(self, payload: Payload) -> RunResult:
        names = {into for into, _ in self._manifest.state}
        given = tuple(tensor for tensor in payload.tensors if tensor.name in names)
        state = (
            given or self._state or first_state(self._manifest, check_inputs(self._manifest, self._as_call(payload, 0)))
        )
        rest = tuple(tensor for tensor in payload.tensors if tensor.name not in names)
        carried = {out for _, out in self._manifest.state}
        wanted = payload.wanted or tuple(spec.name for spec in self._manifest.outputs if spec.name not in carried)
        asked = Payload((*rest, *state), tuple(dict.fromkeys((*wanted, *(out for _, out in self._manifest.state)))))
        result = await self._node.run_payload(self._request, asked)
        found = {tensor.name: tensor for tensor in result.payload.tensors}
        if not self._over:
            self._state = tuple(_renamed(found[out], into) for into, out in self._manifest.state)
        return replace(result, payload=Payload(tuple(found[name] for name in wanted)))

    def end(self) -> None:
        """No call is begun any more, and the state is let go of."""
        self._over = True
        self._state = ()

    def _as_call(self, payload: Payload, step: int) -> Payload:
        """With the two tensors that make it one of this session."""
        session = Tensor(SESSION_INPUT, "uint8", (SESSION_ID_BYTES,), self._id)
        number = Tensor(STEP_INPUT, "uint64", (), step.to_bytes(8, "little"))
        return Payload((*payload.tensors, session, number), payload.wanted)


class NodeSession(NodeJobs):
    """The part of `Node` for models with state."""

    @asynccontextmanager
    async def session(
        self,
        model: str,
        *,
        keep: str = STAY,
        max_price: int | None = None,
        tier: str | None = None,
        provider: str | None = None,
        timeout_s: float | None = None,
        min_reliability: float | None = None,
        prefer: str | Preference | None = None,
    ) -> AsyncIterator[Session]:
        """Calls of a recurrent model that belong together.

        `keep` "stay": the state stays at the provider that does the first call, and so do all calls; if it goes away or forgets the
        state, the session is over (ExecutionError, code SESSION). "travel": the state comes back with each answer and goes out with
        the next call, to whichever provider is best then: nothing is lost with any of them, and every call carries the state twice.
        The rest is as for `run`; `max_price` is for each call. Raises ConfigError (a model without state), CocoonError(NO_MODEL).
        """
        if keep not in KEEPS:
            raise ConfigError(f"keep must be one of {', '.join(KEEPS)}, not {keep!r}")
        request = RunRequest(
            model,
            tier=tier,
            max_price=max_price,
            provider=provider,
            timeout_s=timeout_s,
            min_reliability=min_reliability,
            prefer=prefer,
        )
        buyer = self._parts.buyer
        found = await buyer.resolve(buyer.begin(self._order(request, Payload(()))))
        if not found.manifest.state:
            raise ConfigError(f"{model} has no state: each call of it stands for itself", hint="node.run(…)")
        session = Session(self, replace(request, model=found.model_id), found.manifest, keep)
        try:
            yield session
        finally:
            session.end()

    async def buy_call(self, request: RunRequest, payload: Payload) -> RunResult:
        """A call whose state stays: not to be repeated elsewhere for comparison, where the state is not."""
        return self._result(await self._parts.buyer.buy(self._order(request, payload)))


def _renamed(tensor: Tensor, name: str) -> Tensor:
    return Tensor(name, tensor.dtype, tensor.shape, tensor.data)
