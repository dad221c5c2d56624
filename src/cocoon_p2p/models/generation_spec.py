"""The generation part of a manifest: how a graph that predicts one token after the other is fed, and when an answer ends."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from cocoon_p2p.limits import (
    MODEL_CONTEXT_MAX,
    MODEL_END_TOKENS_MAX,
    MODEL_HEAD_SIZE_MAX,
    MODEL_HEADS_MAX,
    MODEL_LAYERS_MAX,
    MODEL_VOCABULARY_MAX,
    TENSOR_NAME_BYTES_MAX,
)
from cocoon_p2p.models.manifest_fields import (
    PATH_CHARS_MAX,
    ManifestError,
    read_boolean,
    read_choice,
    read_integer,
    read_list,
    read_object,
    read_text,
    read_text_or_none,
)
from cocoon_p2p.models.tensor_spec import DYNAMIC, TensorSpec

KV_DTYPES = ("float32", "float16")
_MARK_CHARS_MAX = 256
"""Of the text of a token like "<|begin_of_text|>"."""


@dataclass(frozen=True, slots=True)
class GenerationSpec:
    tokenizer: str
    """Path of a Hugging Face tokenizer.json among the files."""
    template: str | None
    """Path of a chat template (Jinja) among the files; None: the model takes prompts only."""
    bos: str
    eos: str
    """Texts that the template calls bos_token and eos_token; "" where there are none."""
    eos_ids: tuple[int, ...]
    """Tokens that end an answer, ascending."""
    context: int
    """Tokens of prompt and answer together."""
    vocab: int
    """Columns of the logits."""
    layers: int
    kv_heads: int
    head_size: int
    kv_dtype: str
    """One of KV_DTYPES: of keys and values, [batch, kv_heads, tokens, head_size]."""
    ids: str
    mask: str | None
    positions: str | None
    logits: str
    """Names of the inputs [batch, tokens] and of the output [batch, tokens, vocab]."""
    past_key: str
    past_value: str
    present_key: str
    present_value: str
    """Patterns of the names of keys and values going in and coming out, with %d for the layer's number from 0."""
    in_place: bool
    """Every layer has com.microsoft's GroupQueryAttention, which writes the new keys and values into the buffer of the past ones
    where both are one: slots of a fixed length work."""

    def past_names(self) -> tuple[tuple[str, str], ...]:
        """Names of the inputs (key, value) of each layer."""
        return tuple((_named(self.past_key, i), _named(self.past_value, i)) for i in range(self.layers))

    def present_names(self) -> tuple[tuple[str, str], ...]:
        """Names of the outputs (key, value) of each layer."""
        return tuple((_named(self.present_key, i), _named(self.present_value, i)) for i in range(self.layers))

    @property
    def kv_bytes_per_token(self) -> int:
        """Of keys and values of all layers, for one token of one answer."""
        return 2 * self.layers * self.kv_heads * self.head_size * (2 if self.kv_dtype == "float16" else 4)


_KEYS = {field.name for field in fields(GenerationSpec)}


def generation_to_json(spec: GenerationSpec) -> dict[str, Any]:
    return asdict(spec) | {"eos_ids": list(spec.eos_ids)}


# SPEC manifest/1 §2.5
def generation_from_json(tree: Any) -> GenerationSpec:
    """Raises ManifestError."""
    f = read_object(tree, "generation", _KEYS)

    def name(key: str) -> str:
        return read_text(f[key], key, TENSOR_NAME_BYTES_MAX)

    def name_or_none(key: str) -> str | None:
        return read_text_or_none(f[key], key, TENSOR_NAME_BYTES_MAX)

    return GenerationSpec(
        tokenizer=read_text(f["tokenizer"], "tokenizer", PATH_CHARS_MAX),
        template=read_text_or_none(f["template"], "template", PATH_CHARS_MAX),
        bos=read_text(f["bos"], "bos", _MARK_CHARS_MAX),
        eos=read_text(f["eos"], "eos", _MARK_CHARS_MAX),
        eos_ids=read_list(
            f["eos_ids"], "eos_ids", MODEL_END_TOKENS_MAX, lambda n: read_integer(n, "eos_ids", 0, MODEL_VOCABULARY_MAX - 1)
        ),
        context=read_integer(f["context"], "context", 1, MODEL_CONTEXT_MAX),
        vocab=read_integer(f["vocab"], "vocab", 1, MODEL_VOCABULARY_MAX),
        layers=read_integer(f["layers"], "layers", 1, MODEL_LAYERS_MAX),
        kv_heads=read_integer(f["kv_heads"], "kv_heads", 1, MODEL_HEADS_MAX),
        head_size=read_integer(f["head_size"], "head_size", 1, MODEL_HEAD_SIZE_MAX),
        kv_dtype=read_choice(f["kv_dtype"], "kv_dtype", KV_DTYPES),
        ids=name("ids"),
        mask=name_or_none("mask"),
        positions=name_or_none("positions"),
        logits=name("logits"),
        past_key=name("past_key"),
        past_value=name("past_value"),
        present_key=name("present_key"),
        present_value=name("present_value"),
        in_place=read_boolean(f["in_place"], "in_place"),
    )  # fmt: skip


def check_generation(
    spec: GenerationSpec,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    paths: Collection[str],
) -> None:
    """Raises ManifestError when the generation part does not fit the graph or the files."""
    for path in (spec.tokenizer, spec.template):
        if path is not None and path not in paths:
            raise ManifestError(f"{path!r} is not among the files")
    if not spec.eos_ids or list(spec.eos_ids) != sorted(set(spec.eos_ids)) or spec.eos_ids[-1] >= spec.vocab:
        raise ManifestError("eos_ids must be tokens of the vocabulary, at least one, ascending")
    for pattern in (spec.past_key, spec.past_value, spec.present_key, spec.present_value):
        if pattern.count("%d") != 1 or pattern.count("%") != 1:
            raise ManifestError(f"{pattern[:80]!r} must have %d once, for the layer's number")
    _check_inputs(spec, inputs)
    _check_outputs(spec, outputs)


def _check_inputs(spec: GenerationSpec, inputs: Mapping[str, TensorSpec]) -> None:
    fed = [name for name in (spec.ids, spec.mask, spec.positions) if name is not None]
    past = [name for pair in spec.past_names() for name in pair]
    if len({*fed, *past}) != len(fed) + len(past) or {*fed, *past} != set(inputs):
        raise ManifestError("the generation part must feed each input of the model once")
    for name in fed:
        if inputs[name].dtype not in ("int64", "int32") or not _fits(inputs[name], (DYNAMIC, DYNAMIC)):
            raise ManifestError(f"input {name!r} must be int64[batch,?] or int32[batch,?], not {inputs[name]}")
    _check_keys_and_values(spec, past, inputs)


def _check_outputs(spec: GenerationSpec, outputs: Mapping[str, TensorSpec]) -> None:
    logits = outputs.get(spec.logits)
    if logits is None or logits.dtype not in KV_DTYPES or not _fits(logits, (DYNAMIC, DYNAMIC, spec.vocab)):
        raise ManifestError(f"the output {spec.logits!r} must be float[batch,?,{spec.vocab}], not {logits}")
    _check_keys_and_values(spec, [name for pair in spec.present_names() for name in pair], outputs)


def _check_keys_and_values(spec: GenerationSpec, names: list[str], tensors: Mapping[str, TensorSpec]) -> None:
    for name in names:
        tensor = tensors.get(name)
        shape = (DYNAMIC, spec.kv_heads, DYNAMIC, spec.head_size)
        if tensor is None or tensor.dtype != spec.kv_dtype or not _fits(tensor, shape):
            wanted = f"{spec.kv_dtype}[batch,{spec.kv_heads},?,{spec.head_size}]"
            raise ManifestError(f"{name!r} must be {wanted}, not {tensor or 'missing'}")


def _fits(tensor: TensorSpec, shape: tuple[int, ...]) -> bool:
    """Whether the graph lets the tensor have this shape; a dimension that must be free is one."""
    return tensor.shape is None or (
        len(tensor.shape) == len(shape)
        and all(has in (DYNAMIC, wanted) for has, wanted in zip(tensor.shape, shape, strict=True))
    )


def _named(pattern: str, layer: int) -> str:
    return pattern.replace("%d", str(layer))
