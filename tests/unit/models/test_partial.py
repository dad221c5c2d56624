"""A model that is on its way: what came stays, whatever happens, and nothing else."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import BLOB_PARTIAL_KEPT_S
from cocoon_p2p.models import partial as partial_module
from cocoon_p2p.models.file_digest import PieceHashes
from cocoon_p2p.models.manifest import TENSOR, FileEntry, Manifest, TensorSpec
from cocoon_p2p.models.partial import PartialModel, open_partial, partial_folder, partial_manifest
from cocoon_p2p.models.registry import ModelRegistry, Offer
from cocoon_p2p.models.wanted import Wanted, read_wanted, remember_wanted
from cocoon_p2p.models.whole import open_whole
from cocoon_p2p.wire.blob_layout import numbers_of

MIB = 1 << 20
SIZES = (3 * MIB + 17, 0, 1000, MIB, 2 * MIB)
PATHS = ("model.onnx", "w/empty.bin", "w/short.bin", "w/two/exact.bin", "weights.bin")
X, Y = TensorSpec("x", "float32", (-1, 4)), TensorSpec("y", "float32", (-1, 4))


def make(
    sizes: tuple[int, ...] = SIZES, paths: tuple[str, ...] = PATHS
) -> tuple[Manifest, dict[str, bytes], dict[str, PieceHashes]]:
    contents = {path: Random(path).randbytes(size) for path, size in zip(paths, sizes, strict=True)}
    hashes = {}
    for path, data in contents.items():
        hashes[path] = PieceHashes()
        hashes[path].feed(data)
    files = tuple(
        sorted((FileEntry(path, len(contents[path]), hashes[path].digest) for path in paths), key=lambda e: e.path)
    )
    return Manifest(TENSOR, files, "model.onnx", (X,), (Y,), (("", 21),)), contents, hashes


MANIFEST, CONTENTS, HASHES = make()


def data_of(partial: PartialModel, piece: int) -> bytes:
    place = partial.layout.place(piece)
    return CONTENTS[MANIFEST.files[place.file].path][place.offset : place.offset + place.size]


def keep_all_hashes(partial: PartialModel) -> None:
    for file, entry in enumerate(MANIFEST.files):
        if partial.layout.counts[file] > 1:
            assert partial.keep_hashes(file, HASHES[entry.path].joined)


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_pieces_in_any_order_with_stops_in_between(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    partial = open_partial(home, MANIFEST)
    keep_all_hashes(partial)
    order = data.draw(st.permutations(range(partial.layout.pieces)))
    stops = data.draw(st.sets(st.sampled_from(order)))
    kept = 0
    for piece in order:
        if piece in stops:  # as after kill -9
            partial = open_partial(home, MANIFEST)
            assert partial.have == kept and partial_manifest(home, MANIFEST.model_id) == MANIFEST
        right = data_of(partial, piece)
        assert not partial.keep_piece(piece, bytes([right[0] ^ 1]) + right[1:])
        assert partial.keep_piece(piece, memoryview(right))
        kept |= 1 << piece
    model = partial.install(ModelRegistry(home), Offer("m"))
    ModelRegistry(home).verify(model.model_id)
    assert not partial_folder(home, MANIFEST.model_id).exists()
    assert {path.name for path in model.folder.iterdir() if path.name.startswith(".")} == set()
    whole = open_whole(model)
    buffer = memoryview(bytearray(MIB))
    for piece in order:
        assert bytes(buffer[: whole.read_piece(piece, buffer)]) == data_of(partial, piece)
        buffer[:] = bytes(len(buffer))
        size = whole.read_cached(piece, buffer)
        assert size is None or bytes(buffer[:size]) == data_of(partial, piece)


def test_what_was_altered_meanwhile_is_fetched_again(tmp_path: Path) -> None:
    partial = open_partial(tmp_path, MANIFEST)
    keep_all_hashes(partial)
    for piece in range(partial.layout.pieces):
        partial.keep_piece(piece, data_of(partial, piece))
    path = partial.folder / "model.onnx"
    raw = bytearray(path.read_bytes())
    raw[2 * MIB + 1] ^= 1
    path.write_bytes(raw)
    (partial.folder / "w/short.bin").unlink()
    (partial.folder / "w/short.bin").symlink_to(path)
    read: list[int] = []
    assert open_partial(tmp_path, MANIFEST, advance=read.append).have == 0  # somebody was at it: all anew
    partial = open_partial(tmp_path, MANIFEST)
    keep_all_hashes(partial)
    for piece in range(partial.layout.pieces):
        partial.keep_piece(piece, data_of(partial, piece))
    raw = bytearray((partial.folder / "model.onnx").read_bytes())
    raw[2 * MIB + 1] ^= 1
    (partial.folder / "model.onnx").write_bytes(raw)
    again = open_partial(tmp_path, MANIFEST)
    assert numbers_of(again.layout.full & ~again.have) == [again.layout.firsts[0] + 2]


def test_hashes_that_are_not_the_models(tmp_path: Path) -> None:
    partial = open_partial(tmp_path, MANIFEST)
    right = HASHES["model.onnx"].joined
    for wrong in (right[:-32], right + right[:32], bytes(len(right)), right[:-1], b""):
        assert not partial.keep_hashes(0, wrong)
    assert not partial.keep_piece(0, data_of(partial, 0))  # not before its hashes are known
    assert partial.keep_hashes(0, right) and partial.keep_piece(0, data_of(partial, 0))
    with pytest.raises(ConfigError):
        partial.install(ModelRegistry(tmp_path), Offer("m"))


def test_a_model_that_does_not_fit_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=300_000_000))
    with pytest.raises(ConfigError, match="needs 7 MB on the disk"):
        open_partial(tmp_path, MANIFEST) if MANIFEST.size > 50_000_000 else open_partial_of_little(
            tmp_path, monkeypatch
        )
    assert not partial_folder(tmp_path, MANIFEST.model_id).exists()


def open_partial_of_little(home: Path, monkeypatch: pytest.MonkeyPatch) -> PartialModel:
    usage = shutil.disk_usage(home)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    return open_partial(home, MANIFEST)


def test_an_empty_file_that_has_the_digest_of_another(tmp_path: Path) -> None:
    files = (FileEntry("empty", 0, "ab" * 32), *MANIFEST.files[:1])
    hostile = Manifest(TENSOR, files, MANIFEST.files[0].path, (X,), (Y,), (("", 21),))
    with pytest.raises(ConfigError, match="never be verified"):
        open_partial(tmp_path, hostile)


def test_a_name_that_is_taken_costs_nothing_that_came(tmp_path: Path) -> None:
    partial = open_partial(tmp_path, MANIFEST)
    keep_all_hashes(partial)
    for piece in range(partial.layout.pieces):
        partial.keep_piece(piece, data_of(partial, piece))
    first = partial.install(ModelRegistry(tmp_path), Offer("m"))
    other, contents, hashes = make((5,), ("model.onnx",))
    second = open_partial(tmp_path, other)
    second.keep_piece(0, contents["model.onnx"])
    with pytest.raises(ConfigError, match="another model is called"):
        second.install(ModelRegistry(tmp_path), Offer("m"))
    again = open_partial(tmp_path, other)
    assert again.have == again.layout.full and again.install(ModelRegistry(tmp_path), Offer("n")).name == "n"
    assert first.name == "m" and hashes


def test_what_nobody_goes_on_with_is_removed_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_partial(tmp_path, MANIFEST)
    other, _, _ = make((5,), ("model.onnx",))
    monkeypatch.setattr(partial_module, "BLOB_PARTIAL_KEPT_S", -1.0)
    open_partial(tmp_path, other)
    assert not partial_folder(tmp_path, MANIFEST.model_id).exists()


def test_a_file_that_was_altered_is_not_shared(tmp_path: Path) -> None:
    partial = open_partial(tmp_path, MANIFEST)
    keep_all_hashes(partial)
    for piece in range(partial.layout.pieces):
        partial.keep_piece(piece, data_of(partial, piece))
    model = partial.install(ModelRegistry(tmp_path), Offer("m"))
    (model.folder / "pieces.bin").unlink()
    assert open_whole(model).hashes(0, 1, 2) == HASHES["model.onnx"].joined[32:96]
    assert (model.folder / "pieces.bin").exists()
    path = model.folder / "w/short.bin"
    path.write_bytes(bytes(1000))
    with pytest.raises(Exception, match="altered"):
        open_whole(model)


def test_what_was_asked_for_long_ago_is_not_wanted_any_more(tmp_path: Path) -> None:
    """What had come of it is removed at that age."""
    wanted = [Wanted(ModelId(digit * 64), "m") for digit in "ab"]
    for each, age in zip(wanted, (BLOB_PARTIAL_KEPT_S + 60, BLOB_PARTIAL_KEPT_S - 60), strict=True):
        remember_wanted(tmp_path, each)
        asked = time.time() - age
        os.utime(tmp_path / "models" / f".wanted-{each.model_id}", (asked, asked))
    assert read_wanted(tmp_path) == (wanted[1],)
