"""A desk, and an engine that runs nothing, for tests of what a provider offers."""

from __future__ import annotations

from pathlib import Path

from cocoon_p2p.execution.port import Device, ExecutionResult, InputBuffer, ModelStatus
from cocoon_p2p.ids import ModelId, Tier
from cocoon_p2p.proto.provider_desk import ProviderDesk
from cocoon_p2p.sealing.seal_keys import SealKeyRing
from cocoon_p2p.sealing.signing import IdentityKey


def make_desk(
    slots: int = 4, tiers: frozenset[Tier] = frozenset({Tier.SEALED}), open_percent: int = 100
) -> ProviderDesk:
    return ProviderDesk(
        identity=IdentityKey.from_seed(b"1" * 32),
        seal_keys=SealKeyRing(lambda key, start, end: b"record", 0),
        settlement_network=0,
        slots=slots,
        tiers=tiers,
        items_max=8,
        input_bytes_max=1000,
        bytes_in_flight_max=1000,
        open_percent=open_percent,
    )


class IdleEngine:
    """Loads everything at once, on `device`."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.loaded: list[ModelId] = []
        self.item_s: float | None = None
        self.best_items_s = 0.0

    async def load(self, model_id: ModelId, folder: Path) -> ModelStatus:
        del folder
        self.loaded.append(model_id)
        return self.models()[-1]

    async def unload(self, model_id: ModelId) -> None:
        self.loaded.remove(model_id)

    def models(self) -> tuple[ModelStatus, ...]:
        return tuple(
            ModelStatus(
                each,
                Device(self.device, "for a test"),
                True,
                0,
                0,
                0,
                self.item_s,
                None,
                best_items_s=self.best_items_s,
            )
            for each in self.loaded
        )

    def input_buffer(self, payload_bytes: int) -> InputBuffer:
        raise AssertionError("no job runs here")

    async def run(self, model_id: ModelId, payload: InputBuffer, *, items_max: int) -> ExecutionResult:
        raise AssertionError("no job runs here")
