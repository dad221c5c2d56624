"""Models of noise: nothing can run them, and they move between peers like any other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from cocoon_p2p.limits import MIB
from cocoon_p2p.models.file_digest import PieceHashes
from cocoon_p2p.models.layout import INCOMING_PREFIX, write_pieces
from cocoon_p2p.models.manifest import TENSOR, FileEntry, Manifest, TensorSpec
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry, Offer

MAIN = "model.onnx"


def noise_model(home: Path, sizes: Sequence[int], *, offer: Offer | None = None, seed: int = 0) -> InstalledModel:
    """Installed in `home`: the first file is the main one, the others are called weights/0001.bin and so on."""
    incoming = home / "models" / f"{INCOMING_PREFIX}noise"
    noise = Random(seed).randbytes(MIB)
    entries, pieces = [], {}
    for number, size in enumerate(sizes):
        name = MAIN if number == 0 else f"weights/{number:04}.bin"
        found = PieceHashes()
        (incoming / name).parent.mkdir(parents=True, exist_ok=True)
        with (incoming / name).open("wb") as file:
            while found.size < size:
                # No two pieces are alike.
                piece = (b"%08d %08d " % (number, found.size // MIB) + noise)[: min(MIB, size - found.size)]
                found.feed(piece)
                file.write(piece)
        entries.append(FileEntry(name, size, found.digest))
        pieces[name] = found.joined
    x, y = (TensorSpec(name, "float32", (-1, 4)) for name in "xy")
    files = tuple(sorted(entries, key=lambda entry: entry.path))
    manifest = Manifest(TENSOR, files, MAIN, (x,), (y,), (("", 21),))
    write_pieces(incoming, manifest, pieces)
    return ModelRegistry(home).install_fetched(manifest, offer or Offer("noise"), incoming)
