"""A tiny Llama with random weights as a folder of onnxruntime-genai, made with numpy and onnx alone: for tests and benchmarks.

The same bytes each time. Its greedy answers wander through many tokens, so that a test which compares them compares something,
and it never ends by itself: the special tokens have the logit 0, below the largest of the others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cocoon_p2p.testing.tiny_genai_graph import GRAPHS, TinyShape, tiny_graph

SPECIAL_TOKENS = (
    "<|pad|>",
    "<|bos|>",
    "<|eos|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|tool|>",
    "<|tool_call|>",
    "<|/tool_call|>",
)
"""Their ids are their places; byte b has the id FIRST_BYTE + b."""
FIRST_BYTE = len(SPECIAL_TOKENS)
VOCAB = FIRST_BYTE + 256
TEMPLATE = """\
{{ bos_token }}
{%- if tools %}{{ '<|system|>tools: ' + (tools | tojson) + eos_token }}{% endif %}
{%- for message in messages %}
{%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}{{ raise_exception('no such role') }}{% endif %}
{{- '<|' + message['role'] + '|>' + (message['content'] or '') + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""


def make_tiny_genai(
    folder: Path,
    *,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    ffn: int = 128,
    context: int = 1024,
    seed: int = 0,
    graph: str = "grouped",
    kv_dtype: str = "float32",
) -> Path:
    """Write model.onnx, genai_config.json, tokenizer.json, tokenizer_config.json and chat_template.jinja; returns `folder`.

    `graph`: "grouped" (GroupQueryAttention turns the keys itself: what genai's model builder makes for a CPU), "positions"
    (GroupQueryAttention behind rotations that read `position_ids`) or "plain" (attention of basic operators, which
    concatenates past and present). `kv_dtype`: "float32" or "float16".
    """
    if graph not in GRAPHS:
        raise ValueError(f"graph must be one of {GRAPHS}")
    shape = TinyShape(VOCAB, hidden, layers, heads, kv_heads, ffn, context, graph, kv_dtype)
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_graph(shape, _weights(shape, seed))
    (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    _write_json(folder / "genai_config.json", _genai_config(shape))
    _write_json(folder / "tokenizer.json", _tokenizer())
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


@dataclass(slots=True)
class _Draws:
    """Uniform numbers of mean 0 from raw bits, which numpy promises never to change."""

    bits: np.random.Philox

    def matrix(self, *shape: int, gain: float = 1.0) -> NDArray[np.float32]:
        """Of standard deviation gain / √rows: what goes through such a matrix keeps its size."""
        raw = self.bits.random_raw(int(np.prod(shape))) >> np.uint64(40)
        uniform = raw.astype(np.float64) / 2**23 - 1.0
        scaled: NDArray[np.float32] = (uniform * np.sqrt(3.0 / shape[0]) * gain).astype(np.float32)
        return scaled.reshape(shape)


def _weights(shape: TinyShape, seed: int) -> dict[str, NDArray[np.float32]]:
    draws = _Draws(np.random.Philox(key=np.array([seed, 0x636F636F6F6E], np.uint64)))
    hidden, width = shape.hidden, shape.head_size
    embed = draws.matrix(shape.vocab, hidden) * np.float32(np.sqrt(shape.vocab))
    head = draws.matrix(hidden, shape.vocab, gain=2.0) * _byte_weights()
    weights = {"embed": embed, "lm_head": head, "norm": np.ones(hidden, np.float32)}
    for layer in range(shape.layers):
        own = {
            # Sharp attention: what stood far behind counts as much as the last token, so answers do not run in circles.
            "q": draws.matrix(hidden, shape.heads * width, gain=2.0),
            "k": draws.matrix(hidden, shape.kv_heads * width, gain=2.0),
            "v": draws.matrix(hidden, shape.kv_heads * width, gain=2.0),
            "o": draws.matrix(shape.heads * width, hidden, gain=2.0),
            "gate": draws.matrix(hidden, shape.ffn),
            "up": draws.matrix(hidden, shape.ffn),
            "down": draws.matrix(shape.ffn, hidden, gain=2.0),
            "norm_1": np.ones(hidden, np.float32),
            "norm_2": np.ones(hidden, np.float32),
        }
        weights.update({f"layer{layer}.{name}": value for name, value in own.items()})
    return weights


def _byte_weights() -> NDArray[np.float32]:
    """Letters and blanks are likelier than other characters, and these than bytes that need others beside them."""
    weights = np.zeros(VOCAB, np.float32)
    for byte in range(256):
        letter = byte == 0x20 or 0x61 <= byte <= 0x7A
        weights[FIRST_BYTE + byte] = 1.0 if letter else 0.75 if 0x20 <= byte < 0x7F else 0.5
    return weights


# --- the files beside the graph --------------------------------------------------------------------------------------


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in byte-level tokenizers: GPT-2's `bytes_to_unicode`."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable}
    characters |= {byte: chr(0x100 + place) for place, byte in enumerate(others)}
    return [characters[byte] for byte in range(256)]


def _tokenizer() -> dict[str, Any]:
    vocab = {token: number for number, token in enumerate((*SPECIAL_TOKENS, *byte_alphabet()))}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": number, "content": token, **flags} for number, token in enumerate(SPECIAL_TOKENS)]
    model: dict[str, Any] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": [],
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": model,
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "pad_token": "<|pad|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }


def _genai_config(shape: TinyShape) -> dict[str, Any]:
    inputs = {name: name for name in shape.text_inputs}
    inputs |= {f"past_{kind}_names": f"past_key_values.%d.{kind}" for kind in ("key", "value")}
    outputs = {"logits": "logits"} | {f"present_{kind}_names": f"present.%d.{kind}" for kind in ("key", "value")}
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model.onnx",
        "head_size": shape.head_size,
        "hidden_size": shape.hidden,
        "inputs": inputs,
        "outputs": outputs,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
    }
    model = {
        "bos_token_id": SPECIAL_TOKENS.index("<|bos|>"),
        "eos_token_id": SPECIAL_TOKENS.index("<|eos|>"),
        "pad_token_id": SPECIAL_TOKENS.index("<|pad|>"),
        "bot_token_id": SPECIAL_TOKENS.index("<|tool_call|>"),
        "eot_token_id": SPECIAL_TOKENS.index("<|/tool_call|>"),
        "context_length": shape.context,
        "decoder": decoder,
        "type": "llama",
        "vocab_size": shape.vocab,
    }
    search = {
        "do_sample": False,
        "max_length": shape.context,
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": shape.in_place,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
        "early_stopping": True,
        "length_penalty": 1.0,
        "diversity_penalty": 0.0,
        "no_repeat_ngram_size": 0,
    }
    return {"model": model, "search": search}


def _write_json(path: Path, tree: dict[str, Any]) -> None:
    path.write_text(json.dumps(tree, ensure_ascii=False, indent=1), encoding="utf-8")
