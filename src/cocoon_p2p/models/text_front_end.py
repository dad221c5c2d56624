"""Finds out how a model with a tokenizer.json beside it takes text: as an embedding model, or as a classifier."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import MODEL_LABEL_CHARS_MAX, MODEL_LABELS_MAX, TEXT_TOKENS_MAX
from cocoon_p2p.models.inspection import OnnxFacts
from cocoon_p2p.models.manifest import CLASSIFICATION, EMBEDDING, Pooling, TextFrontEnd, is_row_output
from cocoon_p2p.models.text_part import (
    CLS,
    EMBEDDINGS_OUTPUT,
    MAX,
    MEAN,
    NO_ACTIVATION,
    SCORES_OUTPUT,
    SIGMOID,
    SOFTMAX,
    can_be_pooled,
    gives_labels,
)

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
EMBEDDING_OUTPUT = "sentence_embedding"
_TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
_MAX_TOKENS_DEFAULT = 256
_MODES = {"cls_token": CLS, "mean_tokens": MEAN, "max_tokens": MAX}
"""Keys pooling_mode_… of sentence-transformers' 1_Pooling/config.json that are known here."""

Settings = Callable[[str], Any]
"""Reads a JSON file of the model's folder; None when it is not there."""


@dataclass(frozen=True, slots=True)
class FoundText:
    kind: str
    text: TextFrontEnd


def find_text(facts: OnnxFacts, tokenizer: Path, settings: Settings, *, pooling: str | None = None) -> FoundText:
    """`tokenizer` is the copied tokenizer.json; `pooling` the operator's own word on it. Raises ConfigError when text cannot be
    fed to this model."""
    tree = _read_tokenizer(tokenizer)
    inputs = {spec.name for spec in facts.inputs}
    if IDS not in inputs or not inputs <= {IDS, MASK, TYPES}:
        raise _no_text(f"it must take {IDS}, {MASK}, {TYPES}")
    plain = TextFrontEnd(
        tokenizer=tokenizer.name,
        max_tokens=_max_tokens(tree, settings),
        pad_id=_pad_id(tree),
        ids=IDS,
        mask=MASK if MASK in inputs else None,
        types=TYPES if TYPES in inputs else None,
        outputs=(),
    )
    return _labelled(facts, plain, settings) or FoundText(EMBEDDING, _embedding(facts, plain, settings, pooling))


# --- classifiers -----------------------------------------------------------------------------------------------------


def _labelled(facts: OnnxFacts, plain: TextFrontEnd, settings: Settings) -> FoundText | None:
    """A classifier: config.json names its labels, and an output has a column for each."""
    config = settings("config.json")
    labels = _labels(config)
    logits = [spec.name for spec in facts.outputs if labels and gives_labels(spec) == len(labels)]
    if len(logits) != 1 or not isinstance(config, dict):
        return None
    activation = _activation(config.get("problem_type"), len(labels))
    text = replace(plain, outputs=(SCORES_OUTPUT,), labels=labels, activation=activation, logits=logits[0])
    return FoundText(CLASSIFICATION, text)


def _labels(config: Any) -> tuple[str, ...]:
    """In order of their numbers; none when config.json has none, or what cannot be."""
    named = config.get("id2label") if isinstance(config, dict) else None
    if not isinstance(named, dict) or not 0 < len(named) <= MODEL_LABELS_MAX:
        return ()
    labels = tuple(named.get(str(number)) for number in range(len(named)))
    if not all(isinstance(label, str) and len(label) <= MODEL_LABEL_CHARS_MAX for label in labels):
        return ()
    return tuple(str(label) for label in labels)


def _activation(problem_type: Any, count: int) -> str:
    """As transformers' TextClassificationPipeline decides it."""
    if problem_type == "regression":
        return NO_ACTIVATION
    return SIGMOID if problem_type == "multi_label_classification" or count == 1 else SOFTMAX


# --- embedding models ------------------------------------------------------------------------------------------------


def _embedding(facts: OnnxFacts, plain: TextFrontEnd, settings: Settings, wanted: str | None) -> TextFrontEnd:
    rows = [spec.name for spec in facts.outputs if is_row_output(spec)]
    poolable = [spec.name for spec in facts.outputs if can_be_pooled(spec)]
    if EMBEDDING_OUTPUT in rows and wanted is None:
        return replace(plain, outputs=(EMBEDDING_OUTPUT,))
    token_output = next(
        (name for name in _TOKEN_OUTPUTS if name in poolable), poolable[0] if len(poolable) == 1 else None
    )
    pooling = None
    if token_output is not None:
        pooling = Pooling(token_output, wanted, normalize=True) if wanted else _pooling(token_output, settings)
    if pooling is not None:
        return replace(plain, outputs=(EMBEDDINGS_OUTPUT,), pooling=pooling)
    if wanted is not None and EMBEDDING_OUTPUT in rows:
        raise ConfigError(
            f"the model's output {EMBEDDING_OUTPUT} is a vector for each text already: there is nothing to pool",
            hint="leave --pooling out",
        )
    if wanted is not None:
        raise _no_text("nothing to pool: it has no output [batch, tokens, fixed size]")
    if not rows:
        hint = "it must give an output [batch, fixed size]"
        if token_output is not None:
            hint = (
                f"{token_output} has a vector for each token; say how one for the text is made of them: --pooling mean"
            )
        raise _no_text(hint)
    return replace(plain, outputs=tuple(rows))


def _pooling(output: str, settings: Settings) -> Pooling | None:
    """What sentence-transformers' modules.json and 1_Pooling/config.json say; None when they are not there."""
    modules = settings("modules.json")
    kinds = [_module(entry) for entry in modules] if isinstance(modules, list) else []
    further = [kind for kind, _ in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if further:
        raise _no_text(f"modules.json has a layer {further[0]!r} behind the graph, which would be left out")
    folder = next((path for kind, path in kinds if kind == "Pooling"), "1_Pooling")
    config = settings(posixpath.join(folder, "config.json"))
    if not isinstance(config, dict):
        return None
    modes = {
        key.removeprefix("pooling_mode_")
        for key, on in config.items()
        if key.startswith("pooling_mode_") and on is True
    }
    named = config.get("pooling_mode")
    if isinstance(named, str):
        modes = {f"{named}_token" if named == CLS else f"{named}_tokens"}
    if len(modes) != 1 or not modes <= set(_MODES):
        raise _no_text(f"{folder}/config.json wants the pooling {' and '.join(sorted(modes)) or 'of no kind'}")
    return Pooling(output, _MODES[modes.pop()], normalize="Normalize" in [kind for kind, _ in kinds])


def _module(entry: Any) -> tuple[str, str]:
    """(last word of its type, its folder); a folder that leads out is none."""
    if not isinstance(entry, dict):
        return "", ""
    kind, path = str(entry.get("type", "")).rpartition(".")[2], str(entry.get("path", ""))
    return kind[:40], path if path == posixpath.basename(path) and not path.startswith(".") else ""


# --- the tokenizer ---------------------------------------------------------------------------------------------------


def _read_tokenizer(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"tokenizer.json is not JSON: {error}") from error
    if not isinstance(tree, dict) or "model" not in tree:
        raise ConfigError("tokenizer.json is not a tokenizer of the Hugging Face kind (it has no key 'model')")
    return tree


def _max_tokens(tokenizer: dict[str, Any], settings: Settings) -> int:
    # sentence-transformers' own setting comes before the tokenizer's, which for MiniLM has a smaller one from training.
    trained = _number(settings("sentence_bert_config.json"), "max_seq_length")
    truncation = _number(tokenizer.get("truncation"), "max_length")
    return min(trained or truncation or _number(settings("tokenizer_config.json"), "model_max_length") or _MAX_TOKENS_DEFAULT, TEXT_TOKENS_MAX)  # fmt: skip


def _pad_id(tokenizer: dict[str, Any]) -> int:
    return _number(tokenizer.get("padding"), "pad_id") or 0


def _number(tree: Any, key: str) -> int | None:
    """A sensible length: tokenizers of transformers write 10^30 where they know none."""
    value = tree.get(key) if isinstance(tree, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else None


def _no_text(what: str) -> ConfigError:
    return ConfigError(
        "there is a tokenizer.json, but the model does not turn token ids into one row for each text",
        hint=f"{what}; without tokenizer.json it is added as a model of tensors",
    )
