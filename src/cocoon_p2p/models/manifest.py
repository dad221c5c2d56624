"""A model's manifest: what it consists of and what it takes and gives. The SHA-256 of its canonical form is the model's id.

Canonical form: JSON in UTF-8, keys sorted, no spaces, integers only. What an operator decides (name, price) is not in
it, so that identical files have one id on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cocoon_p2p.ids import ModelId, model_id_of
from cocoon_p2p.limits import (
    MANIFEST_BYTES_MAX,
    MANIFEST_FILES_MAX,
    MODEL_BYTES_MAX,
    NAME_CHARS_MAX,
    PAYLOAD_RANK_MAX,
    PAYLOAD_TENSORS_MAX,
    TENSOR_NAME_BYTES_MAX,
    TEXT_TOKENS_MAX,
)
from cocoon_p2p.tensors import DTYPES

_T = TypeVar("_T")

FORMAT = 1
DYNAMIC = -1
TENSOR, EMBEDDING = "tensor", "embedding"
FLOAT32, FLOAT16, INT8 = PRECISIONS = ("float32", "float16", "int8")
MANIFEST_NAME, OFFER_NAME = "manifest.json", "offer.json"
_PATH_CHARS_MAX = 200
_LICENSE_CHARS_MAX = 256
_OPSETS_MAX = 32


class ManifestError(ValueError):
    """The bytes are no manifest of this format; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    path: str
    """Relative, "/" between its parts; never outside the model's folder."""
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of the model's graph."""

    name: str
    dtype: str
    """A key of `tensors.DTYPES`."""
    shape: tuple[int, ...] | None
    """-1 where a dimension is dynamic; None when the graph does not even say how many there are."""

    def __str__(self) -> str:
        return f"{self.dtype}{shape_text(self.shape)}"

    @property
    def leading_dynamic(self) -> bool:
        return bool(self.shape) and self.shape[0] == DYNAMIC  # type: ignore[index]


@dataclass(frozen=True, slots=True)
class TextFrontEnd:
    """How strings become the model's inputs, and which of its outputs a text job gives."""

    tokenizer: str
    """Path of a Hugging Face tokenizer.json among the files."""
    max_tokens: int
    pad_id: int
    ids: str
    mask: str | None
    types: str | None
    """Names of the inputs that take token ids, attention mask and segment ids; all [batch, tokens]."""
    outputs: tuple[str, ...]
    """Outputs with one row for each string, [batch, fixed…]."""


@dataclass(frozen=True, slots=True)
class Manifest:
    kind: str
    files: tuple[FileEntry, ...]
    main: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: tuple[tuple[str, int], ...]
    text: TextFrontEnd | None = None
    license: str = ""
    precision: str = FLOAT32
    """What it computes in, and so how far the answers of two machines may lie apart: float32 (or more); float16 (or bfloat16)
    somewhere; int8 (8 bits or fewer) somewhere. Left out of the canonical form where it is float32."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return _canonical(_to_json(self))

    @property
    def model_id(self) -> ModelId:
        return model_id_of(self.encode())

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)


def shape_text(shape: Sequence[int] | None) -> str:
    """A shape for people: "[batch,384]", "[?]" for one that is dynamic elsewhere than in front."""
    if shape is None:
        return "[…]"
    words = [("batch" if i == 0 else "?") if dim == DYNAMIC else str(dim) for i, dim in enumerate(shape)]
    return f"[{','.join(words)}]"


def parse_manifest(data: bytes) -> Manifest:
    """The manifest within `data`. Raises ManifestError for anything but a canonical manifest within the bounds."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise ManifestError(f"a manifest has at most {MANIFEST_BYTES_MAX} bytes, not {len(data)}")
    try:
        tree = json.loads(data, parse_float=_no_float, parse_constant=_no_float, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"not JSON: {error}"[:200]) from error
    manifest = _manifest(tree)
    check_consistent(manifest)
    try:
        canonical = manifest.encode()
    except UnicodeEncodeError as error:
        raise ManifestError("a text in the manifest is not Unicode") from error
    if canonical != data:
        raise ManifestError("the manifest is not in canonical form")
    return manifest


def check_path(path: str) -> None:
    """Raises ManifestError unless `path` is a relative path that stays within the model's folder everywhere."""
    parts = path.split("/")
    plain = all(part and not part.startswith(".") and not part.endswith((" ", ".")) for part in parts)
    if not plain or len(path) > _PATH_CHARS_MAX or any(c in '\\:*?"<>|' or not c.isprintable() for c in path):
        raise ManifestError(f"{path[:80]!r} is not allowed as the path of a model's file")
    if path in (MANIFEST_NAME, OFFER_NAME):
        raise ManifestError(f"a model's file cannot be called {path}")


def check_consistent(manifest: Manifest) -> None:
    """Raises ManifestError when the manifest's parts contradict each other."""
    paths = [entry.path for entry in manifest.files]
    if len({path.casefold() for path in paths}) != len(paths):
        raise ManifestError("a file stands twice in the manifest")
    if paths != sorted(paths):
        raise ManifestError("files must be sorted by path")
    if manifest.main not in paths:
        raise ManifestError(f"the main file {manifest.main!r} is not among the files")
    if sum(entry.size for entry in manifest.files) > MODEL_BYTES_MAX:
        raise ManifestError(f"a model has at most {MODEL_BYTES_MAX} bytes")
    inputs = {spec.name: spec for spec in manifest.inputs}
    outputs = {spec.name: spec for spec in manifest.outputs}
    if len(inputs) != len(manifest.inputs) or len(outputs) != len(manifest.outputs):
        raise ManifestError("an input or output stands twice in the manifest")
    if (manifest.text is None) != (manifest.kind == TENSOR):
        raise ManifestError(f"a model of kind {manifest.kind!r} has {'no' if manifest.text is None else 'a'} text part")
    if manifest.text is not None:
        _check_text(manifest.text, inputs, outputs, paths)


def _check_text(
    text: TextFrontEnd, inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec], paths: list[str]
) -> None:
    if text.tokenizer not in paths:
        raise ManifestError(f"the tokenizer {text.tokenizer!r} is not among the files")
    fed = [name for name in (text.ids, text.mask, text.types) if name is not None]
    if len(set(fed)) != len(fed) or set(fed) != set(inputs):
        raise ManifestError("the text part must feed each input of the model once")
    for name in fed:
        spec = inputs[name]
        if spec.dtype not in ("int64", "int32") or (spec.shape is not None and spec.shape != (DYNAMIC, DYNAMIC)):
            raise ManifestError(f"the text part needs input {name!r} as int64[batch,?] or int32[batch,?], not {spec}")
    if not text.outputs or len(set(text.outputs)) != len(text.outputs):
        raise ManifestError("the text part must name its outputs, each once")
    for name in text.outputs:
        if name not in outputs or not is_row_output(outputs[name]):
            raise ManifestError(f"the text part's output {name!r} is not one of the model's outputs [batch, fixed…]")


def is_row_output(spec: TensorSpec) -> bool:
    """Whether an output has one row of fixed shape for each item of a batch."""
    return spec.leading_dynamic and spec.dtype != "string" and all(dim > 0 for dim in (spec.shape or ())[1:])


def _canonical(tree: Any) -> bytes:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _to_json(manifest: Manifest) -> dict[str, Any]:
    precision = {} if manifest.precision == FLOAT32 else {"precision": manifest.precision}
    return precision | {
        "format": FORMAT,
        "kind": manifest.kind,
        "files": [{"path": f.path, "bytes": f.size, "sha256": f.sha256} for f in manifest.files],
        "main": manifest.main,
        "inputs": [_spec_to_json(spec) for spec in manifest.inputs],
        "outputs": [_spec_to_json(spec) for spec in manifest.outputs],
        "opset": dict(manifest.opset),
        "text": None if manifest.text is None else _text_to_json(manifest.text),
        "license": manifest.license,
    }


def _spec_to_json(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}


def _text_to_json(text: TextFrontEnd) -> dict[str, Any]:
    return {
        "tokenizer": text.tokenizer,
        "max_tokens": text.max_tokens,
        "pad_id": text.pad_id,
        "inputs": {"ids": text.ids, "mask": text.mask, "types": text.types},
        "outputs": list(text.outputs),
    }


def _manifest(tree: Any) -> Manifest:
    wanted = {"format", "kind", "files", "main", "inputs", "outputs", "opset", "text", "license"}
    if isinstance(tree, dict) and "precision" in tree:
        wanted.add("precision")
    fields = _object(tree, "the manifest", wanted)
    if fields.get("precision", FLOAT32) not in PRECISIONS:
        raise ManifestError("the manifest has a precision that is not known here")
    if fields["format"] != FORMAT:
        raise ManifestError("the manifest has a format that is not known here")
    if fields["kind"] not in (TENSOR, EMBEDDING):
        raise ManifestError("the manifest has a kind that is not known here")
    opset = fields["opset"]
    if not isinstance(opset, dict) or len(opset) > _OPSETS_MAX:
        raise ManifestError("opset must be an object")
    return Manifest(
        kind=fields["kind"],
        files=_list(fields["files"], "files", MANIFEST_FILES_MAX, _file),
        main=_text(fields["main"], "main", _PATH_CHARS_MAX),
        inputs=_list(fields["inputs"], "inputs", PAYLOAD_TENSORS_MAX, _spec),
        outputs=_list(fields["outputs"], "outputs", PAYLOAD_TENSORS_MAX, _spec),
        opset=tuple(
            sorted((_text(k, "opset", NAME_CHARS_MAX), _integer(v, "opset", 0, 2**31)) for k, v in opset.items())
        ),
        text=None if fields["text"] is None else _front_end(fields["text"]),
        license=_text(fields["license"], "license", _LICENSE_CHARS_MAX),
        precision=fields.get("precision", FLOAT32),
    )


def _file(tree: Any) -> FileEntry:
    fields = _object(tree, "a file", {"path", "bytes", "sha256"})
    digest = _text(fields["sha256"], "sha256", 64)
    if len(digest) != 64 or any(c not in "0123456789abcdef" for c in digest):
        raise ManifestError("sha256 must be 64 lower-case hexadecimal digits")
    path = _text(fields["path"], "path", _PATH_CHARS_MAX)
    check_path(path)
    return FileEntry(path, _integer(fields["bytes"], "bytes", 0, MODEL_BYTES_MAX), digest)


def _spec(tree: Any) -> TensorSpec:
    fields = _object(tree, "a tensor", {"name", "dtype", "shape"})
    name = _text(fields["name"], "name", TENSOR_NAME_BYTES_MAX)
    if not name or len(name.encode(errors="replace")) > TENSOR_NAME_BYTES_MAX:
        raise ManifestError(f"a tensor's name has 1 to {TENSOR_NAME_BYTES_MAX} bytes")
    dtype = _text(fields["dtype"], "dtype", 16)
    if dtype not in DTYPES:
        raise ManifestError(f"tensor {name!r} has a dtype that is not known here")
    shape = fields["shape"]
    if shape is not None:
        shape = _list(shape, "shape", PAYLOAD_RANK_MAX, lambda dim: _integer(dim, "shape", DYNAMIC, 2**40))
    return TensorSpec(name, dtype, shape)


def _front_end(tree: Any) -> TextFrontEnd:
    fields = _object(tree, "text", {"tokenizer", "max_tokens", "pad_id", "inputs", "outputs"})
    inputs = _object(fields["inputs"], "text.inputs", {"ids", "mask", "types"})
    return TextFrontEnd(
        tokenizer=_text(fields["tokenizer"], "tokenizer", _PATH_CHARS_MAX),
        max_tokens=_integer(fields["max_tokens"], "max_tokens", 1, TEXT_TOKENS_MAX),
        pad_id=_integer(fields["pad_id"], "pad_id", 0, 2**31 - 1),
        ids=_text(inputs["ids"], "ids", TENSOR_NAME_BYTES_MAX),
        mask=None if inputs["mask"] is None else _text(inputs["mask"], "mask", TENSOR_NAME_BYTES_MAX),
        types=None if inputs["types"] is None else _text(inputs["types"], "types", TENSOR_NAME_BYTES_MAX),
        outputs=_list(fields["outputs"], "outputs", 16, lambda name: _text(name, "outputs", TENSOR_NAME_BYTES_MAX)),
    )


def _object(tree: Any, what: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(tree, dict) or set(tree) != keys:
        raise ManifestError(f"{what} must be an object with the keys {', '.join(sorted(keys))}")
    return tree


def _list(tree: Any, what: str, length_max: int, entry: Callable[[Any], _T]) -> tuple[_T, ...]:
    if not isinstance(tree, list) or len(tree) > length_max:
        raise ManifestError(f"{what} must be a list of at most {length_max}")
    return tuple(entry(item) for item in tree)


def _text(tree: Any, what: str, length_max: int) -> str:
    if not isinstance(tree, str) or len(tree) > length_max:
        raise ManifestError(f"{what} must be a text of at most {length_max} characters")
    return tree


def _integer(tree: Any, what: str, least: int, most: int) -> int:
    if not isinstance(tree, int) or isinstance(tree, bool) or not least <= tree <= most:
        raise ManifestError(f"{what} must be an integer from {least} to {most}")
    return tree


def _no_float(text: str) -> Any:
    raise ManifestError(f"{text[:20]!r}: only integers stand in a manifest")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ManifestError("a key stands twice in the manifest")
    return fields
