"""Finds out how a model with a tokenizer.json beside it takes text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import TEXT_TOKENS_MAX
from cocoon_p2p.models.inspection import OnnxFacts
from cocoon_p2p.models.manifest import TextFrontEnd, is_row_output

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
EMBEDDING_OUTPUT = "sentence_embedding"
_MAX_TOKENS_DEFAULT = 256
_SETTINGS_BYTES_MAX = 65_536


def find_front_end(facts: OnnxFacts, tokenizer: Path, folder: Path) -> TextFrontEnd:
    """`tokenizer` is the copied tokenizer.json, `folder` the model's source, where sentence_bert_config.json may say how
    many tokens the model was trained for. Raises ConfigError when text cannot be fed to this model."""
    settings = _read_tokenizer(tokenizer)
    inputs = {spec.name for spec in facts.inputs}
    outputs = [spec.name for spec in facts.outputs if is_row_output(spec)]
    if IDS not in inputs or not inputs <= {IDS, MASK, TYPES} or not outputs:
        raise ConfigError(
            "there is a tokenizer.json, but the model does not turn token ids into one row for each text",
            hint=f"it must take {IDS}, {MASK}, {TYPES} and give an output [batch, fixed size]; "
            "without tokenizer.json it is added as a model of tensors",
        )
    return TextFrontEnd(
        tokenizer=tokenizer.name,
        max_tokens=_max_tokens(settings, folder),
        pad_id=_pad_id(settings),
        ids=IDS,
        mask=MASK if MASK in inputs else None,
        types=TYPES if TYPES in inputs else None,
        outputs=(EMBEDDING_OUTPUT,) if EMBEDDING_OUTPUT in outputs else tuple(outputs),
    )


def _read_tokenizer(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"tokenizer.json is not JSON: {error}") from error
    if not isinstance(settings, dict) or "model" not in settings:
        raise ConfigError("tokenizer.json is not a tokenizer of the Hugging Face kind (it has no key 'model')")
    return settings


def _max_tokens(settings: dict[str, Any], folder: Path) -> int:
    # sentence-transformers' own setting comes before the tokenizer's, which for MiniLM has a smaller one from training.
    trained = _number(_read_small(folder / "sentence_bert_config.json"), "max_seq_length")
    if trained:
        return min(trained, TEXT_TOKENS_MAX)
    truncation = settings.get("truncation")
    return min(_number(truncation, "max_length") or _MAX_TOKENS_DEFAULT, TEXT_TOKENS_MAX)


def _pad_id(settings: dict[str, Any]) -> int:
    return _number(settings.get("padding"), "pad_id") or 0


def _number(tree: Any, key: str) -> int | None:
    value = tree.get(key) if isinstance(tree, dict) else None
    return value if isinstance(value, int) and value > 0 else None


def _read_small(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return json.loads(file.read(_SETTINGS_BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return None
