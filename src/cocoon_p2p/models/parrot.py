"""The demo's language model: it has learnt from a few lines of text which word follows which, and writes such words.

A chain of words (Markov 1913, Shannon 1948) as a graph that a language model's runner can feed: a table of log-probabilities, looked up by
the last word. It keeps past and present as attention would, one number a token, and never reads them. 40 kB, the same bytes
each time; nothing that anybody would call intelligent.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LESSONS = """\
A provider runs models for others. A provider is paid for each job. A provider announces a price, and a client may take it.
The client seals the input to the provider. The client pays for the words that have come, and for no others.
The answer comes word by word. Each word is sealed by itself. When a provider dies, another one goes on with the next word.
Nobody runs the network. The network has no centre, and nobody can switch the network off.
Your machine earns money while you sleep. Your machine is yours, and the node stops when you come back.
A model is named by what is in it. A model that one node has, the other nodes can fetch. Nobody can put another model in its place.
A parrot repeats what it has heard. A parrot knows which word follows the word before, and nothing else.
The words of a parrot are cheap. Two nodes that never met can trust the receipt. The receipt is signed by the provider and by the client.
"""
_BLANK = "\N{LOWER ONE EIGHTH BLOCK}"
_UNKNOWN, _END = "<unk>", "<end>"
_NEVER = -30.0
"""Natural logarithm of the probability of a word that was never heard behind another."""
_END_AFTER_SENTENCE = 0.08
_CONTEXT = 512
OPSET, IR_VERSION = 20, 10


def build_parrot(destination: Path) -> Path:
    """Write a folder of onnxruntime-genai, for `ModelRegistry.add`, and return it. Takes 0.2 s."""
    words = _words(LESSONS)
    vocabulary = [_UNKNOWN, _END, *sorted(set(words))]
    destination.mkdir(parents=True, exist_ok=True)
    model = _graph(_table(words, vocabulary))
    (destination / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    _write(destination / "tokenizer.json", _tokenizer(vocabulary))
    _write(destination / "genai_config.json", _genai_config(vocabulary))
    return destination


def _words(text: str) -> list[str]:
    """Words with the blank before them, and marks without one."""
    found = re.findall(r"\w+|[.,]", text)
    return [word if word in ".," else _BLANK + word for word in found]


def _table(words: list[str], vocabulary: list[str]) -> NDArray[np.float32]:
    """[vocabulary, vocabulary]: the logarithm of how often the second followed the first. An unknown word is followed as a
    sentence's end is."""
    import numpy as np

    number = {word: place for place, word in enumerate(vocabulary)}
    counts = np.zeros((len(vocabulary), len(vocabulary)))
    for first, second in pairwise(words):
        counts[number[first], number[second]] += 1
    stop = number["."]
    counts[stop, number[_END]] = _END_AFTER_SENTENCE * counts[stop].sum()
    counts[number[_UNKNOWN]] = counts[stop]
    counts[number[_END], number[_END]] = 1
    shares = counts / counts.sum(axis=1, keepdims=True)
    return np.where(counts > 0, np.log(np.maximum(shares, 1e-9)), _NEVER).astype(np.float32)


def _graph(table: NDArray[np.float32]) -> Any:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    past = ("past_key_values.0.key", "past_key_values.0.value")
    present = ("present.0.key", "present.0.value")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["logits"]),
        helper.make_node("Cast", ["input_ids"], ["as_number"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["as_number", "places"], ["kept"]),
        *(
            helper.make_node("Concat", [before, "kept"], [after], axis=2)
            for before, after in zip(past, present, strict=True)
        ),
    ]
    kept_shape = ["batch", 1, "past", 1]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, kept_shape) for name in past]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", len(table)])]
    outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, "total", 1]) for name in present]
    constants = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1, 3], np.int64), "places")]
    graph = helper.make_graph(nodes, "parrot", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="cocoon-parrot")


def _tokenizer(vocabulary: list[str]) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    pieces = {"type": "Metaspace", "replacement": _BLANK, "prepend_scheme": "always", "split": True}
    marks = {"type": "Split", "pattern": {"Regex": "[.,]"}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": place, "content": vocabulary[place], **flags} for place in (0, 1)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [pieces, marks]},
        "post_processor": None,
        "decoder": pieces,
        "model": {
            "type": "WordLevel",
            "vocab": {word: place for place, word in enumerate(vocabulary)},
            "unk_token": _UNKNOWN,
        },
    }


def _genai_config(vocabulary: list[str]) -> dict[str, Any]:
    decoder = {"filename": "model.onnx", "head_size": 1, "num_key_value_heads": 1, "num_hidden_layers": 1}
    ends = vocabulary.index(_END)
    return {
        "model": {
            "type": "parrot",
            "vocab_size": len(vocabulary),
            "context_length": _CONTEXT,
            "eos_token_id": ends,
            "decoder": decoder,
        }
    }


def _write(path: Path, tree: dict[str, Any]) -> None:
    path.write_text(json.dumps(tree, ensure_ascii=False, indent=1), encoding="utf-8")
