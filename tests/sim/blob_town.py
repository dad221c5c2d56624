"""A model of many small files, so that a simulation moves hundreds of pieces and few bytes; and what moved where."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cocoon_p2p.drivers.blob_serve import BlobServer
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry, Offer
from cocoon_p2p.testing.noise_model import noise_model
from cocoon_p2p.testing.simulation import Simulation


def many_files(folder: Path, sizes: list[int]) -> InstalledModel:
    """An installed model of these files; a home of its own within `folder`."""
    return noise_model(folder / "home", sizes, offer=Offer("many"))


def give(model: InstalledModel, home: Path) -> None:
    """Install it in another home, as `models add` would have."""
    shutil.copytree(model.folder, home / "models" / model.model_id)


@dataclass
class Sent:
    """(sender, receiver, piece) of every piece that was sent."""

    pieces: list[tuple[PeerId, PeerId, int]] = field(default_factory=list)

    def by(self, sender: PeerId) -> Counter[int]:
        """How often each piece was sent by one."""
        return Counter(piece for each, _, piece in self.pieces if each == sender)

    def to(self, receiver: PeerId) -> Counter[PeerId]:
        """How many pieces each sent to one."""
        return Counter(sender for sender, each, _ in self.pieces if each == receiver)


@contextmanager
def watched(sim: Simulation) -> Iterator[Sent]:
    """What is sent within the block."""
    sent, real = Sent(), BlobServer._send_piece

    async def note(self: BlobServer, session: object, piece: int) -> None:
        own = self._ports.network.peer_id
        sent.pieces.append((own, session.stream.peer, piece))  # type: ignore[attr-defined]
        await real(self, session, piece)  # type: ignore[arg-type]

    BlobServer._send_piece = note  # type: ignore[method-assign]
    try:
        yield sent
    finally:
        BlobServer._send_piece = real  # type: ignore[method-assign]


def installed(home: Path, model_id: ModelId) -> InstalledModel:
    """Read and verified."""
    registry = ModelRegistry(home)
    registry.verify(model_id)
    return registry.get(model_id)
