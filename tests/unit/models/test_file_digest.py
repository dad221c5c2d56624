"""A file's digest, by pieces; and what is damaged is found by the piece."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.limits import BLOB_CHUNK_BYTES
from cocoon_p2p.models.file_digest import PieceHashes, digest_of, piece_bytes, piece_count, piece_hash, piece_matches
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.layout import ModelDamaged, read_pieces, verify_files
from cocoon_p2p.models.manifest import PIECES_NAME
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry
from cocoon_p2p.testing import models


@given(st.integers(0, 2 * BLOB_CHUNK_BYTES + 5), st.integers(1, BLOB_CHUNK_BYTES + 9))
def test_however_the_bytes_are_cut(size: int, step: int) -> None:
    step = max(step, size // 50 + 1)
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    found = PieceHashes()
    for at in range(0, size, step):
        found.feed(content[at : at + step])
    starts = range(0, size, BLOB_CHUNK_BYTES)
    hashes = [piece_hash(content[at : at + BLOB_CHUNK_BYTES]) for at in starts]
    assert (found.size, list(found.hashes)) == (size, hashes)
    assert found.digest == digest_of(size, hashes)
    assert [piece_bytes(size, i) for i in range(piece_count(size))] == [
        len(content[at : at + BLOB_CHUNK_BYTES]) for at in starts
    ]


def test_the_size_is_part_of_the_digest() -> None:
    hashes = [piece_hash(b"a")]
    assert digest_of(1, hashes) != digest_of(2, hashes)
    with pytest.raises(ValueError, match="has 2 pieces, not 1"):
        digest_of(BLOB_CHUNK_BYTES + 1, hashes)
    with pytest.raises(IndexError):
        piece_bytes(5, 1)
    assert piece_matches(b"a", hashes[0])
    assert not piece_matches(b"b", hashes[0])


@pytest.fixture
def installed(tmp_path: Path) -> InstalledModel:
    """A model with three pieces of weights beside its graph."""
    source = tmp_path / "source"
    path = models.external_data_model(source, "w.bin", elements=(2 * BLOB_CHUNK_BYTES + 400) // 4)
    (source / "w.bin").write_bytes(bytes(2 * BLOB_CHUNK_BYTES + 400))
    return ModelRegistry(tmp_path / "home", inspect=inspect_onnx).add(path)


def test_an_altered_piece_is_named_and_nothing_behind_it_is_read(installed: InstalledModel) -> None:
    with (installed.folder / "w.bin").open("r+b") as file:
        file.seek(BLOB_CHUNK_BYTES + 7)
        file.write(b"!")
    read: list[int] = []
    where = f"between bytes {BLOB_CHUNK_BYTES} and {2 * BLOB_CHUNK_BYTES - 1}"
    with pytest.raises(ModelDamaged, match=rf"w\.bin was altered after it was added, {where}$"):
        verify_files(installed.folder, installed.manifest, progress=read.append)
    assert sum(read) == (installed.folder / "model.onnx").stat().st_size + 2 * BLOB_CHUNK_BYTES


@pytest.mark.parametrize("left", ["nothing", "half", "wrong"])
def test_without_the_hashes_of_the_pieces_the_digest_decides(installed: InstalledModel, left: str) -> None:
    assert set(read_pieces(installed.folder, installed.manifest)) == {"model.onnx", "w.bin"}
    pieces = installed.folder / PIECES_NAME
    kept = pieces.read_bytes()
    pieces.unlink() if left == "nothing" else pieces.write_bytes(kept[:40] if left == "half" else kept[::-1])
    assert "w.bin" not in read_pieces(installed.folder, installed.manifest)
    verify_files(installed.folder, installed.manifest)
    with (installed.folder / "w.bin").open("r+b") as file:
        file.write(b"!")
    with pytest.raises(ModelDamaged, match=r"w\.bin was altered after it was added$"):
        verify_files(installed.folder, installed.manifest)


def test_another_size_is_seen_before_anything_is_read(installed: InstalledModel) -> None:
    with (installed.folder / "model.onnx").open("ab") as file:
        file.write(b"!")
    read: list[int] = []
    with pytest.raises(ModelDamaged, match="bytes, not"):
        verify_files(installed.folder, installed.manifest, progress=read.append)
    assert not read
