"""Does a payload fit a model? Needs only the manifest, so a client can ask before it pays, and no worker is bothered."""

from __future__ import annotations

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.models.manifest import DYNAMIC, Manifest, TensorSpec, shape_text
from cocoon_p2p.tensors import STRING, TEXT_INPUT, Payload, Tensor

_NAMES_SHOWN = 8


def takes_text(manifest: Manifest, payload: Payload) -> bool:
    """Whether this job goes through the model's text front end."""
    return manifest.text is not None and any(tensor.name == TEXT_INPUT for tensor in payload.tensors)


def check_inputs(manifest: Manifest, payload: Payload) -> int:
    """The number of items of the job (job/1 §5): strings of a text job; else the leading dimension of the model's first
    input if it is dynamic, else 1. Raises ExecutionError(code="INPUT") that says what the model wants."""
    if takes_text(manifest, payload):
        return _check_text(manifest, payload)
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
    if manifest.inputs and manifest.inputs[0].leading_dynamic:
        return given[manifest.inputs[0].name].shape[0]
    return 1


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
