"""Tensors from files and to files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cocoon_p2p.cli.outputs import describe, file_stems, make_folder, preview, read_inputs, write_outputs
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.execution.arrays import to_array, to_payload
from cocoon_p2p.tensors import Payload, Tensor, string_tensor, unpack_strings

ARRAYS = {
    "float": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">i2"),
    "strided": np.arange(10)[::2],
    "scalar": np.float64(3.5),
    "empty": np.zeros((0, 3), np.uint8),
    "flags": np.array([True, False]),
    "complex": np.array([1 + 2j]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_from_files_and_go_to_files(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "in.npy", ARRAYS[name])
    payload = read_inputs([(name, str(tmp_path / "in.npy"))], [])
    files = write_outputs(payload, tmp_path / "out" / "deeper")
    assert files == {name: tmp_path / "out" / "deeper" / f"{name}.npy"}
    again = np.load(files[name])
    assert again.shape == np.shape(ARRAYS[name])
    np.testing.assert_array_equal(again, ARRAYS[name])


def test_texts(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.array(["a", "née", ""]))
    payload = read_inputs([("words", str(tmp_path / "in.npy"))], ["one", "two"])
    assert [unpack_strings(tensor) for tensor in payload.tensors] == [["a", "née", ""], ["one", "two"]]
    assert [tensor.name for tensor in payload.tensors] == ["words", "text"]
    files = write_outputs(payload, tmp_path)
    assert np.load(files["words"]).tolist() == ["a", "née", ""]


def test_types_that_numpy_lacks_are_given_as_bits(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.array([0x3F80], np.uint16))
    (tensor,) = read_inputs([("x", f"{tmp_path / 'in.npy'}:bfloat16")], []).tensors
    assert (tensor.dtype, tensor.shape) == ("bfloat16", (1,))
    files = write_outputs(Payload((tensor,)), tmp_path / "out")
    assert np.load(files["x"]).tolist() == [0x3F80]


def test_mistakes_name_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "good.npy", np.zeros(1))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-4])
    np.save(tmp_path / "dates.npy", np.array(["2020-01-01"], dtype="datetime64[D]"))
    for name in ("objects.npy", "two.npz", "text.npy", "empty.npy", "cut.npy", "dates.npy", "nowhere.npy"):
        with pytest.raises(ConfigError) as caught:
            read_inputs([("x", str(tmp_path / name))], [])
        assert name in caught.value.message
        assert "--input x" in caught.value.message
        assert "\n" not in caught.value.message
    for wrong in ([("x", str(tmp_path / "good.npy"))] * 2, [("text", str(tmp_path / "good.npy"))]):
        with pytest.raises(ConfigError, match="given twice"):
            read_inputs(wrong, ["a"])
    with pytest.raises(ConfigError, match="needs an input"):
        read_inputs([], [])


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        (["logits"], ["logits"]),
        (["../../etc/passwd", "/abs", "..", ".", "", ".hidden", "-rf"], ["_.._etc_passwd", "_abs", "output", "output-2",
                                                                         "output-3", "hidden", "rf"]),
        (["a/b", "a_b", "A:B"], ["a_b", "a_b-2", "A_B-3"]),
        (["a_b-2", "a_b", "a/b"], ["a_b-2", "a_b", "a_b-3"]),
        (["x" * 200, "x" * 201], ["x" * 120, "x" * 120 + "-2"]),
        (["größe\0\n"], ["gr__e__"]),
    ],
)  # fmt: skip
def test_file_names(names: list[str], stems: list[str]) -> None:
    assert list(file_stems(names).values()) == stems


def test_a_link_in_the_folder_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "y.npy").symlink_to(tmp_path / "precious")
    files = write_outputs(to_payload({"y": np.zeros(2)}), tmp_path / "out")
    assert (tmp_path / "precious").read_text() == "precious"
    assert np.load(files["y"]).tolist() == [0.0, 0.0]
    assert os.listdir(tmp_path / "out") == ["y.npy"]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write the outputs"):
        write_outputs(to_payload({"y": np.zeros(2)}), tmp_path / "file")


@pytest.mark.parametrize("name", ["file/below", "x" * 300, "nul\0"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write to the folder"):
        make_folder(tmp_path / name)


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []


def test_previews() -> None:
    (floats,) = to_payload({"y": np.array([1.23456, -2, 3e10, 4, 5], np.float32)}).tensors
    assert preview(floats) == "1.235, -2, 3e+10, 4, …"
    assert preview(string_tensor("s", ["a", "b"])) == "a, b"
    assert preview(Tensor("e", "float32", (0,), b"")) == ""
    assert describe(floats, Path("o/y.npy")) == {"dtype": "float32", "shape": [5], "file": "o/y.npy"}
    assert to_array(floats).shape == (5,)
