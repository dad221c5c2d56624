"""The text part of a manifest: how strings become a model's inputs, and what a text job gets out of its outputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cocoon_p2p.limits import MODEL_LABEL_CHARS_MAX, MODEL_LABELS_MAX, TENSOR_NAME_BYTES_MAX, TEXT_TOKENS_MAX
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
from cocoon_p2p.models.tensor_spec import DYNAMIC, TensorSpec, is_row_output

MEAN, CLS, MAX = POOLINGS = ("mean", "cls", "max")
SOFTMAX, SIGMOID, NO_ACTIVATION = ACTIVATIONS = ("softmax", "sigmoid", "none")
EMBEDDINGS_OUTPUT, SCORES_OUTPUT = "embeddings", "scores"
"""What a text job gives where the worker itself computes it from an output of the graph: float32[batch, n]."""
COMPUTED_DTYPE = "float32"
_FLOATS = ("float32", "float16")
_OUTPUTS_MAX = 16


@dataclass(frozen=True, slots=True)
class Pooling:
    """How one vector a text comes from one vector a token (Reimers & Gurevych 2019)."""

    output: str
    """Of the graph, float[batch, tokens, fixed]."""
    how: str
    """One of POOLINGS, over the tokens that are no padding; cls: the first."""
    normalize: bool
    """Whether it is brought to length 1."""


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
    """What a text job gives, one row for each string: outputs of the graph [batch, fixed…]; or EMBEDDINGS_OUTPUT alone where
    there is `pooling`, SCORES_OUTPUT alone where there are `labels`."""
    pooling: Pooling | None = None
    labels: tuple[str, ...] = ()
    """Of a classifier: what column i of the scores stands for."""
    activation: str = NO_ACTIVATION
    """One of ACTIVATIONS: makes scores of the logits."""
    logits: str | None = None
    """Of a classifier: the graph's output [batch, labels]."""

    @property
    def runs(self) -> tuple[str, ...]:
        """The graph's outputs that a text job needs."""
        if self.pooling is not None:
            return (self.pooling.output,)
        return self.outputs if self.logits is None else (self.logits,)


def text_to_json(text: TextFrontEnd) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "tokenizer": text.tokenizer,
        "max_tokens": text.max_tokens,
        "pad_id": text.pad_id,
        "inputs": {"ids": text.ids, "mask": text.mask, "types": text.types},
        "outputs": list(text.outputs),
    }
    if text.pooling is not None:
        pooling = text.pooling
        tree["pooling"] = {"output": pooling.output, "how": pooling.how, "normalize": pooling.normalize}
    if text.labels:
        tree["labels"] = list(text.labels)
    if text.activation != NO_ACTIVATION:
        tree["activation"] = text.activation
    if text.logits is not None:
        tree["logits"] = text.logits
    return tree


# SPEC manifest/1 §2.4
def text_from_json(tree: Any) -> TextFrontEnd:
    """Raises ManifestError."""
    keys = {"tokenizer", "max_tokens", "pad_id", "inputs", "outputs"}
    fields = read_object(tree, "text", keys, optional=frozenset(("pooling", "labels", "activation", "logits")))
    inputs = read_object(fields["inputs"], "text.inputs", {"ids", "mask", "types"})
    return TextFrontEnd(
        tokenizer=read_text(fields["tokenizer"], "tokenizer", PATH_CHARS_MAX),
        max_tokens=read_integer(fields["max_tokens"], "max_tokens", 1, TEXT_TOKENS_MAX),
        pad_id=read_integer(fields["pad_id"], "pad_id", 0, 2**31 - 1),
        ids=read_text(inputs["ids"], "ids", TENSOR_NAME_BYTES_MAX),
        mask=read_text_or_none(inputs["mask"], "mask", TENSOR_NAME_BYTES_MAX),
        types=read_text_or_none(inputs["types"], "types", TENSOR_NAME_BYTES_MAX),
        outputs=read_list(
            fields["outputs"], "outputs", _OUTPUTS_MAX, lambda name: read_text(name, "outputs", TENSOR_NAME_BYTES_MAX)
        ),
        pooling=_pooling(fields["pooling"]) if "pooling" in fields else None,
        labels=read_list(
            fields.get("labels", []), "labels", MODEL_LABELS_MAX, lambda name: read_text(name, "a label", MODEL_LABEL_CHARS_MAX)
        ),
        activation=read_choice(fields.get("activation", NO_ACTIVATION), "activation", ACTIVATIONS),
        logits=read_text_or_none(fields.get("logits"), "logits", TENSOR_NAME_BYTES_MAX),
    )  # fmt: skip


def check_text(
    text: TextFrontEnd, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec], paths: Collection[str]
) -> None:
    """Raises ManifestError when the text part does not fit the graph or the files."""
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
    if text.logits is not None or text.labels or text.activation != NO_ACTIVATION:
        _check_labels(text, outputs)
    elif text.pooling is not None:
        _check_pooling(text, text.pooling, outputs)
    else:
        for name in text.outputs:
            if name not in outputs or not is_row_output(outputs[name]):
                raise ManifestError(
                    f"the text part's output {name!r} is not one of the model's outputs [batch, fixed…]"
                )


def can_be_pooled(spec: TensorSpec) -> bool:
    """Whether an output is float[batch, tokens, fixed]: one vector a token."""
    shape = spec.shape
    return spec.dtype in _FLOATS and shape is not None and len(shape) == 3 and shape[:2] == (-1, -1) and shape[2] > 0


def gives_labels(spec: TensorSpec) -> int:
    """The number of labels of an output float[batch, labels]; 0 for another."""
    shape = spec.shape
    fits = spec.dtype in _FLOATS and shape is not None and len(shape) == 2 and shape[0] == DYNAMIC and shape[1] > 0
    return shape[1] if fits and shape is not None else 0


def _check_pooling(text: TextFrontEnd, pooling: Pooling, outputs: Mapping[str, TensorSpec]) -> None:
    if text.outputs != (EMBEDDINGS_OUTPUT,):
        raise ManifestError(f"a text part with pooling has the one output {EMBEDDINGS_OUTPUT!r}")
    spec = outputs.get(pooling.output)
    if spec is None or not can_be_pooled(spec):
        raise ManifestError(
            f"the output {pooling.output!r} to be pooled is not one of the model's, float[batch,?,fixed]"
        )


def _check_labels(text: TextFrontEnd, outputs: Mapping[str, TensorSpec]) -> None:
    if text.outputs != (SCORES_OUTPUT,) or text.pooling is not None:
        raise ManifestError(f"a text part with labels has the one output {SCORES_OUTPUT!r}, and no pooling")
    spec = None if text.logits is None else outputs.get(text.logits)
    if spec is None or not text.labels or gives_labels(spec) != len(text.labels):
        raise ManifestError(f"the output {text.logits!r} does not have a column for each of {len(text.labels)} labels")


def _pooling(tree: Any) -> Pooling:
    fields = read_object(tree, "pooling", {"output", "how", "normalize"})
    return Pooling(
        read_text(fields["output"], "pooling.output", TENSOR_NAME_BYTES_MAX),
        read_choice(fields["how"], "pooling.how", POOLINGS),
        read_boolean(fields["normalize"], "pooling.normalize"),
    )
