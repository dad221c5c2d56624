"""Does a payload fit a model? Without any of the engine's libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.models.check import check_inputs, output_names, wants
from cocoon_p2p.models.manifest import FileEntry, Manifest, TensorSpec, TextFrontEnd
from cocoon_p2p.tensors import Payload, Tensor, string_tensor

TEXT = Manifest(
    kind="embedding",
    files=(FileEntry("model.onnx", 1, "0" * 64), FileEntry("tokenizer.json", 1, "0" * 64)),
    main="model.onnx",
    inputs=(TensorSpec("input_ids", "int64", (-1, -1)),),
    outputs=(TensorSpec("hidden", "float32", (-1, -1, 8)), TensorSpec("embedding", "float32", (-1, 8))),
    opset=(("", 20),),
    text=TextFrontEnd("tokenizer.json", 16, 0, "input_ids", None, None, ("embedding",)),
)


def test_items_of_text_are_its_strings() -> None:
    payload = Payload((string_tensor("text", ["a", "b", "c"]),))
    assert check_inputs(TEXT, payload) == 3
    assert output_names(TEXT, payload) == ("embedding",)


def test_a_model_of_text_takes_its_own_inputs_too() -> None:
    payload = Payload((Tensor("input_ids", "int64", (2, 1), bytes(16)),))
    assert check_inputs(TEXT, payload) == 2
    assert output_names(TEXT, payload) == ("hidden", "embedding")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (Payload((Tensor("text", "string", (1, 1), bytes(4)),)), "input 'text' must be string[batch], got string[1,1]"),
        (
            Payload((string_tensor("text", ["a"]), Tensor("input_ids", "int64", (0, 1), b""))),
            "'text' takes the place of all other inputs: leave out 'input_ids'",
        ),
        (
            Payload((string_tensor("text", ["a"]),), ("hidden",)),
            "there is no output 'hidden'; this job can give 'embedding'",
        ),
        (Payload((string_tensor("text", ["a"]),), ("embedding", "embedding")), "an output is wanted twice"),
        (
            Payload(()),
            "input 'input_ids' is missing: it must be int64[batch,?]; or 'text' string[batch] instead of all inputs",
        ),
    ],
)
def test_what_does_not_fit(payload: Payload, message: str) -> None:
    with pytest.raises(ExecutionError) as caught:
        check_inputs(TEXT, payload)
    assert (caught.value.code, caught.value.message) == ("INPUT", message)


def test_items_of_a_fixed_model_are_one() -> None:
    spec = TensorSpec("x", "float32", (2, -1))
    fixed = Manifest("tensor", (FileEntry("m", 1, "0" * 64),), "m", (spec,), (spec,), (("", 1),))
    assert check_inputs(fixed, Payload((Tensor("x", "float32", (2, 1), bytes(8)),))) == 1
    assert wants(fixed) == "it takes 'x' float32[2,?]"


def test_texts_for_a_model_that_takes_none() -> None:
    payload = Payload((string_tensor("text", ["a"]),))
    for name, message in (
        ("x", "the model takes no texts; it takes 'x' float32[batch,3]"),
        ("text", "must be float32"),
    ):
        spec = TensorSpec(name, "float32", (-1, 3))
        model = Manifest("tensor", (FileEntry("m", 1, "0" * 64),), "m", (spec,), (spec,), (("", 1),))
        with pytest.raises(ExecutionError) as caught:
            check_inputs(model, payload)
        assert message in caught.value.message
        assert caught.value.code == "INPUT"


def test_a_node_needs_no_library_of_the_engine() -> None:
    program = (
        "import sys; import cocoon_p2p.execution.onnx_engine, cocoon_p2p.models.registry, cocoon_p2p.models.check;"
        "print({'numpy', 'onnx', 'onnxruntime', 'tokenizers', 'google.protobuf'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
