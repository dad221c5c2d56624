"""A model in ONNX Runtime, in a worker process: tensors in, tensors out, the types that numpy lacks included."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cocoon_p2p.execution.arrays import BITS, to_array, to_tensor
from cocoon_p2p.execution.environment import ENVIRONMENT
from cocoon_p2p.models.manifest import Manifest
from cocoon_p2p.tensors import DTYPES, STRING, Tensor

os.environ.update(ENVIRONMENT)  # before the next line, wherever this module is imported
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as _state

ort.disable_telemetry_events()
ort.set_default_logger_severity(4)

RUN_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
    TypeError,
    MemoryError,
)
"""What a load or run may raise."""
_MEMORY_SIGNS = ("bad_alloc", "bad allocation", "Failed to allocate memory", "out of memory", "CUDA failure 2")
_FOUR_BITS = ("int4", "uint4")
_COUNT_DEVICES = frozenset(
    {"CUDAExecutionProvider", "TensorrtExecutionProvider", "MIGraphXExecutionProvider", "DmlExecutionProvider"}
)
"""Execution providers that take the number of a device."""
_DTYPE_OF_ORT = {f"tensor({name})": name for name in DTYPES} | {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(Int4x2)": "int4",
    "tensor(UInt4x2)": "uint4",
}

Values = dict[str, Any]
"""numpy arrays by name; for types of `BITS`, arrays of their bits."""


class OnnxModel:
    """Raises one of RUN_ERRORS, in `__init__` and in `run`."""

    def __init__(self, folder: Path, manifest: Manifest, *, provider: str, device: int = 0, threads: int) -> None:
        """`device`: which of the provider's devices."""
        self.manifest = manifest
        self._session = ort.InferenceSession(
            str(folder / manifest.main), _options(threads), providers=_providers(provider, device)
        )
        self._session.disable_fallback()
        specs = (*manifest.inputs, *manifest.outputs)
        self.dtypes = {spec.name: spec.dtype for spec in specs}
        self._exotic = any(spec.dtype in BITS for spec in specs)
        if self._exotic and any(spec.dtype == STRING for spec in specs):
            raise ValueError("strings cannot stand beside types that numpy lacks")

    @property
    def session(self) -> Any:
        """ONNX Runtime's own, for runs on memory that is bound once (`execution.generation`)."""
        return self._session

    @property
    def provider(self) -> str:
        """The execution provider that it really runs on first."""
        name: str = self._session.get_providers()[0]
        return name

    def leading_names(self) -> set[str]:
        """What the graph calls the leading dimensions of its inputs and outputs, where it names them."""
        arguments = (*self._session.get_inputs(), *self._session.get_outputs())
        return {argument.shape[0] for argument in arguments if argument.shape and isinstance(argument.shape[0], str)}

    def run(self, inputs: Values, outputs: Sequence[str], options: Any) -> Values:
        """Run the graph once. `options` is an ort.RunOptions, whose `terminate` ends the run."""
        if self._exotic:
            return self._run_exotic(inputs, outputs, options)
        return dict(zip(outputs, self._session.run(list(outputs), inputs, options), strict=True))

    def _run_exotic(self, inputs: Values, outputs: Sequence[str], options: Any) -> Values:
        binding = self._session.io_binding()
        kept = []  # ONNX Runtime reads the arrays' memory in place
        for name, array in inputs.items():
            dtype = self.dtypes[name]
            bits = np.require(_packed(array) if dtype in _FOUR_BITS else array, requirements="C")
            value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, DTYPES[dtype][0])
            kept.append((bits, value))
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding, options)
        return {name: _array_of(value) for name, value in zip(outputs, binding.get_outputs(), strict=True)}


def values_of(tensors: Sequence[Tensor]) -> Values:
    """The arrays of a job's input. Raises PayloadError for malformed strings."""
    return {tensor.name: to_array(tensor) for tensor in tensors}


def tensors_of(values: Values, dtypes: Mapping[str, str]) -> list[Tensor]:
    """A run's outputs as tensors. Raises PayloadError for what cannot travel."""
    return [
        to_tensor(name, array, dtype=dtypes[name] if dtypes[name] in BITS else None) for name, array in values.items()
    ]


def run_options() -> Any:
    options = ort.RunOptions()
    options.log_severity_level = 4
    return options


def available_providers() -> list[str]:
    """What ONNX Runtime was built with; says nothing about what this machine has."""
    names: list[str] = ort.get_available_providers()
    return names


def probe(provider: str, model: bytes, device: int = 0) -> str:
    """Run a tiny model wholly on a device of an execution provider. "" when it did, else why not."""
    try:
        options = _options(threads=1)
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        session = ort.InferenceSession(model, options, providers=_providers(provider, device)[:1])
        session.disable_fallback()
        if session.get_providers()[0] != provider:
            return "ONNX Runtime put another execution provider in its place"
        x = np.arange(16, dtype=np.float32).reshape(4, 4)
        (y,) = session.run(None, {"x": x})
        return "" if np.allclose(y, x @ x) else "it computed something else than a CPU"
    except RUN_ERRORS as error:
        text = first_line(error)
        # What it says when the provider could not be loaded, or put the model on the CPU; why, it only logs.
        return "its libraries, or the device, are not there" if "CPU EP" in text else text


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a run failed for want of memory: numpy says it by the exception's type, ONNX Runtime in its text."""
    text = str(error)
    return isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY_SIGNS)


def first_line(error: BaseException) -> str:
    """An error of ONNX Runtime in one line, without its prefix of numbers."""
    text = str(error).strip().removeprefix("[ONNXRuntimeError] : ") or type(error).__name__
    return " ".join(text.split())[:300]


def _options(threads: int) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning costs a quarter of the throughput on a machine that others use too (measured).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # ONNX Runtime's own format would pass by the checks that a model undergoes.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # An arena would keep the largest job's memory, and its content, until the model is unloaded: 880 MB after one job with 600 MB of
    # intermediate tensors (measured). Shrinking it after each run (memory.enable_memory_arena_shrinkage) leaves them there until the
    # next one, as the output lies among them. Without it they are gone with the run, and it costs nothing that can be measured
    # (MiniLM, one core, CPU ms a run: 4.2 against 4.1 for one short text, 34.6 against 34.5 for sixteen, 280 against 309 for long ones).
    options.enable_cpu_mem_arena = False
    return options


def _providers(provider: str, device: int = 0) -> list[Any]:
    if provider == "CPUExecutionProvider":
        return [provider]
    if provider in ("CUDAExecutionProvider", "TensorrtExecutionProvider"):
        ort.preload_dlls()  # finds the libraries of pip's nvidia packages; prints and goes on where there are none
    if provider not in _COUNT_DEVICES:
        return [provider, "CPUExecutionProvider"]
    options = {"device_id": str(device)}
    if provider == "TensorrtExecutionProvider":
        return [(provider, options), ("CUDAExecutionProvider", options), "CPUExecutionProvider"]
    return [(provider, options), "CPUExecutionProvider"]


def _packed(array: NDArray[Any]) -> NDArray[Any]:
    """Two elements a byte, the first in the low half, at the start of memory of the unpacked size and shape."""
    flat = np.zeros(array.size + array.size % 2, np.uint8)
    flat[: array.size] = array.reshape(-1).view(np.uint8) & 0x0F
    packed = flat[0::2] | flat[1::2] << 4
    room = np.zeros(array.size, np.uint8)
    room[: packed.size] = packed
    return room.reshape(array.shape)


def _unpacked(packed: NDArray[np.uint8], size: int, dtype: str) -> NDArray[Any]:
    flat = np.empty(packed.size * 2, np.uint8)
    flat[0::2], flat[1::2] = packed & 0x0F, packed >> 4
    flat = flat[:size]
    return ((flat ^ 8).astype(np.int8) - 8).astype(np.int8) if dtype == "int4" else flat


def _array_of(value: Any) -> NDArray[Any]:
    """A copy of an output's memory, which goes with `value`."""
    dtype = _DTYPE_OF_ORT[value.data_type()]
    array: NDArray[Any]
    if dtype not in BITS:
        array = value.numpy()
        return array
    shape, size = tuple(value.shape()), value.tensor_size_in_bytes()
    raw = (
        np.frombuffer((ctypes.c_char * size).from_address(value.data_ptr()), np.uint8).copy()
        if size
        else np.empty(0, np.uint8)
    )
    if dtype in _FOUR_BITS:
        raw = _unpacked(raw, prod(shape), dtype)
    array = raw.view(BITS[dtype]).reshape(shape)
    return array
