"""Reads how a model generates text from a folder of onnxruntime-genai: genai_config.json and the tokenizer's files."""

from __future__ import annotations

from typing import Any

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import CHAT_TEMPLATE_BYTES_MAX, GENERATION_TOKENS_MAX
from cocoon_p2p.models.inspection import OnnxFacts
from cocoon_p2p.models.manifest import GenerationSpec, TensorSpec
from cocoon_p2p.models.source import GENAI_CONFIG
from cocoon_p2p.models.text_front_end import Settings

TEMPLATE_FILE = "chat_template.jinja"
_MARK_CHARS_MAX = 256


def find_generation(facts: OnnxFacts, settings: Settings, tokenizer: str, template: str | None) -> GenerationSpec:
    """`tokenizer` and `template` are the paths among the model's files. Names that genai_config.json leaves out are those
    that genai itself assumes (its documentation, "Config reference"). Raises ConfigError for a graph that cannot be fed."""
    model = _part(settings(GENAI_CONFIG), "model")
    decoder = _part(model, "decoder")
    named_in, named_out = decoder.get("inputs", {}), decoder.get("outputs", {})
    if not isinstance(named_in, dict) or not isinstance(named_out, dict):
        raise _wrong("model.decoder.inputs and outputs must be objects")
    if "past_names" in named_in or "present_names" in named_out:
        raise _wrong("its graph keeps keys and values in one tensor a layer; they must be two")
    inputs = {spec.name: spec for spec in facts.inputs}
    outputs = {spec.name: spec for spec in facts.outputs}
    layers = _whole(decoder, "num_hidden_layers")
    past_key = _text(named_in, "past_key_names", "past_key_values.%d.key")
    past_value = _text(named_in, "past_value_names", "past_key_values.%d.value")
    present_key = _text(named_out, "present_key_names", "present.%d.key")
    present_value = _text(named_out, "present_value_names", "present.%d.value")
    first = inputs.get(past_key.replace("%d", "0"))
    if first is None:
        raise _wrong(f"the graph has no input {past_key.replace('%d', '0')!r} for past keys")
    logits = _text(named_out, "logits", "logits")
    bos, eos = (_mark(settings, key) for key in ("bos_token", "eos_token"))
    mask, positions = (_text(named_in, name, name) for name in ("attention_mask", "position_ids"))
    names = (past_key, past_value, present_key, present_value)
    return GenerationSpec(
        tokenizer=tokenizer,
        template=template,
        bos=bos,
        eos=eos,
        eos_ids=_end_ids(model),
        context=min(_whole(model, "context_length"), GENERATION_TOKENS_MAX),
        vocab=_fixed(outputs.get(logits), 2) or _whole(model, "vocab_size"),
        layers=layers,
        kv_heads=_fixed(first, 1) or _whole(decoder, "num_key_value_heads"),
        head_size=_fixed(first, 3) or _whole(decoder, "head_size"),
        kv_dtype=first.dtype,
        ids=_text(named_in, "input_ids", "input_ids"),
        mask=mask if mask in inputs else None,
        positions=positions if positions in inputs else None,
        logits=logits,
        past_key=past_key,
        past_value=past_value,
        present_key=present_key,
        present_value=present_value,
        in_place=shares_buffers(facts, layers, names),
    )


def shares_buffers(facts: OnnxFacts, layers: int, names: tuple[str, str, str, str]) -> bool:
    """Whether each layer has a GroupQueryAttention of its own from its past inputs straight to its present outputs."""
    wanted = {tuple(name.replace("%d", str(layer)) for name in names) for layer in range(layers)}
    return set(facts.grouped) == wanted and len(facts.grouped) == layers


def find_template(settings: Settings) -> bytes | None:
    """The chat template in tokenizer_config.json; of several the one called "default"."""
    config = settings("tokenizer_config.json")
    template = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default", next(iter(named.values()), None))
    if not isinstance(template, str) or not template:
        return None
    data = template.encode(errors="replace")
    if len(data) > CHAT_TEMPLATE_BYTES_MAX:
        raise _wrong(f"its chat template has {len(data)} bytes; at most {CHAT_TEMPLATE_BYTES_MAX} are taken")
    return data


def _mark(settings: Settings, key: str) -> str:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        tree = settings(name)
        mark = tree.get(key) if isinstance(tree, dict) else None
        mark = mark.get("content") if isinstance(mark, dict) else mark
        if isinstance(mark, str) and len(mark) <= _MARK_CHARS_MAX:
            return mark
    return ""


def _end_ids(model: dict[str, Any]) -> tuple[int, ...]:
    given = model.get("eos_token_id")
    ids = given if isinstance(given, list) else [given]
    if not ids or not all(type(each) is int and each >= 0 for each in ids):
        raise _wrong("model.eos_token_id must be a token's number, or a list of them")
    return tuple(sorted(set(ids)))


def _part(tree: Any, key: str) -> dict[str, Any]:
    part = tree.get(key) if isinstance(tree, dict) else None
    if not isinstance(part, dict):
        raise _wrong(f"it has no object {key!r}")
    return part


def _whole(tree: dict[str, Any], key: str) -> int:
    value = tree.get(key)
    if type(value) is not int or value < 1:
        raise _wrong(f"{key} must be a whole number above 0")
    return value


def _text(tree: dict[str, Any], key: str, usual: str) -> str:
    value = tree.get(key, usual)
    if not isinstance(value, str) or not value:
        raise _wrong(f"{key} must be a text")
    return value


def _fixed(spec: TensorSpec | None, place: int) -> int | None:
    """A dimension that the graph itself fixes."""
    shape = spec.shape if spec is not None else None
    return shape[place] if shape is not None and len(shape) > place and shape[place] > 0 else None


def _wrong(what: str) -> ConfigError:
    return ConfigError(
        f"{GENAI_CONFIG}: {what}",
        hint="make the folder with onnxruntime-genai's model builder: python -m onnxruntime_genai.models.builder",
    )
