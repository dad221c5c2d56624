"""Operations of manifest/1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.models.file_digest import PieceHashes, digest_of
from cocoon_p2p.models.manifest import ManifestError, parse_manifest

Given = dict[str, Any]


def manifest_decode(given: Given) -> Any:
    data = bytes.fromhex(given["manifest"])
    try:
        manifest = parse_manifest(data)
    except ManifestError as error:
        raise RemoteProtocolError(str(error), code="MALFORMED") from error
    assert manifest.encode() == data
    return {
        "model_id": manifest.model_id,
        "kind": manifest.kind,
        "bytes": manifest.size,
        "paths": [file.path for file in manifest.files],
        "inputs": [spec.name for spec in manifest.inputs],
        "outputs": [spec.name for spec in manifest.outputs],
    }


def manifest_digest(given: Given) -> Any:
    try:
        return digest_of(given["bytes"], [bytes.fromhex(each) for each in given["hashes"]])
    except ValueError as error:
        raise RemoteProtocolError(str(error), code="MALFORMED") from error


def manifest_pieces(given: Given) -> Any:
    size, pieces = given["bytes"], PieceHashes()
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    for at in range(0, size, 99_999):  # cut anyhow
        pieces.feed(content[at : at + 99_999])
    return {"hashes": [each.hex() for each in pieces.hashes], "digest": pieces.digest}


OPERATIONS: dict[str, Callable[[Given], Any]] = {
    "manifest.decode": manifest_decode,
    "manifest.digest": manifest_digest,
    "manifest.pieces": manifest_pieces,
}
CANNOT_FAIL = {"manifest.pieces"}
