"""What all job sessions of one provider share: the models it serves, its seal keys, its load, and the jobs it must not
do twice. Pure: the driver tells it what changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cocoon_p2p import limits
from cocoon_p2p.errors import RefusalReason, RemoteProtocolError
from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.policy.admission import JobFacts, ModelFacts, PeerFacts, ProviderFacts, Refused, admit
from cocoon_p2p.policy.answer_budget import AnswerBudget
from cocoon_p2p.policy.late_cancels import LateCancels
from cocoon_p2p.policy.pricing import Price, PriceFacts, PricingPolicy
from cocoon_p2p.proto.client_jobs import ClientJobs
from cocoon_p2p.proto.firm_offers import FirmOffers, at_least
from cocoon_p2p.sealing.seal_keys import SealKeyRing
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.units import format_nanogram
from cocoon_p2p.wire.capacity import Offer, Unit
from cocoon_p2p.wire.codec import UINT32_MAX
from cocoon_p2p.wire.job import Ask, Phase, QuoteBody

_NOT_NOW = (RefusalReason.BUSY, RefusalReason.IDLE_POLICY, RefusalReason.STANDING)
"""Refusals that time mends by itself; a price that is too low it does not, so that is said first."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model on offer."""

    model_id: ModelId
    name: str
    pricing: PricingPolicy
    device: str
    unit: Unit = Unit.ITEM
    """TOKEN: it generates, and its answers come in frames."""
    items_max: int | None = None
    """Of one job; None for the desk's own bound. Of a model that generates: its context."""
    open_only: bool = False
    """Other machines than this one read its inputs: it is not served in a tier that promises more than "open" does."""


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
    open_percent: int = 100
    """Price of a job of tier open, in hundredths of a sealed one's."""
    open_to_jobs: bool = True
    rests: Refused | None = None
    """While the operator's rules keep the machine for himself: what every new job is refused with."""
    late_cancels: LateCancels = field(default_factory=LateCancels)
    answers: AnswerBudget = field(default_factory=AnswerBudget)
    clients: ClientJobs = field(default_factory=ClientJobs)
    queued_items: dict[ModelId, int] = field(default_factory=dict)
    item_s: dict[ModelId, float] = field(default_factory=dict)
    load_ms: Callable[[ModelId], int] = lambda _: 0
    """How long it will take to load a model that is cold, as far as can be told; 0 for one that is loaded."""
    wait_ms: Callable[[ModelId], int | None] = lambda _: None
    """How long an answer that came now would wait for its place among those that are made together; None for a model whose jobs wait
    for all before them."""
    too_large: Mapping[ModelId, Refused] = field(default_factory=dict)
    """Models that the operator would serve, were there memory for them: what is said to those who ask for them."""
    running: int = 0
    bytes_in_flight: int = 0
    missed: Callable[[ModelId, PeerId], None] = lambda model_id, client: None
    """Called for each ask for a model that is not offered here."""
    load_changed: Callable[[], None] = lambda: None
    """Called after each change of `running`."""
    full_changed: Callable[[], None] = lambda: None
    """Called when the last slot was taken, and when the first became free again: the market is told at once."""
    _firm: FirmOffers = field(default_factory=FirmOffers)
    _working: dict[ModelId, OrderedDict[bytes, int]] = field(default_factory=dict)
    """Items of the jobs that were given to the engine, in that order, by client and job."""
    _done: OrderedDict[bytes, int] = field(default_factory=OrderedDict)

    def announced(self, offers: Sequence[Offer], expires_at_ms: int) -> None:
        """An announcement with these offers goes out: whoever submits is held to no higher price until it has expired."""
        self._firm.announced(offers, expires_at_ms)

    def tiers_of(self, model: ServedModel) -> frozenset[Tier]:
        """The tiers that a model is served in."""
        return self.tiers & {Tier.OPEN} if model.open_only else self.tiers

    def price(self, model: ServedModel, items: int, input_bytes: int, tier: Tier = Tier.SEALED) -> Price:
        """What a job of this model costs now."""
        facts = PriceFacts(items, input_bytes, slots_total=self.slots, slots_free=max(0, self.slots - self.running))
        price = model.pricing.price(facts)
        if tier is not Tier.OPEN or self.open_percent == 100:
            return price
        base, per_item = self._for_open(price.base), self._for_open(price.per_item)
        return Price(base, per_item, base + per_item * items)

    def _for_open(self, amount: int) -> int:
        """Rounded up: free only where the operator says 0 percent, or where it is free sealed."""
        return -(-amount * self.open_percent // 100)

    def decide(self, ask: Ask, *, client: PeerId, jobs_of_client: int, unix_ms: int) -> Price | Refused:
        """Quote or refuse. Whatever is decided, nothing is reserved yet."""
        model = self.models.get(ask.model_id)
        if model is None:
            self.missed(ask.model_id, client)
        price = self.price(model, ask.items, ask.input_bytes, ask.tier) if model else Price(0, 0, 0)
        job = JobFacts(
            tier=ask.tier,
            items=ask.items,
            input_bytes=ask.input_bytes,
            max_total=ask.max_total,
            price_total=price.max_total,
            settlement_network=ask.settlement_network,
            instalment=ask.instalment,
        )
        refused = self._admit(job, model, client, jobs_of_client, unix_ms)
        return price if refused is None else self._said_better(refused, ask.model_id)

    def decide_firm(self, terms: QuoteBody, *, client: PeerId, jobs_of_client: int, unix_ms: int) -> Refused | None:
        """Refuse a job on terms that the client wrote, or take it (None)."""
        # SPEC job/1 §3.12
        if terms.input_bytes > limits.FIRM_INPUT_BYTES_MAX:
            detail = f"{terms.input_bytes} bytes of input; without a quote at most {limits.FIRM_INPUT_BYTES_MAX}"
            return Refused(RefusalReason.LIMITS, detail, limits.FIRM_INPUT_BYTES_MAX)
        model = self.models.get(terms.model_id)
        if model is None:
            self.missed(terms.model_id, client)
        job = JobFacts(
            tier=terms.tier,
            items=terms.items,
            input_bytes=terms.input_bytes,
            max_total=0,
            price_total=terms.max_total,
            settlement_network=terms.settlement_network,
            instalment=terms.instalment,
        )
        refused = self._admit(job, model, client, jobs_of_client, unix_ms)
        if model is None or (refused is not None and refused.reason not in _NOT_NOW):
            return None if refused is None else self._said_better(refused, terms.model_id)
        now = self.price(model, terms.items, terms.input_bytes, terms.tier)
        if at_least(terms, now) or self._firm.covers(terms, unix_ms):
            return refused
        detail = f"the job costs {format_nanogram(now.max_total)} now; {format_nanogram(terms.max_total)} were offered"
        return Refused(RefusalReason.PRICE, detail, now.max_total)

    def _admit(
        self, job: JobFacts, model: ServedModel | None, client: PeerId, jobs_of_client: int, unix_ms: int
    ) -> Refused | None:
        decision = admit(
            job,
            self._facts_of(model) if model else None,
            ProviderFacts(
                shutting_down=not self.open_to_jobs,
                rests=self.rests,
                networks=frozenset({self.settlement_network}),
                jobs=self.running,
                jobs_max=self.slots,
                bytes_in_flight=self.bytes_in_flight,
                bytes_in_flight_max=self.bytes_in_flight_max,
                queue_ms=0 if model is None else self.queue_ms(model.model_id),
            ),
            PeerFacts(
                jobs=jobs_of_client,
                jobs_max=limits.JOBS_PER_PEER_MAX,
                banned=False,  # a banned peer has no connection
                lost_standing=self.late_cancels.refusal(client, unix_ms),
            ),
        )
        return decision if isinstance(decision, Refused) else None

    def _said_better(self, refused: Refused, model_id: ModelId) -> Refused:
        """Why a model is not on offer, where that is known."""
        return self.too_large.get(model_id, refused) if refused.reason is RefusalReason.NO_MODEL else refused

    def _facts_of(self, model: ServedModel) -> ModelFacts:
        streams = model.unit is Unit.TOKEN
        most = limits.GENERATION_TOKENS_MAX if streams else limits.ITEMS_PER_JOB_MAX
        items_max = min(self.items_max if model.items_max is None else model.items_max, most)
        return ModelFacts(model.name, self.tiers_of(model), items_max, self.input_bytes_max, streams)

    def queue_ms(self, model_id: ModelId) -> int:
        """Estimated wait before a job of this model would run; with loading, when it is cold."""
        wait_ms = self.wait_ms(model_id)
        if wait_ms is None:
            wait_ms = int(1000 * self.queued_items.get(model_id, 0) * self.item_s.get(model_id, 0.0))
        return min(wait_ms + self.load_ms(model_id), UINT32_MAX)

    def begin(self, model_id: ModelId, items: int, input_bytes: int) -> None:
        """An accepted job holds a slot and memory until `end`."""
        self.running += 1
        self.bytes_in_flight += input_bytes
        self.queued_items[model_id] = self.queued_items.get(model_id, 0) + items
        self.load_changed()
        if self.running == self.slots:
            self.full_changed()

    def end(self, model_id: ModelId, items: int, input_bytes: int) -> None:
        self.running -= 1
        self.bytes_in_flight -= input_bytes
        self.queued_items[model_id] -= items
        self.load_changed()
        if self.running == self.slots - 1:
            self.full_changed()

    def work_begins(self, client: PeerId, job_id: JobId, model_id: ModelId, items: int) -> None:
        """The job is given to the engine."""
        self._working.setdefault(model_id, OrderedDict())[client.encode() + job_id] = items

    def work_ended(self, client: PeerId, job_id: JobId, model_id: ModelId) -> None:
        """Idempotent."""
        self._working.get(model_id, OrderedDict()).pop(client.encode() + job_id, None)

    def progress(self, client: PeerId, job_id: JobId, model_id: ModelId) -> tuple[Phase, int | None]:
        """Where a job stands, as far as can be told from outside the engine, and how many ms it has left; None when that is
        not known, since the model has done nothing yet or the job's input is not here."""
        # SPEC job/1 §3.13
        ahead, load_ms = 0, self.load_ms(model_id)
        for key, items in self._working.get(model_id, {}).items():
            if key == client.encode() + job_id:
                item_s = self.item_s.get(model_id)
                left_ms = None if item_s is None else min(load_ms + int(1000 * (ahead + items) * item_s), UINT32_MAX)
                return Phase.QUEUED if ahead or load_ms else Phase.RUNNING, left_ms
            ahead += items
        return Phase.QUEUED, None

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
