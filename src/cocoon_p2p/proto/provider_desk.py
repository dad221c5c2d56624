"""What all job sessions of one provider share: the models it serves, its seal keys, its load, and the jobs it must not
do twice. Pure: the driver tells it what changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from cocoon_p2p import limits
from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.policy.admission import Admitted, JobFacts, ModelFacts, PeerFacts, ProviderFacts, Refused, admit
from cocoon_p2p.policy.pricing import Price, PriceFacts, PricingPolicy
from cocoon_p2p.sealing.seal_keys import SealKeyRing
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.wire.job import Ask


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model on offer."""

    model_id: ModelId
    name: str
    pricing: PricingPolicy
    device: str


@dataclass(slots=True)
class ProviderDesk:
    """`item_s` is the moving average of the work of one item, by model, from the engine."""

    identity: IdentityKey
    seal_keys: SealKeyRing
    settlement_network: int
    slots: int
    """Jobs in progress at the same time."""
    tiers: frozenset[Tier]
    items_max: int
    input_bytes_max: int
    bytes_in_flight_max: int
    models: Mapping[ModelId, ServedModel] = field(default_factory=dict)
    open_to_jobs: bool = True
    queued_items: dict[ModelId, int] = field(default_factory=dict)
    item_s: dict[ModelId, float] = field(default_factory=dict)
    running: int = 0
    bytes_in_flight: int = 0
    _done: OrderedDict[bytes, int] = field(default_factory=OrderedDict)

    def price(self, model: ServedModel, items: int, input_bytes: int) -> Price:
        """What a job of this model costs now."""
        facts = PriceFacts(items, input_bytes, slots_total=self.slots, slots_free=max(0, self.slots - self.running))
        return model.pricing.price(facts)

    def decide(self, ask: Ask, *, jobs_of_client: int, client_banned: bool) -> Price | Refused:
        """Quote or refuse. Whatever is decided, nothing is reserved yet."""
        model = self.models.get(ask.model_id)
        price = self.price(model, ask.items, ask.input_bytes) if model else Price(0, 0, 0)
        decision = admit(
            JobFacts(
                tier=ask.tier,
                items=ask.items,
                input_bytes=ask.input_bytes,
                max_total=ask.max_total,
                price_total=price.max_total,
                settlement_network=ask.settlement_network,
            ),
            ModelFacts(model.name, self.tiers, self.items_max, self.input_bytes_max) if model else None,
            ProviderFacts(
                shutting_down=not self.open_to_jobs,
                networks=frozenset({self.settlement_network}),
                jobs=self.running,
                jobs_max=self.slots,
                bytes_in_flight=self.bytes_in_flight,
                bytes_in_flight_max=self.bytes_in_flight_max,
                queue_ms=self.queue_ms(ask.model_id),
            ),
            PeerFacts(jobs=jobs_of_client, jobs_max=limits.JOBS_PER_PEER_MAX, banned=client_banned),
        )
        return price if isinstance(decision, Admitted) else decision

    def queue_ms(self, model_id: ModelId) -> int:
        """Estimated wait before a job of this model would run."""
        return int(1000 * self.queued_items.get(model_id, 0) * self.item_s.get(model_id, 0.0))

    def begin(self, model_id: ModelId, items: int, input_bytes: int) -> None:
        """An accepted job holds a slot and memory until `end`."""
        self.running += 1
        self.bytes_in_flight += input_bytes
        self.queued_items[model_id] = self.queued_items.get(model_id, 0) + items

    def end(self, model_id: ModelId, items: int, input_bytes: int) -> None:
        self.running -= 1
        self.bytes_in_flight -= input_bytes
        self.queued_items[model_id] -= items

    def consume(self, client: PeerId, job_id: JobId, *, expires_at_ms: int, now_ms: int) -> None:
        """The input of this job is authenticated: never take it again. Raises RemoteProtocolError(code="REPLAY")."""
        # SPEC seal/1 §4.4
        key = client.encode() + job_id
        if key in self._done:
            raise RemoteProtocolError("this job was already taken: a replayed envelope", code="REPLAY")
        while self._done and (
            next(iter(self._done.values())) < now_ms or len(self._done) >= limits.CLOSED_JOBS_REMEMBERED_MAX
        ):
            self._done.popitem(last=False)
        self._done[key] = expires_at_ms

    def is_done(self, client: PeerId, job_id: JobId) -> bool:
        return client.encode() + job_id in self._done
