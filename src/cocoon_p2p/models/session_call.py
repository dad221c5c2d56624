"""Calls of one session: a recurrent model's state stays at the provider from one call to the next (job/1 §4.4). Pure; needs
only the manifest, so a client can ask before it pays."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.limits import SESSION_ID_BYTES
from cocoon_p2p.models.manifest import DYNAMIC, Manifest, TensorSpec
from cocoon_p2p.tensors import DTYPES, STRING, Payload, Tensor

SESSION_INPUT, STEP_INPUT = "session", "session_step"
"""uint8[16]: the id that the client drew; uint64[]: how many calls of this session were before."""


@dataclass(frozen=True, slots=True)
class SessionCall:
    """One call, read."""

    session: bytes
    step: int
    inputs: tuple[Tensor, ...]
    """All but the two tensors that make it one of a session."""
    brings_state: bool
    """All of the model's state is among `inputs`; else none of it."""
    wanted: tuple[str, ...]


def session_call(manifest: Manifest, payload: Payload) -> SessionCall | None:
    """None for a job that is none of a session. Raises ExecutionError(code="INPUT")."""
    # SPEC job/1 §4.4
    given = {tensor.name: tensor for tensor in payload.tensors}
    session, step = given.pop(SESSION_INPUT, None), given.pop(STEP_INPUT, None)
    if session is None or any(spec.name == SESSION_INPUT for spec in manifest.inputs):
        return None
    if not manifest.state:
        raise _wrong(f"this model has no state to keep: leave out {SESSION_INPUT!r}")
    if (session.dtype, session.shape) != ("uint8", (SESSION_ID_BYTES,)):
        raise _wrong(f"{SESSION_INPUT!r} must be uint8[{SESSION_ID_BYTES}]")
    if step is None or step.dtype != "uint64" or prod(step.shape) != 1:
        raise _wrong(f"{STEP_INPUT!r} must be one uint64: how many calls of this session were before")
    names = [into for into, _ in manifest.state]
    brought = [name for name in names if name in given]
    if brought and len(brought) < len(names):
        missing = next(name for name in names if name not in given)
        raise _wrong(f"give all of the state, or none: {missing!r} is missing")
    number = int.from_bytes(memoryview(step.data).cast("B"), "little")
    return SessionCall(bytes(session.data), number, tuple(given.values()), bool(brought), payload.wanted)


def first_state(manifest: Manifest, items: int) -> tuple[Tensor, ...]:
    """Zeros, with which a session begins whose client gives no state; a dynamic dimension is the number of items. Raises
    ExecutionError(code="INPUT") where that does not say how large it is."""
    specs = {spec.name: spec for spec in manifest.inputs}
    return tuple(_zeros(specs[into], items) for into, _ in manifest.state)


def returned_outputs(manifest: Manifest, call: SessionCall) -> tuple[str, ...]:
    """The outputs that go back: those wanted, else all but the state."""
    state = {out for _, out in manifest.state}
    return call.wanted or tuple(spec.name for spec in manifest.outputs if spec.name not in state)


def _zeros(spec: TensorSpec, items: int) -> Tensor:
    assert spec.shape is not None
    if spec.shape.count(DYNAMIC) > 1:
        raise _wrong(f"how large {spec.name!r} {spec} is at the beginning only the client can say: give the state")
    shape = tuple(items if dim == DYNAMIC else dim for dim in spec.shape)
    element = 4 if spec.dtype == STRING else DTYPES[spec.dtype][1]  # an empty text has a length of 0 in four bytes
    return Tensor(spec.name, spec.dtype, shape, bytes(prod(shape) * element))


def _wrong(message: str) -> ExecutionError:
    return ExecutionError(message, code="INPUT")
