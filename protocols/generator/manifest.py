"""Scenarios of manifest/1."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from generator.kit import JSON, Scenarios, error, sha256

PIECE = 1 << 20
SIZES = {"empty": 0, "one-byte": 1, "one-piece": PIECE, "a-byte-more": PIECE + 1, "three-pieces": 2 * PIECE + 1000}


def scenarios() -> Scenarios:
    found = Scenarios("manifest/1")
    for name, tree in _good().items():
        found.add(name, _section(name), "manifest.decode", {"manifest": _canonical(tree)}, _expected(tree))
    for name, (section, data) in _bad().items():
        found.add(name, section, "manifest.decode", {"manifest": data}, error("MALFORMED"))
    for name, size in SIZES.items():
        hashes = _hashes(size)
        found.add(
            f"pieces-{name}",
            "3",
            "manifest.pieces",
            {"bytes": size},
            {"hashes": hashes, "digest": _digest(size, hashes)},
        )
    hashes = _hashes(PIECE + 1)
    found.add("digest", "3", "manifest.digest", {"bytes": PIECE + 1, "hashes": hashes}, _digest(PIECE + 1, hashes))
    for name, wrong in {
        "short": hashes[:1],
        "long": [*hashes, hashes[0]],
        "half-a-hash": [hashes[0], hashes[1][:16]],
    }.items():
        found.add(f"digest-{name}", "3", "manifest.digest", {"bytes": PIECE + 1, "hashes": wrong}, error("MALFORMED"))
    return found


def _section(name: str) -> str:
    parts = {
        "embedding": "2.4",
        "pooled": "2.4",
        "classification": "2.4",
        "generation": "2.5",
        "recurrent": "2.6",
        "upstream": "2.7",
    }
    return parts.get(name, "2.1")


def _canonical(tree: Any) -> bytes:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _expected(tree: JSON) -> JSON:
    return {
        "model_id": sha256(_canonical(tree)),
        "kind": tree["kind"],
        "bytes": sum(file["bytes"] for file in tree["files"]),
        "paths": [file["path"] for file in tree["files"]],
        "inputs": [tensor["name"] for tensor in tree["inputs"]],
        "outputs": [tensor["name"] for tensor in tree["outputs"]],
    }


def _content(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def _hashes(size: int) -> list[bytes]:
    content = _content(size)
    return [sha256(content[at : at + PIECE]) for at in range(0, size, PIECE)]


def _digest(size: int, hashes: list[bytes]) -> str:
    return hashlib.sha256(b"cocoon-p2p/file/1\0" + size.to_bytes(8, "big") + b"".join(hashes)).hexdigest()


# --- manifests -------------------------------------------------------------------------------------------------------


def _file(path: str, size: int) -> JSON:
    return {"path": path, "bytes": size, "digest": _digest(size, _hashes(size))}


def _tensor(name: str, dtype: str, *shape: int) -> JSON:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def _model(**parts: Any) -> JSON:
    return {
        "format": 1,
        "kind": "tensor",
        "files": [_file("model.onnx", 100)],
        "main": "model.onnx",
        "inputs": [_tensor("x", "float32", -1, 3)],
        "outputs": [{"name": "y", "dtype": "string", "shape": None}],
        "opset": {"": 21, "com.microsoft": 1},
        "text": None,
        "license": "",
        **parts,
    }


def _text(**parts: Any) -> JSON:
    return {
        "tokenizer": "tokenizer.json",
        "max_tokens": 256,
        "pad_id": 0,
        "inputs": {"ids": "input_ids", "mask": "attention_mask", "types": None},
        "outputs": ["sentence_embedding"],
        **parts,
    }


def _text_model(output: JSON, text: JSON, kind: str = "embedding") -> JSON:
    inputs = [_tensor(name, "int64", -1, -1) for name in ("input_ids", "attention_mask")]
    files = [_file("model.onnx", 100), _file("tokenizer.json", 50)]
    return _model(kind=kind, files=files, inputs=inputs, outputs=[output], text=text)


def _classifier(**parts: Any) -> JSON:
    text = {"outputs": ["scores"], "labels": ["good", "bad"], "activation": "softmax", "logits": "logits", **parts}
    return _text_model(_tensor("logits", "float32", -1, 2), _text(**text), "classification")


def _generator(**parts: Any) -> JSON:
    spec = {
        "tokenizer": "tokenizer.json", "template": "chat_template.jinja", "bos": "<s>", "eos": "</s>", "eos_ids": [2, 7],
        "context": 1024, "vocab": 300, "layers": 1, "kv_heads": 2, "head_size": 16, "kv_dtype": "float16",
        "ids": "input_ids", "mask": "attention_mask", "positions": None, "logits": "logits",
        "past_key": "past.%d.key", "past_value": "past.%d.value", "present_key": "present.%d.key", "present_value": "present.%d.value",
        "in_place": True, **parts,
    }  # fmt: skip
    past = [_tensor(f"past.0.{kind}", "float16", -1, 2, -1, 16) for kind in ("key", "value")]
    present = [_tensor(f"present.0.{kind}", "float16", -1, 2, -1, 16) for kind in ("key", "value")]
    return _model(
        kind="generation",
        files=[_file("chat_template.jinja", 40), _file("model.onnx", 100), _file("tokenizer.json", 50)],
        inputs=[_tensor("input_ids", "int64", -1, -1), _tensor("attention_mask", "int64", -1, -1), *past],
        outputs=[_tensor("logits", "float32", -1, -1, 300), *present],
        generation=spec,
    )


def _recurrent(**parts: Any) -> JSON:
    inputs = [_tensor("x", "float32", -1, 3), _tensor("h_in", "float32", 1, 8)]
    outputs = [_tensor("y", "float32", -1, 3), _tensor("h_out", "float32", 1, 8)]
    return _model(inputs=inputs, outputs=outputs, state=[["h_in", "h_out"]], **parts)


def _good() -> dict[str, JSON]:
    hidden = _tensor("last_hidden_state", "float32", -1, -1, 8)
    pooling = {"output": "last_hidden_state", "how": "mean", "normalize": True}
    upstream = {"files": [], "main": "", "opset": {}, "upstream": {"kind": "open-inference", "model": "resnet"}}
    return {
        "tensor": _model(license="Größe \n\u2028"),
        "half-precision": _model(precision="float16"),
        "embedding": _text_model(_tensor("sentence_embedding", "float32", -1, 8), _text()),
        "pooled": _text_model(hidden, _text(outputs=["embeddings"], pooling=pooling)),
        "classification": _classifier(),
        "generation": _generator(),
        "recurrent": _recurrent(),
        "upstream": _model(**upstream),
    }


def _bad() -> dict[str, tuple[str, bytes]]:
    good = _canonical(_model())
    trees: dict[str, tuple[str, JSON]] = {
        "format-2": ("2.1", _model(format=2)),
        "unknown-kind": ("2.1", _model(kind="chat")),
        "default-precision": ("2.1", _model(precision="float32")),
        "no-state": ("2.1", _model(state=[])),
        "unknown-key": ("2.1", _model(extra=1)),
        "fraction": ("1", _model(format=1.0)),
        "main-missing": ("2.1", _model(main="other.onnx")),
        "path-leads-out": ("2.2", _model(files=[_file("../model.onnx", 1)], main="../model.onnx")),
        "path-reserved": ("2.2", _model(files=[_file("Manifest.json", 1)], main="Manifest.json")),
        "paths-same-but-for-case": ("2.2", _model(files=[_file("A.bin", 1), _file("a.bin", 1)], main="a.bin")),
        "paths-not-sorted": ("2.1", _model(files=[_file("z", 1), _file("model.onnx", 1)])),
        "digest-in-capitals": ("2.2", _model(files=[{"path": "model.onnx", "bytes": 1, "digest": "A" * 64}])),
        "tensor-twice": ("2.1", _model(inputs=[_tensor("x", "float32", 1)] * 2)),
        "dimension-below-minus-one": ("2.3", _model(inputs=[_tensor("x", "float32", -2)])),
        "labels-too-few": ("2.4", _classifier(labels=["good"])),
        "labels-and-pooling": ("2.4", _classifier(pooling={"output": "logits", "how": "mean", "normalize": False})),
        "default-activation": ("2.4", _classifier(activation="none")),
        "labels-of-an-embedding": ("2.4", _classifier() | {"kind": "embedding"}),
        "end-tokens-not-ascending": ("2.5", _generator(eos_ids=[7, 2])),
        "end-token-outside-of-the-vocabulary": ("2.5", _generator(eos_ids=[300])),
        "layers-missing-in-the-graph": ("2.5", _generator(layers=2)),
        "pattern-without-a-number": ("2.5", _generator(past_key="past.0.key")),
        "template-missing": ("2.5", _generator(template="other.jinja")),
        "generation-of-a-tensor-model": ("2.5", _generator() | {"kind": "tensor"}),
        "state-of-another-shape": ("2.6", _recurrent() | {"state": [["h_in", "y"]]}),
        "upstream-with-files": ("2.7", _model(upstream={"kind": "open-inference", "model": "resnet"})),
    }  # fmt: skip
    return {
        "empty": ("1", b""),
        "space": ("1", good.replace(b'"format":1', b'"format": 1')),
        "escaped": ("1", good.replace(b'"license":""', b'"license":"\\u0041"')),
        "key-twice": ("1", good.replace(b'"format":1', b'"format":1,"format":1')),
        "keys-not-sorted": ("1", json.dumps(_model(), separators=(",", ":")).encode()),
        "too-long": ("1", _canonical(_model(license="x" * 262_144))),
        **{name: (section, _canonical(tree)) for name, (section, tree) in trees.items()},
    }
