"""A model behind the Open Inference Protocol, version 2, over HTTP: what Triton, KServe, OpenVINO and others speak.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol; the binary tensor extension is
Triton's (docs/protocol/extension_binary_data.md), used where the server says that it has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, TypeGuard
from urllib.parse import quote

from cocoon_p2p.errors import ConfigError, ExecutionError
from cocoon_p2p.execution.upstream.datatypes import BINARY_ONLY, DATATYPES, NAMES, from_json_data, to_json_data
from cocoon_p2p.execution.upstream.http import Answer, UpstreamHttp, as_json
from cocoon_p2p.execution.upstream.settings import UpstreamSettings
from cocoon_p2p.limits import (
    PAYLOAD_RANK_MAX,
    PAYLOAD_TENSORS_MAX,
    UPSTREAM_HEAD_BYTES_MAX,
    UPSTREAM_JSON_BYTES_MAX,
)
from cocoon_p2p.models.manifest import DYNAMIC, Manifest, TensorSpec
from cocoon_p2p.tensors import DTYPES, STRING, Payload, Tensor, unpack_strings

_HEAD_LENGTH = "inference-header-content-length"
_BINARY_EXTENSION = "binary_tensor_data"


class OpenInference:
    """One model of one server. Raises ExecutionError where nothing else is said."""

    def __init__(self, settings: UpstreamSettings, http: UpstreamHttp, output_bytes_max: int) -> None:
        self._settings = settings
        self._http = http
        self._output_bytes_max = output_bytes_max
        self._path = f"/v2/models/{quote(settings.model, safe='')}"
        self._binary = False

    async def signature(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """The model's inputs and outputs, as the server tells them. Raises also ConfigError for what cannot be served."""
        server = await self._http.get("/v2", bytes_max=UPSTREAM_HEAD_BYTES_MAX)
        model = await self._http.get(self._path, bytes_max=UPSTREAM_HEAD_BYTES_MAX)
        if not isinstance(server, dict) or not isinstance(model, dict):
            raise self._http.nonsense("it does not say what it serves: is it an Open Inference endpoint?")
        extensions = server.get("extensions")
        self._binary = isinstance(extensions, list) and _BINARY_EXTENSION in extensions
        inputs, outputs = self._specs(model.get("inputs")), self._specs(model.get("outputs"))
        for spec in (*inputs, *outputs):
            if spec.dtype in BINARY_ONLY and not self._binary:
                raise ConfigError(
                    f"upstream {self._settings.name}: tensor {spec.name!r} is {spec.dtype}, which travels in binary only",
                    hint="the server must have the extension binary_tensor_data",
                )
        return inputs, outputs

    async def infer(self, manifest: Manifest, payload: Payload, wanted: Sequence[str]) -> Payload:
        """Run one job, whose payload fits the manifest."""
        specs = {spec.name: spec for spec in manifest.outputs}
        content, headers = self._request(payload, wanted)
        async with self._http.open("POST", f"{self._path}/infer", content, headers) as answer:
            tree, binary = await self._read(answer)
        found = {tensor.name: tensor for tensor in self._outputs(tree, binary, specs)}
        if not set(wanted) <= set(found):
            raise self._http.nonsense("an output is missing in its answer")
        return Payload(tuple(found[name] for name in wanted))

    def _specs(self, tree: Any) -> tuple[TensorSpec, ...]:
        if not isinstance(tree, list) or len(tree) > PAYLOAD_TENSORS_MAX:
            raise self._http.nonsense("it does not say what the model takes and gives")
        specs = []
        for entry in tree:
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                raise self._http.nonsense("it does not say what the model takes and gives")
            name, datatype, shape = entry["name"], entry.get("datatype"), entry.get("shape")
            if datatype not in DATATYPES or not _is_shape(shape, DYNAMIC):
                raise self._http.nonsense("a tensor of the model has a type or shape that is not known here")
            specs.append(TensorSpec(name, DATATYPES[datatype], tuple(shape)))
        return tuple(specs)

    # --- asking ---

    def _request(self, payload: Payload, wanted: Sequence[str]) -> tuple[bytes, dict[str, str]]:
        binary = {"binary_data": True} if self._binary else {}
        outputs = [{"name": name} | ({"parameters": binary} if binary else {}) for name in wanted]
        inputs, pieces = [], []
        for tensor in payload.tensors:
            entry: dict[str, Any] = {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "datatype": NAMES[tensor.dtype],
            }
            if self._binary:
                data = memoryview(tensor.data).cast("B")
                if tensor.dtype == STRING:
                    unpack_strings(tensor)  # what is malformed is refused here
                entry["parameters"] = {"binary_data_size": len(data)}
                pieces.append(data)
            else:
                entry["data"] = to_json_data(tensor)
            inputs.append(entry)
        head = as_json({"inputs": inputs, "outputs": outputs})
        if not self._binary and len(head) > UPSTREAM_JSON_BYTES_MAX:
            raise ExecutionError(
                f"this provider's cluster takes tensors in JSON alone, at most {UPSTREAM_JSON_BYTES_MAX} bytes of it",
                code="LIMITS",
                retryable=True,
            )
        if not self._binary:
            return head, {}
        headers = {_HEAD_LENGTH: str(len(head)), "content-type": "application/octet-stream"}
        return b"".join((head, *pieces)), headers

    # --- the answer ---

    async def _read(self, answer: Answer) -> tuple[Any, memoryview]:
        """Its JSON, and the binary data behind it."""
        head_length = answer.header(_HEAD_LENGTH)
        if head_length is None:
            return await answer.json(UPSTREAM_JSON_BYTES_MAX), memoryview(b"")
        body = memoryview(await answer.body(self._output_bytes_max + UPSTREAM_HEAD_BYTES_MAX))
        if not head_length.isdecimal() or not int(head_length) <= min(len(body), UPSTREAM_HEAD_BYTES_MAX):
            raise self._http.nonsense("its answer is shorter than its own head")
        length = int(head_length)
        return answer.parse(body[:length]), body[length:]

    def _outputs(self, tree: Any, binary: memoryview, specs: dict[str, TensorSpec]) -> list[Tensor]:
        entries = tree.get("outputs") if isinstance(tree, dict) else None
        if not isinstance(entries, list) or len(entries) > PAYLOAD_TENSORS_MAX:
            raise self._http.nonsense("its answer has no outputs")
        tensors = []
        try:
            for entry in entries:
                tensor, binary = _output(entry, binary, specs)
                tensors.append(tensor)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise self._http.nonsense(f"an output is not what its signature says ({type(error).__name__})") from None
        return tensors


def _output(entry: dict[str, Any], binary: memoryview, specs: dict[str, TensorSpec]) -> tuple[Tensor, memoryview]:
    """An output, and the binary data behind it. Raises ValueError, TypeError, LookupError, AttributeError."""
    spec, shape = specs[entry["name"]], entry["shape"]
    if DATATYPES[entry["datatype"]] != spec.dtype or not _is_shape(shape, 0) or not _fits(spec, shape):
        raise ValueError("another type or shape")
    size = entry.get("parameters", {}).get("binary_data_size")
    if size is None:
        return from_json_data(spec.name, spec.dtype, tuple(shape), entry["data"]), binary
    if type(size) is not int or not 0 <= size <= len(binary):
        raise ValueError("more binary data than there is")
    tensor = Tensor(spec.name, spec.dtype, tuple(shape), binary[:size])
    if spec.dtype == STRING:
        unpack_strings(tensor)
    elif prod(shape) * DTYPES[spec.dtype][1] != size:
        raise ValueError("binary data of another size")
    return tensor, binary[size:]


def _is_shape(shape: Any, least: int) -> TypeGuard[list[int]]:
    return (
        isinstance(shape, list)
        and len(shape) <= PAYLOAD_RANK_MAX
        and all(type(dim) is int and least <= dim <= 2**40 for dim in shape)
    )


def _fits(spec: TensorSpec, shape: Sequence[int]) -> bool:
    if spec.shape is None:
        return True
    return len(spec.shape) == len(shape) and all(
        want in (DYNAMIC, got) for want, got in zip(spec.shape, shape, strict=True)
    )
