"""Does a payload fit a model? Needs only the manifest, so a client can ask before it pays, and no worker is bothered."""

from __future__ import annotations

from dataclasses import replace

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.models.manifest import DYNAMIC, GENERATION, Manifest, TensorSpec, shape_text
from cocoon_p2p.models.session_call import SessionCall, first_state, session_call
from cocoon_p2p.tensors import STRING, TEXT_INPUT, Payload, Tensor

_NAMES_SHOWN = 8
_REQUEST_INPUT = "generate"
"""The tensor of a request to generate text (job/1 §10)."""


def takes_text(manifest: Manifest, payload: Payload) -> bool:
    """Whether this job goes through the model's text front end."""
    return manifest.text is not None and any(tensor.name == TEXT_INPUT for tensor in payload.tensors)


def check_inputs(manifest: Manifest, payload: Payload) -> int:
    """The number of items of the job (job/1 §5): strings of a text job; 1, the least, of a request to generate text, whose tokens
    only a tokenizer counts; else the leading dimension of the model's first input that is not state, if it is dynamic, else 1.
    Raises ExecutionError(code="INPUT") that says what the model wants."""
    if manifest.kind == GENERATION:
        return _check_request(payload)
    if takes_text(manifest, payload):
        return _check_text(manifest, payload)
    call = session_call(manifest, payload)
    if call is not None:
        return _check_session(manifest, call)
    given = {tensor.name: tensor for tensor in payload.tensors}
    if set(given) == {TEXT_INPUT} and TEXT_INPUT not in [spec.name for spec in manifest.inputs]:
        raise _wrong(f"the model takes no texts; {wants(manifest)}")
    for spec in manifest.inputs:
        if spec.name not in given:
            raise _wrong(f"input {spec.name!r} is missing: it must be {spec}{_or_text(manifest)}")
        if not _fits(spec, given[spec.name]):
            raise _wrong(f"input {spec.name!r} must be {spec}, got {_described(given[spec.name])}")
    unknown = sorted(set(given) - {spec.name for spec in manifest.inputs})
    if unknown:
        raise _wrong(f"the model has no input {unknown[0]!r}; {wants(manifest)}")
    _check_wanted(payload, [spec.name for spec in manifest.outputs])
    state = {into for into, _ in manifest.state}
    first = next((spec for spec in manifest.inputs if spec.name not in state), None)
    return given[first.name].shape[0] if first is not None and first.leading_dynamic else 1


def output_names(manifest: Manifest, payload: Payload) -> tuple[str, ...]:
    """The outputs that a job gets, in its own order if it named them, else all in the manifest's."""
    if payload.wanted:
        return payload.wanted
    if manifest.text is not None and takes_text(manifest, payload):
        return manifest.text.outputs
    return tuple(spec.name for spec in manifest.outputs)


def wants(manifest: Manifest) -> str:
    """What a model takes, in one phrase: "it takes 'x' float32[batch,3], 'y' int64[]"."""
    specs = [f"{spec.name!r} {spec}" for spec in manifest.inputs[:_NAMES_SHOWN]]
    return f"it takes {', '.join(specs) or 'no inputs'}{_or_text(manifest)}"


def _check_text(manifest: Manifest, payload: Payload) -> int:
    assert manifest.text is not None
    others = sorted(tensor.name for tensor in payload.tensors if tensor.name != TEXT_INPUT)
    if others:
        raise _wrong(f"{TEXT_INPUT!r} takes the place of all other inputs: leave out {others[0]!r}")
    (text,) = payload.tensors
    if text.dtype != STRING or len(text.shape) != 1:
        raise _wrong(f"input {TEXT_INPUT!r} must be string[batch], got {_described(text)}")
    _check_wanted(payload, list(manifest.text.outputs))
    return text.shape[0]


def _check_request(payload: Payload) -> int:
    names = [tensor.name for tensor in payload.tensors]
    if names != [_REQUEST_INPUT] or (payload.tensors[0].dtype, payload.tensors[0].shape) != (STRING, (1,)):
        raise ExecutionError(
            "the model generates text: it takes a request, not tensors",
            code="INPUT",
            hint='cocoon-node generate MODEL "…", or node.generate(model, prompt)',
        )
    return 1


def _check_session(manifest: Manifest, call: SessionCall) -> int:
    """As for a job that brings the state along, or, where it has none to bring, for the model without that."""
    if call.brings_state:
        return check_inputs(manifest, Payload(call.inputs, call.wanted))
    state = {into for into, _ in manifest.state}
    rest = replace(manifest, inputs=tuple(spec for spec in manifest.inputs if spec.name not in state), state=())
    items = check_inputs(rest, Payload(call.inputs, call.wanted))
    if call.step == 0:
        first_state(manifest, items)
    return items


def _check_wanted(payload: Payload, outputs: list[str]) -> None:
    for name in payload.wanted:
        if name not in outputs:
            shown = ", ".join(map(repr, outputs[:_NAMES_SHOWN]))
            raise _wrong(f"there is no output {name!r}; this job can give {shown}")
    if len(set(payload.wanted)) != len(payload.wanted):
        raise _wrong("an output is wanted twice")


def _fits(spec: TensorSpec, tensor: Tensor) -> bool:
    if spec.dtype != tensor.dtype:
        return False
    if spec.shape is None:
        return True
    return len(spec.shape) == len(tensor.shape) and all(
        want in (DYNAMIC, got) for want, got in zip(spec.shape, tensor.shape, strict=True)
    )


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype}{shape_text(tensor.shape)}"


def _or_text(manifest: Manifest) -> str:
    return f"; or {TEXT_INPUT!r} string[batch] instead of all inputs" if manifest.text is not None else ""


def _wrong(message: str) -> ExecutionError:
    return ExecutionError(message, code="INPUT")
