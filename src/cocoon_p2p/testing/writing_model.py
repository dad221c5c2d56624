"""A generating model for simulations: its manifest is real, its files are not, and what it writes is `testing.simulated_writing`'s."""

from __future__ import annotations

import json
from pathlib import Path

from cocoon_p2p.models.file_digest import digest_of, piece_hash
from cocoon_p2p.models.layout import model_folder
from cocoon_p2p.models.manifest import GENERATION, FileEntry, GenerationSpec, Manifest
from cocoon_p2p.models.tensor_spec import DYNAMIC, TensorSpec
from cocoon_p2p.testing.simulated_writing import VOCABULARY

_FILES = {"chat_template.jinja": b"{{ messages }}", "model.onnx": b"none", "tokenizer.json": b"{}"}


def writing_model(
    folder: Path, *, name: str = "writer", context: int = 4096, price_base: int = 1000, price_per_item: int = 10
) -> Path:
    """The folder of an installed model."""
    manifest = _manifest(context)
    made = model_folder(folder, manifest.model_id)
    made.mkdir(parents=True)
    for path, content in _FILES.items():
        (made / path).write_bytes(content)
    (made / "manifest.json").write_bytes(manifest.encode())
    offer = {"name": name, "price_base": price_base, "price_per_item": price_per_item, "serve": True}
    (made / "offer.json").write_text(json.dumps(offer))
    return made


def _manifest(context: int) -> Manifest:
    tokens, kept = (DYNAMIC, DYNAMIC), (DYNAMIC, 1, DYNAMIC, 8)
    past = ("past.0.key", "past.0.value")
    return Manifest(
        kind=GENERATION,
        files=tuple(
            FileEntry(path, len(content), digest_of(len(content), [piece_hash(content)]))
            for path, content in sorted(_FILES.items())
        ),
        main="model.onnx",
        inputs=(TensorSpec("input_ids", "int64", tokens), *(TensorSpec(each, "float32", kept) for each in past)),
        outputs=(
            TensorSpec("logits", "float32", (DYNAMIC, DYNAMIC, VOCABULARY)),
            *(TensorSpec(each.replace("past", "present"), "float32", kept) for each in past),
        ),
        opset=(("", 21),),
        generation=GenerationSpec(
            tokenizer="tokenizer.json",
            template="chat_template.jinja",
            bos="",
            eos="",
            eos_ids=(0,),
            context=context,
            vocab=VOCABULARY,
            layers=1,
            kv_heads=1,
            head_size=8,
            kv_dtype="float32",
            ids="input_ids",
            mask=None,
            positions=None,
            logits="logits",
            past_key="past.%d.key",
            past_value="past.%d.value",
            present_key="present.%d.key",
            present_value="present.%d.value",
            in_place=False,
        ),
    )
