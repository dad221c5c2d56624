"""Whether a provider takes a job: facts in, a yes or a refusal out. A refusal says what would make it a yes."""

from __future__ import annotations

from dataclasses import dataclass

from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import Tier
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, INSTALMENT_TOKENS_MAX, INSTALMENT_TOKENS_MIN
from cocoon_p2p.units import format_nanogram


@dataclass(frozen=True, slots=True)
class Admitted:
    """Yes: quote it."""


@dataclass(frozen=True, slots=True)
class Refused:
    reason: RefusalReason
    detail: str
    needed: int | None = None
    """As in `errors.PeerRefused`."""


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What the client asks for (ASK, SUBMIT), and what we would quote for it."""

    tier: int
    items: int
    input_bytes: int
    max_total: int
    """The most the client would pay, nanogram; 0 for no limit."""
    price_total: int
    """What we would ask, nanogram."""
    settlement_network: int
    instalment: int = 0
    """Items that the client pays ahead of an answer in frames; 0: it pays for all of them, and wants the output whole."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model as we offer it."""

    name: str
    tiers: frozenset[Tier]
    items_max: int
    input_bytes_max: int
    streams: bool = False
    """Its answers come in frames, and are paid for by instalments."""


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """The state of this node."""

    shutting_down: bool
    rests: Refused | None
    """Why it takes no job now, though it offers models: the operator's rules."""
    networks: frozenset[int]
    """Settlement networks that we take payments on."""
    jobs: int
    """Quoted and running jobs of everybody."""
    jobs_max: int
    bytes_in_flight: int
    bytes_in_flight_max: int
    queue_ms: int
    """Estimated wait of a job that came now."""


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What we know of the client."""

    jobs: int
    """Its quoted and running jobs here."""
    jobs_max: int
    banned: bool
    lost_standing: Refused | None = None
    """Why its standing here is too low for a job now."""


Decision = Admitted | Refused
_ADMITTED = Admitted()


def admit(job: JobFacts, model: ModelFacts | None, provider: ProviderFacts, peer: PeerFacts) -> Decision:
    """Decide on an ASK or SUBMIT; `model` is None when we do not offer it. What waiting would not mend is said first."""
    return _never(job, model, provider, peer) or _not_now(job, provider, peer) or _ADMITTED


def _never(job: JobFacts, model: ModelFacts | None, provider: ProviderFacts, peer: PeerFacts) -> Refused | None:
    if provider.shutting_down:
        return Refused(RefusalReason.SHUTTING_DOWN, "this node is shutting down")
    if peer.banned:
        return Refused(RefusalReason.STANDING, "this peer broke the rules of the protocols too often")
    if model is None:
        return Refused(RefusalReason.NO_MODEL, "this node does not offer that model")
    if job.tier not in model.tiers:
        offered = ", ".join(tier.name.lower() for tier in sorted(model.tiers)) or "no tier"
        return Refused(RefusalReason.TIER, f"{model.name} is offered for: {offered}")
    if not 1 <= job.items <= model.items_max:
        return Refused(
            RefusalReason.LIMITS, f"{job.items} items; a job may have 1 to {model.items_max}", needed=model.items_max
        )
    bounds = (INSTALMENT_TOKENS_MIN, INSTALMENT_TOKENS_MAX) if model.streams else (0, 0)
    if not bounds[0] <= job.instalment <= bounds[1]:
        nearest = bounds[job.instalment > bounds[1]]
        return Refused(RefusalReason.LIMITS, f"an instalment of {job.instalment}; here {_from_to(*bounds)}", nearest)
    if job.input_bytes > min(model.input_bytes_max, provider.bytes_in_flight_max):
        bound = min(model.input_bytes_max, provider.bytes_in_flight_max)
        return Refused(RefusalReason.LIMITS, f"{job.input_bytes} bytes of input; at most {bound}", needed=bound)
    if job.settlement_network not in provider.networks:
        taken = ", ".join(map(str, sorted(provider.networks))) or "none"
        return Refused(
            RefusalReason.PAYMENT, f"payments on network {job.settlement_network} are not taken here; taken: {taken}"
        )
    if job.price_total > AMOUNT_NANOGRAM_MAX:
        return Refused(RefusalReason.LIMITS, "so many items cost more than a payment can say")
    if job.max_total and job.price_total > job.max_total:
        return Refused(
            RefusalReason.PRICE,
            f"the job costs {format_nanogram(job.price_total)}; the limit was {format_nanogram(job.max_total)}",
            needed=job.price_total,
        )
    return None


def _from_to(low: int, high: int) -> str:
    return f"{low} to {high} items" if high else "a job is paid for as a whole"


def _not_now(job: JobFacts, provider: ProviderFacts, peer: PeerFacts) -> Refused | None:
    if peer.lost_standing is not None:
        return peer.lost_standing
    if provider.rests is not None:
        return provider.rests
    wait_ms = max(provider.queue_ms, 1)
    if peer.jobs >= peer.jobs_max:
        return Refused(RefusalReason.BUSY, f"{peer.jobs} jobs of this peer are in progress already", needed=wait_ms)
    if provider.jobs >= provider.jobs_max:
        return Refused(RefusalReason.BUSY, f"all {provider.jobs_max} places are taken", needed=wait_ms)
    if provider.bytes_in_flight + job.input_bytes > provider.bytes_in_flight_max:
        return Refused(RefusalReason.BUSY, "memory for inputs is used up for the moment", needed=wait_ms)
    return None
