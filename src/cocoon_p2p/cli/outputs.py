"""A job's tensors as .npy files, and as people glance at them."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.tensors import TEXT_INPUT, Payload, PayloadError, Tensor, string_tensor

if TYPE_CHECKING:
    import numpy as np

FILE_STEM_CHARS_MAX = 120
PREVIEW_VALUES = 4
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


def read_inputs(inputs: Sequence[tuple[str, str]], texts: Sequence[str]) -> Payload:
    """The payload of --input and --text. Raises ConfigError that names the file."""
    tensors = [_read_input(name, file) for name, file in inputs]
    if texts:
        tensors.append(string_tensor(TEXT_INPUT, texts))
    names = [tensor.name for tensor in tensors]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"input {twice!r} is given twice")
    if not tensors:
        raise ConfigError("a model needs an input", hint='--input NAME=FILE.npy, or --text "…" for a model of texts')
    return Payload(tuple(tensors))


def _read_input(name: str, file: str) -> Tensor:
    import numpy as np

    from cocoon_p2p.execution.arrays import BITS, to_tensor

    path, _, dtype = file.rpartition(":")
    if dtype not in BITS:  # no type that numpy lacks: all of it is the file's name
        path, dtype = file, ""
    try:
        array = np.load(os.path.expanduser(path), mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise ConfigError(f"--input {name}: cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise ConfigError(
            f"--input {name}: {path} is no .npy file of numbers or texts",
            hint="numpy.save writes one; arrays of Python objects are not accepted",
        ) from error
    if not isinstance(array, np.ndarray):
        raise ConfigError(f"--input {name}: {path} holds several arrays (.npz); one array in a .npy file is needed")
    try:
        return to_tensor(name, array, dtype=dtype or None)
    except PayloadError as error:
        raise ConfigError(f"--input {name}: {path}: {error}") from error


def make_folder(folder: Path) -> None:
    """Make `folder`, and make sure that files can be written in it. Raises ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot write to the folder {folder}: {reason}", hint="--output DIR names a folder"
        ) from error


def write_outputs(payload: Payload, folder: Path) -> dict[str, Path]:
    """Write every tensor to `folder`/<its name>.npy, replacing files of that name; the file of each name. A name cannot
    lead out of the folder: what is no letter, digit, dot, dash or underscore in it becomes an underscore.
    Raises ConfigError when the folder cannot be written to."""
    stems = file_stems([tensor.name for tensor in payload.tensors])
    files = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for tensor in payload.tensors:
            files[tensor.name] = folder / f"{stems[tensor.name]}.npy"
            _write(files[tensor.name], tensor)
    except OSError as error:
        raise ConfigError(f"cannot write the outputs to {folder}: {error.strerror or error}") from error
    return files


def file_stems(names: Sequence[str]) -> dict[str, str]:
    """A file name without ".npy" for each name, different even where case does not count."""
    taken: set[str] = set()
    stems = {}
    for name in names:
        plain = _UNSAFE.sub("_", name)[:FILE_STEM_CHARS_MAX].lstrip(".-") or "output"
        stem, number = plain, 1
        while stem.casefold() in taken:
            number += 1
            stem = f"{plain}-{number}"
        taken.add(stem.casefold())
        stems[name] = stem
    return stems


def preview(tensor: Tensor) -> str:
    """Its first values."""
    values = _array(tensor).reshape(-1)[: PREVIEW_VALUES + 1].tolist()
    shown = [f"{value:.4g}" if isinstance(value, float) else str(value)[:40] for value in values[:PREVIEW_VALUES]]
    return ", ".join(shown) + (", …" if len(values) > PREVIEW_VALUES else "")


def describe(tensor: Tensor, file: Path | None) -> dict[str, Any]:
    """A tensor in --json."""
    return {"dtype": tensor.dtype, "shape": list(tensor.shape), "file": None if file is None else str(file)}


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    from cocoon_p2p.execution.arrays import to_array

    return to_array(tensor)


def _write(file: Path, tensor: Tensor) -> None:
    """Whole or not at all; a link that stands in its place is replaced, not followed."""
    import numpy as np

    array = _array(tensor)
    if array.dtype == object:  # texts: numpy would pickle them
        array = array.astype(np.str_)
    descriptor, temporary = tempfile.mkstemp(prefix=".cocoon-", dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            np.save(opened, array, allow_pickle=False)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, file)
    except OSError:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
