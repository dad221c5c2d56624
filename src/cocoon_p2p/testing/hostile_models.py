"""ONNX files that a provider should not come to harm by, made with onnx and numpy, for tests. Each function writes one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from cocoon_p2p.models.file_digest import PieceHashes
from cocoon_p2p.models.layout import model_folder
from cocoon_p2p.models.manifest import MANIFEST_NAME, FileEntry, Manifest
from cocoon_p2p.models.registry import InstalledModel, Offer
from cocoon_p2p.models.tensor_spec import DYNAMIC, TensorSpec

OPSET, IR_VERSION = 21, 10
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
X = helper.make_tensor_value_info("x", FLOAT, [4])
Y = helper.make_tensor_value_info("y", FLOAT, None)


def model_of(
    nodes: Sequence[NodeProto],
    *,
    inputs: Sequence[Any] = (X,),
    constants: Sequence[TensorProto] = (),
    functions: Sequence[FunctionProto] = (),
    domains: Sequence[str] = (),
) -> ModelProto:
    """y from what `nodes` make of the inputs; `domains` beside the standard's."""
    graph = helper.make_graph(list(nodes), "hostile", list(inputs), [Y], list(constants))
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)],
        functions=list(functions),
        ir_version=IR_VERSION,
    )


def write(folder: Path, model: ModelProto | bytes, name: str = "hostile.onnx") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString(deterministic=True))
    return path


def plant(
    home: Path, main: ModelProto | bytes, *, inputs: Mapping[str, str] | None = None, **files: bytes
) -> InstalledModel:
    """A model's folder as one that came from a peer: nobody has looked into it, and its manifest says what it likes. `inputs` are
    its inputs' types, of one dimension each (x float32[4] if there are none given); `files` beside model.onnx: "w" is w.bin."""
    contents = {f"{name}.bin": data for name, data in files.items()}
    contents["model.onnx"] = main if isinstance(main, bytes) else main.SerializeToString(deterministic=True)
    entries = []
    for path, data in sorted(contents.items()):
        found = PieceHashes()
        found.feed(data)
        entries.append(FileEntry(path, len(data), found.digest))
    given = {"x": "float32"} if inputs is None else inputs
    specs = tuple(TensorSpec(name, dtype, (4,) if name == "x" else (DYNAMIC,)) for name, dtype in given.items())
    outputs = (TensorSpec("y", "float32", None),)
    manifest = Manifest("tensor", tuple(entries), "model.onnx", specs, outputs, (("", OPSET),))
    folder = model_folder(home, manifest.model_id)
    folder.mkdir(parents=True)
    for path, data in contents.items():
        (folder / path).write_bytes(data)
    (folder / MANIFEST_NAME).write_bytes(manifest.encode())
    return InstalledModel(manifest.model_id, manifest, Offer("hostile"), folder)


# --- reading what is not theirs --------------------------------------------------------------------------------------


def external(location: str, **entries: object) -> TensorProto:
    """w float32[4], to be read from the file `location`."""
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def reads(tensor: TensorProto) -> ModelProto:
    """y = x + w."""
    return model_of([helper.make_node("Add", ["x", "w"], ["y"])], constants=[tensor])


def reads_in_constant(tensor: TensorProto) -> ModelProto:
    """The same, w being the value of a Constant."""
    return model_of([helper.make_node("Constant", [], ["w"], value=tensor), helper.make_node("Add", ["x", "w"], ["y"])])


def reads_in_branch(tensor: TensorProto) -> ModelProto:
    """The same, within a branch of an If."""
    inner = helper.make_graph([helper.make_node("Add", ["x", "w"], ["z"])], "inner", [], [_like("z")], [tensor])
    plain = helper.make_graph([helper.make_node("Identity", ["x"], ["u"])], "plain", [], [_like("u")])
    condition = numpy_helper.from_array(np.array(True), "c")
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=plain)
    return model_of([node], constants=[condition])


def reads_in_function(tensor: TensorProto) -> ModelProto:
    """The same, within a function of the model's own."""
    body = [helper.make_node("Constant", [], ["w"], value=tensor), helper.make_node("Add", ["a", "w"], ["b"])]
    function = helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("", OPSET)])
    return model_of([helper.make_node("F", ["x"], ["y"], domain="own")], functions=[function], domains=["own"])


def reads_sparse(tensor: TensorProto) -> ModelProto:
    """The same, as the values of a sparse weight."""
    model = model_of([helper.make_node("Add", ["x", "w"], ["y"])])
    sparse = model.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(tensor)
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(4, dtype=np.int64), "i"))
    return model


# --- taking time and memory ------------------------------------------------------------------------------------------


def endless_loop() -> ModelProto:
    """y = x + 1 + 1 + …, without end. 242 bytes."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on_in"], ["on_out"]),
            helper.make_node("Add", ["s_in", "step"], ["s_out"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", INT64, []),
            helper.make_tensor_value_info("on_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s_in", FLOAT, [4]),
        ],
        [
            helper.make_tensor_value_info("on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s_out", FLOAT, [4]),
        ],
        [numpy_helper.from_array(np.array(1, np.float32), "step")],
    )
    node = helper.make_node("Loop", ["", "on", "x"], ["y"], body=body)
    return model_of([node], constants=[numpy_helper.from_array(np.array(True), "on")])


def allocation(operator: str = "ConstantOfShape") -> ModelProto:
    """y float32 of the shape that the job asks for, s int64[rank]: 131 bytes that take any memory."""
    size = helper.make_tensor_value_info("s", INT64, ["rank"])
    if operator == "Expand":
        one = numpy_helper.from_array(np.array(1, np.float32), "one")
        return model_of([helper.make_node("Expand", ["one", "s"], ["z"]), _sum("z")], inputs=[size], constants=[one])
    return model_of([helper.make_node("ConstantOfShape", ["s"], ["z"]), _sum("z")], inputs=[size])


def constant_allocation(elements: int, operator: str = "ConstantOfShape") -> ModelProto:
    """y = the sum of `elements` numbers made of nothing, whatever x is."""
    size = numpy_helper.from_array(np.array([elements], np.int64), "s")
    one = numpy_helper.from_array(np.array(1, np.float32), "one")
    inputs = ["s"] if operator == "ConstantOfShape" else ["one", "s"]
    nodes = [helper.make_node(operator, inputs, ["z"]), _sum("z", "sum"), helper.make_node("Add", ["x", "sum"], ["y"])]
    return model_of(nodes, constants=[size, one])


def empty_constant(elements: int) -> ModelProto:
    """y = x + w, w float32[elements] without a byte of data."""
    return reads(TensorProto(name="w", data_type=FLOAT, dims=[elements]))


def many_nodes(count: int) -> ModelProto:
    """y = x through `count` operators."""
    names = ["x", *(f"v{i}" for i in range(count - 1)), "y"]
    return model_of([helper.make_node("Identity", [names[i]], [names[i + 1]]) for i in range(count)])


def multiplying_functions(depth: int, times: int = 10) -> ModelProto:
    """y = x through times ** depth operators, written as `depth` functions that each call the next `times` times."""
    functions = []
    for level in range(depth):
        below = ("Identity", "") if level == 0 else (f"F{level - 1}", "own")
        names = ["a", *(f"v{i}" for i in range(times - 1)), "b"]
        body = [helper.make_node(below[0], [names[i]], [names[i + 1]], domain=below[1]) for i in range(times)]
        imports = [helper.make_opsetid("", OPSET), helper.make_opsetid("own", 1)]
        functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], body, imports))
    top = helper.make_node(f"F{depth - 1}", ["x"], ["y"], domain="own")
    return model_of([top], functions=functions, domains=["own"])


def circular_functions() -> ModelProto:
    """y = F(x) with F(a) = G(a) and G(a) = F(a)."""
    imports = [helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function("own", name, ["a"], ["b"], [helper.make_node(other, ["a"], ["b"], domain="own")], imports)
        for name, other in (("F", "G"), ("G", "F"))
    ]
    return model_of([helper.make_node("F", ["x"], ["y"], domain="own")], functions=functions, domains=["own"])


def nested(depth: int) -> ModelProto:
    """y = x, within `depth` branches of If, each within the next."""
    inner: GraphProto = helper.make_graph([helper.make_node("Identity", ["x"], ["z0"])], "g0", [], [_like("z0")])
    for level in range(1, depth):
        node = helper.make_node("If", ["c"], [f"z{level}"], then_branch=inner, else_branch=inner)
        node.attribute[1].ClearField("g")
        plain = helper.make_graph([helper.make_node("Identity", ["x"], [f"e{level}"])], "e", [], [_like(f"e{level}")])
        node.attribute[1].g.CopyFrom(plain)
        inner = helper.make_graph([node], f"g{level}", [], [_like(f"z{level}")])
    plain = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "e", [], [_like("e")])
    top = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=plain)
    return model_of([top], constants=[numpy_helper.from_array(np.array(True), "c")])


# --- running what is not theirs --------------------------------------------------------------------------------------


def indexed(count: int = 64) -> ModelProto:
    """y = x at constant places: altered, they lie outside of x."""
    places = numpy_helper.from_array(np.arange(count, dtype=np.int64) % 4, "places")
    return model_of([helper.make_node("Gather", ["x", "places"], ["y"])], constants=[places])


def operator(name: str, domain: str = "", **attributes: Any) -> ModelProto:
    """y = name(x)."""
    node = helper.make_node(name, ["x"], ["y"], domain=domain)
    for key, value in attributes.items():
        node.attribute.append(helper.make_attribute(key, value))
    return model_of([node], domains=[domain] if domain else [])


def python_operator() -> ModelProto:
    """A call of a Python function, with a pickle for its argument."""
    pickled = b"cos\nsystem\n(S'true'\ntR."
    return operator("PyOp", "com.microsoft", module="os", class_name="system", state=pickled)


def with_training() -> ModelProto:
    model = operator("Identity")
    model.training_info.add().algorithm.CopyFrom(model.graph)
    return model


def ort_flatbuffer(size: int = 4096) -> bytes:
    """What begins as a file in ONNX Runtime's own format does."""
    return b"\x18\x00\x00\x00ORTM" + bytes(size)


def _like(name: str) -> Any:
    return helper.make_tensor_value_info(name, FLOAT, [4])


def _sum(name: str, result: str = "y") -> NodeProto:
    return helper.make_node("ReduceSum", [name], [result], keepdims=0)
