"""A model's manifest: what it consists of and what it takes and gives. The SHA-256 of its canonical form is the model's id.

Canonical form: JSON in UTF-8, keys sorted, no spaces, integers only. What an operator decides (name, price) is not in
it, so that identical files have one id on every machine. protocols/manifest/1 describes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cocoon_p2p.ids import ModelId, model_id_of
from cocoon_p2p.limits import (
    MANIFEST_BYTES_MAX,
    MANIFEST_FILES_MAX,
    MODEL_BYTES_MAX,
    MODEL_STATES_MAX,
    NAME_CHARS_MAX,
    PAYLOAD_TENSORS_MAX,
    TENSOR_NAME_BYTES_MAX,
)
from cocoon_p2p.models.generation_spec import (
    GenerationSpec,
    check_generation,
    generation_from_json,
    generation_to_json,
)
from cocoon_p2p.models.manifest_fields import (
    MANIFEST_NAME,
    OFFER_NAME,
    PATH_CHARS_MAX,
    PIECES_NAME,
    ManifestError,
    canonical,
    check_path,
    read_choice,
    read_integer,
    read_json,
    read_list,
    read_object,
    read_text,
)
from cocoon_p2p.models.tensor_spec import (
    DYNAMIC,
    TensorSpec,
    is_row_output,
    shape_text,
    spec_from_json,
    spec_to_json,
)
from cocoon_p2p.models.text_part import Pooling, TextFrontEnd, check_text, text_from_json, text_to_json
from cocoon_p2p.models.upstream_claim import UpstreamClaim, check_upstream, upstream_from_json, upstream_to_json

__all__ = [
    "CLASSIFICATION", "DYNAMIC", "EMBEDDING", "FLOAT16", "FLOAT32", "FORMAT", "GENERATION", "INT8", "KINDS", "MANIFEST_NAME", "OFFER_NAME",
    "PIECES_NAME", "PRECISIONS", "TENSOR", "FileEntry", "GenerationSpec", "Manifest", "ManifestError", "Pooling", "TensorSpec",
    "TextFrontEnd", "UpstreamClaim", "check_consistent", "check_path", "is_row_output", "parse_manifest", "shape_text",
]  # fmt: skip

FORMAT = 1
TENSOR, EMBEDDING, CLASSIFICATION, GENERATION = KINDS = ("tensor", "embedding", "classification", "generation")
FLOAT32, FLOAT16, INT8 = PRECISIONS = ("float32", "float16", "int8")
_LICENSE_CHARS_MAX = 256
_OPSETS_MAX = 32
_DIGEST_CHARS = 64


@dataclass(frozen=True, slots=True)
class FileEntry:
    path: str
    """Relative, "/" between its parts; never outside the model's folder."""
    size: int
    """Bytes."""
    digest: str
    """`file_digest.digest_of` its pieces: 64 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Manifest:
    kind: str
    """One of KINDS: tensors in, tensors out; or texts to vectors (embedding), to scores of labels (classification), to more
    text (generation)."""
    files: tuple[FileEntry, ...]
    main: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: tuple[tuple[str, int], ...]
    text: TextFrontEnd | None = None
    """Of embedding and classification."""
    license: str = ""
    precision: str = FLOAT32
    """What it computes in, and so how far the answers of two machines may lie apart: float32 (or more); float16 (or bfloat16)
    somewhere; int8 (8 bits or fewer) somewhere. Left out of the canonical form where it is float32."""
    state: tuple[tuple[str, str], ...] = ()
    """Of a recurrent model: (input, output) of each tensor that one call hands to the next."""
    generation: GenerationSpec | None = None
    upstream: UpstreamClaim | None = None
    """Of a model that no files are here of: its provider has it run by a cluster of his own."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return canonical(_to_json(self))

    @property
    def model_id(self) -> ModelId:
        return model_id_of(self.encode())

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)


def parse_manifest(data: bytes) -> Manifest:
    """The manifest within `data`. Raises ManifestError for anything but a canonical manifest within the bounds."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise ManifestError(f"a manifest has at most {MANIFEST_BYTES_MAX} bytes, not {len(data)}")
    manifest = _manifest(read_json(data))
    check_consistent(manifest)
    try:
        encoded = manifest.encode()
    except UnicodeEncodeError as error:
        raise ManifestError("a text in the manifest is not Unicode") from error
    # SPEC manifest/1 §1
    if encoded != data:
        raise ManifestError("the manifest is not in canonical form")
    return manifest


# SPEC manifest/1 §2
def check_consistent(manifest: Manifest) -> None:
    """Raises ManifestError when the manifest's parts contradict each other."""
    paths = [entry.path for entry in manifest.files]
    if len({path.casefold() for path in paths}) != len(paths):
        raise ManifestError("a file stands twice in the manifest")
    if paths != sorted(paths):
        raise ManifestError("files must be sorted by path")
    if manifest.upstream is None and manifest.main not in paths:
        raise ManifestError(f"the main file {manifest.main!r} is not among the files")
    if manifest.size > MODEL_BYTES_MAX:
        raise ManifestError(f"a model has at most {MODEL_BYTES_MAX} bytes")
    inputs = {spec.name: spec for spec in manifest.inputs}
    outputs = {spec.name: spec for spec in manifest.outputs}
    if len(inputs) != len(manifest.inputs) or len(outputs) != len(manifest.outputs):
        raise ManifestError("an input or output stands twice in the manifest")
    _check_kind(manifest)
    if manifest.text is not None:
        check_text(manifest.text, inputs, outputs, paths)
    if manifest.generation is not None:
        check_generation(manifest.generation, inputs, outputs, paths)
    _check_state(manifest.state, inputs, outputs)


def _check_kind(manifest: Manifest) -> None:
    kind, text = manifest.kind, manifest.text
    if manifest.upstream is not None:
        parts = ("files", "main", "opset", "text", "generation", "state")
        check_upstream(manifest.upstream, kind, {part: getattr(manifest, part) for part in parts})
        return
    if (text is not None) != (kind in (EMBEDDING, CLASSIFICATION)):
        raise ManifestError(f"a model of kind {kind!r} has {'no' if text is None else 'a'} text part")
    if text is not None and bool(text.labels) != (kind == CLASSIFICATION):
        raise ManifestError(f"a model of kind {kind!r} has {'labels' if text.labels else 'no labels'}")
    if (manifest.generation is not None) != (kind == GENERATION):
        raise ManifestError(
            f"a model of kind {kind!r} has {'no' if manifest.generation is None else 'a'} generation part"
        )
    if manifest.state and kind != TENSOR:
        raise ManifestError(f"a model of kind {kind!r} has state; only one of kind {TENSOR!r} can")


_NAMES_SHOWN = 16
"""Of inputs or outputs, in an error."""


# SPEC manifest/1 §2.6
def _check_state(
    state: tuple[tuple[str, str], ...], inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> None:
    if len({into for into, _ in state}) != len(state) or len({out for _, out in state}) != len(state):
        raise ManifestError("an input or output stands twice in the state")
    for into, out in state:
        if into not in inputs or out not in outputs:
            given, kind, there = (into, "input", inputs) if into not in inputs else (out, "output", outputs)
            raise ManifestError(
                f"the state names {given!r}, which is no {kind} of the model; it has {', '.join(sorted(there)[:_NAMES_SHOWN])}"
            )
        if (inputs[into].dtype, inputs[into].shape) != (outputs[out].dtype, outputs[out].shape):
            raise ManifestError(
                f"state goes out as it came in, but {into!r} is {inputs[into]} and {out!r} is {outputs[out]}"
            )
    if any(inputs[into].shape is None for into, _ in state):
        raise ManifestError("a tensor of state must say how many dimensions it has")


def _to_json(manifest: Manifest) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "format": FORMAT,
        "kind": manifest.kind,
        "files": [{"path": f.path, "bytes": f.size, "digest": f.digest} for f in manifest.files],
        "main": manifest.main,
        "inputs": [spec_to_json(spec) for spec in manifest.inputs],
        "outputs": [spec_to_json(spec) for spec in manifest.outputs],
        "opset": dict(manifest.opset),
        "text": None if manifest.text is None else text_to_json(manifest.text),
        "license": manifest.license,
    }
    if manifest.precision != FLOAT32:
        tree["precision"] = manifest.precision
    if manifest.state:
        tree["state"] = [list(pair) for pair in manifest.state]
    if manifest.generation is not None:
        tree["generation"] = generation_to_json(manifest.generation)
    if manifest.upstream is not None:
        tree["upstream"] = upstream_to_json(manifest.upstream)
    return tree


def _manifest(tree: Any) -> Manifest:
    wanted = {"format", "kind", "files", "main", "inputs", "outputs", "opset", "text", "license"}
    fields = read_object(
        tree, "the manifest", wanted, optional=frozenset(("precision", "state", "generation", "upstream"))
    )
    if fields["format"] != FORMAT:
        raise ManifestError("the manifest has a format that is not known here")
    opset = fields["opset"]
    if not isinstance(opset, dict) or len(opset) > _OPSETS_MAX:
        raise ManifestError("opset must be an object")
    return Manifest(
        kind=read_choice(fields["kind"], "kind", KINDS),
        files=read_list(fields["files"], "files", MANIFEST_FILES_MAX, _file),
        main=read_text(fields["main"], "main", PATH_CHARS_MAX),
        inputs=read_list(fields["inputs"], "inputs", PAYLOAD_TENSORS_MAX, spec_from_json),
        outputs=read_list(fields["outputs"], "outputs", PAYLOAD_TENSORS_MAX, spec_from_json),
        opset=tuple(
            sorted(
                (read_text(k, "opset", NAME_CHARS_MAX), read_integer(v, "opset", 0, 2**31)) for k, v in opset.items()
            )
        ),
        text=None if fields["text"] is None else text_from_json(fields["text"]),
        license=read_text(fields["license"], "license", _LICENSE_CHARS_MAX),
        precision=read_choice(fields.get("precision", FLOAT32), "precision", PRECISIONS),
        state=read_list(fields.get("state", []), "state", MODEL_STATES_MAX, _state),
        generation=generation_from_json(fields["generation"]) if "generation" in fields else None,
        upstream=upstream_from_json(fields["upstream"]) if "upstream" in fields else None,
    )


def _file(tree: Any) -> FileEntry:
    fields = read_object(tree, "a file", {"path", "bytes", "digest"})
    digest = read_text(fields["digest"], "digest", _DIGEST_CHARS)
    if len(digest) != _DIGEST_CHARS or any(c not in "0123456789abcdef" for c in digest):
        raise ManifestError(f"digest must be {_DIGEST_CHARS} lower-case hexadecimal digits")
    path = read_text(fields["path"], "path", PATH_CHARS_MAX)
    check_path(path)
    return FileEntry(path, read_integer(fields["bytes"], "bytes", 0, MODEL_BYTES_MAX), digest)


def _state(tree: Any) -> tuple[str, str]:
    pair = read_list(tree, "a pair of the state", 2, lambda name: read_text(name, "state", TENSOR_NAME_BYTES_MAX))
    if len(pair) != 2:
        raise ManifestError("a pair of the state is an input's name and an output's")
    return pair[0], pair[1]
