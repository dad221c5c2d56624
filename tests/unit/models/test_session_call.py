"""Calls of a session as a client and a provider read them, from the manifest alone (job/1 §4.4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.arrays import to_payload
from cocoon_p2p.models.check import check_inputs
from cocoon_p2p.models.manifest import FileEntry, Manifest, TensorSpec
from cocoon_p2p.models.session_call import first_state, returned_outputs, session_call


def model(*inputs: TensorSpec, state: tuple[tuple[str, str], ...]) -> Manifest:
    outputs = (TensorSpec("y", "float32", (-1,)), *(TensorSpec(out, *_spec(inputs, into)) for into, out in state))
    return Manifest("tensor", (FileEntry("m", 1, "0" * 64),), "m", inputs, outputs, (("", 20),), state=state)


def _spec(inputs: tuple[TensorSpec, ...], name: str) -> tuple[str, Any]:
    (spec,) = [spec for spec in inputs if spec.name == name]
    return spec.dtype, spec.shape


X = TensorSpec("x", "float32", (-1, 2))
RNN = model(
    TensorSpec("h", "float16", (1, -1, 4)),
    X,
    TensorSpec("s", "string", (2,)),
    state=(("h", "h_next"), ("s", "s_next")),
)
SESSION = {"session": np.zeros(16, np.uint8), "session_step": np.uint64(0)}
GIVEN = {"x": np.zeros((3, 2), np.float32)}
STATE = {"h": np.zeros((1, 3, 4), np.float16), "s": np.array(["a", ""], dtype=object)}


def refusal(manifest: Manifest, given: dict[str, Any], wanted: tuple[str, ...] = ()) -> str:
    with pytest.raises(ExecutionError) as caught:
        check_inputs(manifest, to_payload(given, wanted))
    assert caught.value.code == "INPUT"
    return caught.value.message


def test_items_are_counted_at_the_first_input_that_is_no_state() -> None:
    assert check_inputs(RNN, to_payload({**GIVEN, **STATE})) == 3
    assert check_inputs(RNN, to_payload({**SESSION, **GIVEN})) == 3
    assert check_inputs(RNN, to_payload({**SESSION, **GIVEN, **STATE})) == 3


def test_a_session_begins_with_zeros() -> None:
    h, s = first_state(RNN, 3)
    assert (h.name, h.dtype, h.shape, len(h.data)) == ("h", "float16", (1, 3, 4), 24)
    assert (s.name, s.shape, s.data) == ("s", (2,), bytes(8))


def test_what_a_call_says() -> None:
    assert session_call(RNN, to_payload({**GIVEN, **STATE})) is None
    given = {**SESSION, "session_step": np.uint64([2**64 - 1]), **GIVEN}
    call = session_call(RNN, to_payload(given))
    assert call is not None
    assert (call.session, call.step, call.brings_state) == (bytes(16), 2**64 - 1, False)
    assert [tensor.name for tensor in call.inputs] == ["x"]
    assert returned_outputs(RNN, call) == ("y",)
    wanted = session_call(RNN, to_payload({**SESSION, **GIVEN, **STATE}, ("h_next",)))
    assert wanted is not None
    assert wanted.brings_state
    assert returned_outputs(RNN, wanted) == ("h_next",)


def test_what_is_wrong() -> None:
    plain = model(X, state=())
    assert "no state to keep" in refusal(plain, {**SESSION, **GIVEN})
    assert "'session' must be uint8[16]" in refusal(RNN, {**SESSION, "session": np.zeros(15, np.uint8), **GIVEN})
    assert "'session_step' must be one uint64" in refusal(RNN, {"session": SESSION["session"], **GIVEN})
    assert "'session_step' must be" in refusal(RNN, {**SESSION, "session_step": np.int64(0), **GIVEN})
    assert "'session_step' must be" in refusal(RNN, {**SESSION, "session_step": np.zeros(2, np.uint64), **GIVEN})
    assert "all of the state, or none: 's' is missing" in refusal(RNN, {**SESSION, **GIVEN, "h": STATE["h"]})
    assert "input 'h' must be" in refusal(RNN, {**SESSION, **GIVEN, **STATE, "h": STATE["h"].astype(np.float32)})
    assert "input 'x' is missing" in refusal(RNN, SESSION)
    assert "no input 'z'" in refusal(RNN, {**SESSION, **GIVEN, "z": GIVEN["x"]})
    assert "no output 'z'" in refusal(RNN, {**SESSION, **GIVEN}, ("z",))
    assert "input 'h' is missing" in refusal(RNN, GIVEN)


def test_a_state_of_no_known_size_must_be_brought() -> None:
    grows = model(X, TensorSpec("past", "float32", (-1, -1)), state=(("past", "present"),))
    assert "only the client can say" in refusal(grows, {**SESSION, **GIVEN})
    later = {**SESSION, "session_step": np.uint64(1), **GIVEN}
    assert check_inputs(grows, to_payload(later)) == 3
    assert check_inputs(grows, to_payload({**SESSION, **GIVEN, "past": np.zeros((3, 0), np.float32)})) == 3


def test_an_input_of_that_name_is_the_models_own() -> None:
    own = model(TensorSpec("session", "uint8", (16,)), TensorSpec("h", "float32", (1,)), state=(("h", "h_next"),))
    payload = to_payload({"session": SESSION["session"], "h": np.zeros(1, np.float32)})
    assert session_call(own, payload) is None
    assert check_inputs(own, payload) == 1
