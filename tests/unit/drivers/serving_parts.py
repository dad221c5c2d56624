"""A desk, and an engine that runs nothing, for tests of what a provider offers."""

from __future__ import annotations

from pathlib import Path

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.port import Device, ExecutionResult, InputBuffer, ModelStatus, TokenStream
from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.proto.provider_desk import ProviderDesk
from cocoon_p2p.sealing.seal_keys import SealKeyRing
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.wire.job import Ask


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


CLIENT = IdentityKey.from_seed(b"2" * 32).peer_id


def ask_for(model_id: ModelId) -> Ask:
    return Ask(JobId(bytes(16)), model_id, Tier.SEALED, 1, 64, 0, 1000, 0)


class IdleEngine:
    """Loads everything at once, on `device`."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.loaded: list[ModelId] = []
        self.item_s: float | None = None
        self.best_items_s = 0.0
        self.wait_s: float | None = None
        self.next_end_s: float | None = None
        self.kept: list[bool | None] = []
        """What was asked for with each load."""
        self.cold: dict[ModelId, float] = {}
        """Models that are not loaded, and how long that takes."""
        self.fault: ExecutionError | None = None
        """Of the next load."""
        self.problem = ""

    async def load(self, model_id: ModelId, folder: Path, *, keep: bool | None = None) -> ModelStatus:
        del folder
        if self.fault is not None:
            raise self.fault
        self.loaded.append(model_id)
        self.kept.append(keep)
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
                warm=each not in self.cold,
                load_s=self.cold.get(each),
                problem=self.problem,
                wait_s=self.wait_s,
                next_end_s=self.next_end_s,
            )
            for each in self.loaded
        )

    def input_buffer(self, payload_bytes: int) -> InputBuffer:
        raise AssertionError("no job runs here")

    async def run(
        self, model_id: ModelId, payload: InputBuffer, *, items_max: int, client: PeerId | None = None
    ) -> ExecutionResult:
        raise AssertionError("no job runs here")

    async def generate(
        self,
        model_id: ModelId,
        payload: InputBuffer,
        *,
        items_max: int,
        items_allowed: int,
        client: PeerId | None = None,
    ) -> TokenStream:
        raise AssertionError("nothing is generated here")
