"""The second wall against hostile models: is this file what an ONNX model may be, before ONNX Runtime sees it?

ONNX Runtime and `onnx.checker` let through what must not be (data from files outside, memory addresses as data, programs for other
engines) or refuse what must be let through (the fused operators of language models). So the guard looks by itself, in the jailed
process, and refuses whatever it does not know. Loops are let through: a job has a deadline, a loop heeds it between two operators, and
a worker that does not is ended; memory is bounded by the jail.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from cocoon_p2p.errors import CocoonError
from cocoon_p2p.limits import (
    GRAPH_CONSTANT_ELEMENTS_MAX,
    GRAPH_FIELDS_MAX,
    GRAPH_FILE_BYTES_MAX,
    GRAPH_IR_VERSIONS,
    GRAPH_NAME_BYTES_MAX,
    GRAPH_NESTING_MAX,
    GRAPH_NODES_MAX,
    GRAPH_OPSET_MAX,
)
from cocoon_p2p.models.graph_fields import (
    ATTRIBUTE,
    FUNCTION,
    GRAPH,
    MODEL,
    NODE,
    OPERATOR_SET,
    Data,
    NotReadable,
    Reader,
    signed,
)
from cocoon_p2p.models.graph_operators import OperatorRefused, Operators
from cocoon_p2p.models.graph_tensors import ExternalFiles, Tensor, TensorRefused, read_tensor
from cocoon_p2p.models.layout import open_plain
from cocoon_p2p.models.manifest import Manifest

FORMAT, SIZE, OPERATOR, EXTERNAL, TENSOR = "FORMAT", "SIZE", "OPERATOR", "EXTERNAL", "TENSOR"
"""Codes of ModelRefused."""
_ORT_FORMAT = b"ORTM"
_ONNX_DOMAINS = ("", "ai.onnx")
_SHAPE_INPUT = {"ConstantOfShape": 0, "Expand": 1}
"""Operators that make a tensor of nothing, and the input that says how large."""


class ModelRefused(CocoonError):
    """A model that is not let near ONNX Runtime. `code`: what kind of fault."""

    default_code = "MODEL_REFUSED"

    def __init__(self, code: str, what: str) -> None:
        super().__init__(f"the model is refused: {what}", code=code)
        self.what = what


def guard_model(manifest: Manifest, folder: Path) -> None:
    """Look through the main file of a model, and at the files that its weights are in. Raises ModelRefused, OSError."""
    sizes = {entry.path: entry.size for entry in manifest.files}
    with open_plain(folder / manifest.main, folder) as file:
        size = os.fstat(file.fileno()).st_size
        if size > GRAPH_FILE_BYTES_MAX:
            raise ModelRefused(SIZE, f"its graph's file has {size} bytes, more than {GRAPH_FILE_BYTES_MAX}")
        if size == 0:
            raise ModelRefused(FORMAT, "its file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            used = guard_graph(data, ExternalFiles({path: sizes[path] for path in sizes if path != manifest.main}))
    for path in used:
        with open_plain(folder / path, folder) as file:
            if os.fstat(file.fileno()).st_size != sizes[path]:
                raise ModelRefused(EXTERNAL, f"its data is in {path}, which has another size than its manifest says")


def guard_graph(data: Data, files: ExternalFiles) -> frozenset[str]:
    """The same for bytes; returns the paths of `files` that are used. Raises ModelRefused."""
    if data[4:8] == _ORT_FORMAT:
        raise ModelRefused(FORMAT, "it is in ONNX Runtime's own format, which passes by the checks of ONNX files")
    look = _Look(data, files)
    try:
        look.model()
    except OperatorRefused as error:
        raise ModelRefused(OPERATOR, str(error)) from error
    except TensorRefused as error:
        raise ModelRefused(EXTERNAL if error.external else TENSOR, str(error)) from error
    except NotReadable as error:
        raise ModelRefused(FORMAT, str(error)) from error
    return files.used


class _Look:
    """One walk through a model file. Its methods raise NotReadable, OperatorRefused, TensorRefused, ModelRefused."""

    def __init__(self, data: Data, files: ExternalFiles) -> None:
        self._data = data
        self._reader = Reader(data, GRAPH_FIELDS_MAX)
        self._files = files
        self._operators = Operators()
        self._shapes: dict[str, int] = {}
        """Elements of the tensors that constants of these names are shapes of."""
        self._shaped: set[str] = set()
        """Names of the constants that are taken for shapes."""
        self._ir_version = 0
        self._graphs = 0

    def model(self) -> None:
        for number, start, end in self._reader.fields(MODEL, 0, len(self._data)):
            if number == 1:
                self._ir_version = signed(start)
            elif number == 7:
                self._graphs += 1
                self._graph(start, end, 0, None)
            elif number == 8:
                self._operator_set(start, end)
            elif number == 20:
                raise ModelRefused(FORMAT, "it brings a training graph along")
            elif number == 25:
                self._function(start, end)
        oldest, newest = GRAPH_IR_VERSIONS
        if not oldest <= self._ir_version <= newest:
            raise ModelRefused(
                FORMAT, f"its format is of version {self._ir_version}; {oldest} to {newest} are known here"
            )
        if not self._graphs:
            raise ModelRefused(FORMAT, "it holds no graph")
        if self._operators.count() > GRAPH_NODES_MAX:
            raise ModelRefused(SIZE, f"it has more than {GRAPH_NODES_MAX} operators when its functions are written out")
        for name in self._shaped:
            if self._shapes.get(name, 0) > GRAPH_CONSTANT_ELEMENTS_MAX:
                raise ModelRefused(TENSOR, f"it makes a tensor of {self._shapes[name]} elements of nothing")

    def _operator_set(self, start: int, end: int) -> None:
        domain, version = "", 0
        for number, a, b in self._reader.fields(OPERATOR_SET, start, end):
            if number == 1:
                domain = self._text(a, b)
            else:
                version = signed(a)
        # Other domains' versions mean nothing here: one that no operator is of does no harm, and exporters name many.
        if domain in _ONNX_DOMAINS and not 1 <= version <= GRAPH_OPSET_MAX:
            raise ModelRefused(
                FORMAT, f"its operator set is of version {version}; 1 to {GRAPH_OPSET_MAX} are known here"
            )

    def _function(self, start: int, end: int) -> None:
        name = domain = overload = ""
        parts = []
        for number, a, b in self._reader.fields(FUNCTION, start, end):
            if number == 1:
                name = self._text(a, b)
            elif number == 10:
                domain = self._text(a, b)
            elif number == 13:
                overload = self._text(a, b)
            elif number == 9:
                self._operator_set(a, b)
            elif number in (7, 11):
                parts.append((number, a, b))
        key = self._operators.define(domain, name, overload)
        for number, a, b in parts:
            if number == 7:
                self._node(a, b, 0, key)
            else:
                self._attribute(a, b, 0, key)

    def _graph(self, start: int, end: int, depth: int, scope: tuple[str, str, str] | None) -> None:
        if depth > GRAPH_NESTING_MAX:
            raise ModelRefused(SIZE, f"its graphs are nested deeper than {GRAPH_NESTING_MAX}")
        for number, a, b in self._reader.fields(GRAPH, start, end):
            if number == 1:
                self._node(a, b, depth, scope)
            elif number == 5:
                tensor = self._tensor(a, b)
                self._note_shape(tensor.name, tensor)
            elif number == 15:
                raise TensorRefused("a weight is written as a sparse tensor")

    def _node(self, start: int, end: int, depth: int, scope: tuple[str, str, str] | None) -> None:
        operator = domain = overload = ""
        inputs: list[tuple[int, int]] = []
        outputs: list[tuple[int, int]] = []
        constant: Tensor | None = None
        for number, a, b in self._reader.fields(NODE, start, end):
            if number == 4:
                operator = self._text(a, b)
            elif number == 7:
                domain = self._text(a, b)
            elif number == 8:
                overload = self._text(a, b)
            elif number == 1 and len(inputs) < 2:
                inputs.append((a, b))
            elif number == 2 and not outputs:
                outputs.append((a, b))
            elif number == 5:
                constant = self._attribute(a, b, depth, scope) or constant
        if self._operators.note(scope, domain, operator, overload) > GRAPH_NODES_MAX:
            raise ModelRefused(SIZE, f"it has more than {GRAPH_NODES_MAX} operators")
        if operator == "Constant" and constant is not None and outputs:
            self._note_shape(self._text(*outputs[0]), constant)
        position = _SHAPE_INPUT.get(operator)
        if position is not None and position < len(inputs):
            self._shaped.add(self._text(*inputs[position]))

    def _attribute(self, start: int, end: int, depth: int, scope: tuple[str, str, str] | None) -> Tensor | None:
        """The tensor that it is, if it is one."""
        tensor = None
        for number, a, b in self._reader.fields(ATTRIBUTE, start, end):
            if number == 5:
                tensor = self._tensor(a, b)
            elif number == 10:
                self._tensor(a, b)
            elif number in (6, 11):
                self._graph(a, b, depth + 1, scope)
            elif number in (22, 23):
                raise TensorRefused("a constant is written as a sparse tensor")
        return tensor

    def _tensor(self, start: int, end: int) -> Tensor:
        return read_tensor(self._reader, start, end, self._files)

    def _note_shape(self, name: str, tensor: Tensor) -> None:
        elements = tensor.as_shape()
        if elements is not None:
            self._shapes[name] = max(elements, self._shapes.get(name, 0))

    def _text(self, start: int, end: int) -> str:
        return self._reader.text(start, end, GRAPH_NAME_BYTES_MAX)
