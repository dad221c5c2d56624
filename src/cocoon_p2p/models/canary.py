"""Made-up jobs: an input that a model takes, drawn from a seed. Whoever sees it cannot tell it from anybody's job, and
nothing in it is anybody's secret.

No numpy: the node's own process draws them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from math import prod
from typing import Protocol

from cocoon_p2p.errors import CocoonError
from cocoon_p2p.limits import CANARY_BYTES_MAX, CANARY_DIM_MAX, PAYLOAD_RANK_MAX
from cocoon_p2p.models.manifest import DYNAMIC, GENERATION, Manifest, TensorSpec
from cocoon_p2p.tensors import DTYPES, STRING, TEXT_INPUT, Payload, Tensor, string_tensor

_FREQUENT = (
    "a the of and to in that was for with his they this have from one had by word but what some we can out other "
    "were all there when up use your how said an each she which their time will way about many then them write "
    "would like so these her long make thing see him two has look more day could go come did number sound no most "
    "people my over know water than call first who may down side been now find any new work part take get place "
    "made live where after back little only round man year came show every good me give our under name very "
    "through just form sentence great think help low line differ turn cause much mean before move right boy old "
    "too same tell does set three want air well also play small end put home read hand port large spell add even "
    "land here must big high such follow act why ask men change went light "
)
_WORDS = _FREQUENT.split()
TAME_MAX = 2
_TEXTS_MAX = 4
_WORDS_PER_TEXT = (3, 40)
_TOKEN_ID_MAX = 1000
"""Vocabularies in use have ten times as many; a model with a smaller one gets tamer canaries."""


class Random(Protocol):
    """The part of `random.Random` that is used here; the caller seeds it."""

    def randint(self, a: int, b: int) -> int: ...

    def gauss(self, mu: float, sigma: float) -> float: ...

    def choice(self, seq: list[str]) -> str: ...


def canary_input(manifest: Manifest, rng: Random, *, tame: int = 0) -> Payload:
    """An input of the model: with the same state of `rng` the same one. Texts where the model takes texts, else a value for
    each of its inputs. For a model that fails with what a manifest lets one guess: `tame` 1 keeps integers at 0 and 1, 2
    (TAME_MAX) gives all free dimensions the same number as well. Raises CocoonError (CANARY) for a model whose inputs are
    too large to make up, or that generates text."""
    if manifest.kind == GENERATION:
        raise CocoonError("nothing is made up for a model that generates text", code="CANARY")
    if manifest.text is not None:
        return Payload((string_tensor(TEXT_INPUT, _texts(rng)),))
    return Payload(tuple(_tensors(manifest, rng, 1 if tame else _TOKEN_ID_MAX, square=tame == TAME_MAX)))


def _texts(rng: Random) -> list[str]:
    return [
        " ".join(rng.choice(_WORDS) for _ in range(rng.randint(*_WORDS_PER_TEXT)))
        for _ in range(rng.randint(1, _TEXTS_MAX))
    ]


def _tensors(manifest: Manifest, rng: Random, ids_max: int, *, square: bool) -> list[Tensor]:
    # One number for each position: models whose inputs go together (ids and their mask, two addends) take no others.
    dims = [rng.randint(1, CANARY_DIM_MAX) for _ in range(PAYLOAD_RANK_MAX)]
    if square:
        dims = dims[:1] * PAYLOAD_RANK_MAX
    left, tensors = CANARY_BYTES_MAX, []
    for spec in manifest.inputs:
        free = (DYNAMIC,) if spec.shape is None else spec.shape
        shape = tuple(dims[i] if dim == DYNAMIC else dim for i, dim in enumerate(free))
        left -= prod(shape) * (DTYPES[spec.dtype][1] or 16)
        if left < 0:
            raise CocoonError(
                f"the model's inputs are larger than the {CANARY_BYTES_MAX} bytes that are made up for a test",
                code="CANARY",
                hint="give the job to several providers instead: cocoon-node run --quorum 3",
            )
        tensors.append(_tensor(spec, shape, rng, ids_max))
    return tensors


def _tensor(spec: TensorSpec, shape: tuple[int, ...], rng: Random, ids_max: int) -> Tensor:
    count, dtype = prod(shape), spec.dtype
    if dtype == STRING:
        words = string_tensor(spec.name, [rng.choice(_WORDS) for _ in range(count)])
        return Tensor(spec.name, STRING, shape, words.data)
    lowered = spec.name.lower()
    if "mask" in lowered:
        return Tensor(spec.name, dtype, shape, _one(dtype) * count)
    if "type" in lowered or "segment" in lowered or "position" in lowered:
        return Tensor(spec.name, dtype, shape, bytes(count * DTYPES[dtype][1]))
    draw = _drawer(dtype, ids_max)
    return Tensor(spec.name, dtype, shape, b"".join(draw(rng) for _ in range(count)))


_FLOATS = {"float32": "<f", "float64": "<d", "float16": "<e"}
_INTEGERS = {
    "uint8": "<B", "int8": "<b", "uint16": "<H", "int16": "<h", "int32": "<i", "int64": "<q", "uint32": "<I", "uint64": "<Q",
}  # fmt: skip
_ONES = {
    "bfloat16": 0x3F80, "float8e4m3fn": 0x38, "float8e4m3fnuz": 0x40, "float8e5m2": 0x3C, "float8e5m2fnuz": 0x40,
    "uint4": 1, "int4": 1,
}  # fmt: skip
"""The bits of 1.0, or 1, in types that Python's struct lacks."""


def _one(dtype: str) -> bytes:
    if dtype in _FLOATS:
        return struct.pack(_FLOATS[dtype], 1.0)
    if dtype.startswith("complex"):
        return struct.pack("<ff" if dtype == "complex64" else "<dd", 1.0, 0.0)
    return int(_ONES.get(dtype, 1)).to_bytes(DTYPES[dtype][1], "little")


def _drawer(dtype: str, ids_max: int) -> Callable[[Random], bytes]:
    """Draws one element: floats around 0, integers as token ids are."""
    if dtype in _FLOATS:
        return lambda rng: struct.pack(_FLOATS[dtype], rng.gauss(0.0, 1.0))
    if dtype.startswith("complex"):
        form = "<ff" if dtype == "complex64" else "<dd"
        return lambda rng: struct.pack(form, rng.gauss(0.0, 1.0), rng.gauss(0.0, 1.0))
    if dtype == "bfloat16":  # the upper half of a float32
        return lambda rng: struct.pack("<f", rng.gauss(0.0, 1.0))[2:]
    if dtype.startswith("float8"):  # a random exponent of a moderate size, never an infinity or NaN
        return lambda rng: bytes((rng.randint(0, 1) << 7 | rng.randint(0x20, 0x48),))
    if dtype == "bool":
        return lambda rng: bytes((rng.randint(0, 1),))
    if dtype in ("uint4", "int4"):
        return lambda rng: bytes((rng.randint(0, 7),))
    high = min(ids_max, 127) if DTYPES[dtype][1] == 1 else ids_max
    return lambda rng: struct.pack(_INTEGERS[dtype], rng.randint(0, high))
