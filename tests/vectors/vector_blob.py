"""Operations of blob/1 that are no decoding of a message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from cocoon_p2p.ids import ModelId
from cocoon_p2p.wire.blob import blob_content_id
from cocoon_p2p.wire.blob_layout import BlobLayout, numbers_of

Given = dict[str, Any]


def blob_pieces(given: Given) -> Any:
    layout = BlobLayout(given["sizes"])
    found = layout.decode_set(bytes.fromhex(given["bitfield"]))
    assert layout.encode_set(found).hex() == given["bitfield"]
    return {"places": [asdict(layout.place(i)) for i in range(layout.pieces)], "set": numbers_of(found)}


def content_id(given: Given) -> Any:
    return blob_content_id(ModelId(given["model_id"])).hex()


OPERATIONS: dict[str, Callable[[Given], Any]] = {"blob.pieces": blob_pieces, "blob.content_id": content_id}
CANNOT_FAIL = {"blob.content_id"}
