"""What somebody wants done, what came of it, and the words for why nobody did it."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from cocoon_p2p.drivers.clock import Clock
from cocoon_p2p.drivers.considerations import ConsiderationKeeper
from cocoon_p2p.drivers.experience import ExperienceKeeper
from cocoon_p2p.drivers.job_client import Attempt
from cocoon_p2p.errors import CocoonError, PeerRefused, RefusalReason
from cocoon_p2p.ids import JOB_ID_BYTES, JobId, ModelId, PeerId, Tier
from cocoon_p2p.models.text_part import TextFrontEnd
from cocoon_p2p.net.port import Network
from cocoon_p2p.policy.preference import BALANCED, Preference
from cocoon_p2p.policy.selection import Candidate, Wanted, cheapest, why_not
from cocoon_p2p.proto.job_client import Transcript
from cocoon_p2p.settlement.port import Settlement
from cocoon_p2p.store import Store
from cocoon_p2p.tensors import Payload
from cocoon_p2p.units import format_nanogram
from cocoon_p2p.wire.job import Receipt, ReceiptBody


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody wants done."""

    model: str
    """Model id or name."""
    payload: Payload
    tier: Tier
    max_total: int | None
    """nanogram for the whole job; None for no limit."""
    provider: PeerId | None
    timeout_s: float
    min_reliability: float = 0.0
    """In our own experience, 0 … 1; a stranger's is 0.5."""
    prefer: Preference = BALANCED
    hedge: int = 1
    """Providers that may do it at the same time: a further one begins when those before it are late or fail. The first whole
    answer is taken and paid."""
    quorum: int = 1
    """Answers that are compared (drivers/quorum.py); the Buyer itself gets one."""
    poll: JobId | None = None
    """Of one answer of a quorum: what its answers have in common, each of which has a job id of its own."""
    excluded: frozenset[PeerId] = frozenset()
    """Providers not to take, whatever they offer."""
    instalment: int = 0
    """Items by which an answer is paid that comes piece by piece; 0: it comes whole, and is paid whole."""
    prepaid: int = 0
    """Of such an answer, the items that the first payment covers."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """A finished job."""

    job_id: JobId
    model_id: ModelId
    provider: PeerId
    payload: Payload
    price: int
    receipt: Receipt | None
    """None when the connection broke between output and receipt; the provider sends it again later."""
    receipt_body: ReceiptBody | None
    timeline_ms: dict[str, float]
    attempts: list[dict[str, str]]
    """Earlier attempts that failed: provider and error."""
    text: TextFrontEnd | None = None
    """Of a model that takes texts: how it takes them, and what its outputs stand for."""
    transcript: Transcript | None = field(default=None, repr=False)
    """What evidence is made of; None without a receipt."""


@dataclass(frozen=True, slots=True)
class BuyerPorts:
    network: Network
    settlement: Settlement
    store: Store
    clock: Clock
    rng: random.Random
    experience: ExperienceKeeper
    considerations: ConsiderationKeeper


def new_wish() -> JobId:
    """The id of a new wish: its job has this id at every provider that it is given to, one after the other or at once."""
    # SPEC job/1 §2
    return JobId(secrets.token_bytes(JOB_ID_BYTES))


def timeline_ms(started: float, discovered: float, attempt: Attempt) -> dict[str, float]:
    """Milliseconds of each leg of a job; they add up to `total`, but for rounding. `queue` and `execute` are the
    provider's own measure; `return` is what else passed between the last byte in and the last byte out."""
    marks, head = attempt.marks, attempt.job.head
    away = marks.output_complete - marks.input_sent
    queue = min(head.queue_us / 1e6, away) if head else 0.0  # the provider's word, as far as it can be true
    execute = min(head.execute_us / 1e6, away - queue) if head else 0.0
    legs = {
        "discover": discovered - started,
        "quote": marks.accepted - discovered,
        "seal": marks.input_sent - marks.accepted,
        "queue": queue,
        "execute": execute,
        "return": away - queue - execute,
        "receipt": marks.finished - marks.output_complete,
        "total": marks.finished - started,
    }
    return {leg: round(seconds * 1000, 3) for leg, seconds in legs.items()}


def nobody_fits(
    order: Order, wanted: Wanted, candidates: Sequence[Candidate], *, called: Sequence[str] = ()
) -> CocoonError:
    """Why none of the offers can be taken, and what would make it a yes. `called`: names by which the wanted provider offers
    this very model."""
    if order.provider is not None and all(c.peer_id != order.provider for c in candidates):
        if called and order.model not in called:
            return CocoonError(
                f"provider {order.provider} offers this model, and calls it {called[0]}, not {order.model}",
                code="NO_MODEL",
                hint=f"ask it for {called[0]}",
            )
        return CocoonError(
            f"provider {order.provider} does not offer {order.model}",
            code="NO_MODEL",
            hint="cocoon-node offers shows who does; leave out --provider to take any",
        )
    lowest = cheapest(wanted, candidates)
    if lowest is not None and wanted.max_total is not None:
        price, unit = lowest.price(wanted), "token" if order.instalment else "item"
        return PeerRefused(
            RefusalReason.PRICE,
            f"no offer of {order.model} is within {format_nanogram(wanted.max_total)}: "
            f"the lowest is {format_nanogram(price)} for {wanted.items:,} {unit}{'s' if wanted.items > 1 else ''}",
            needed=price,
            hint=f"allow more: --max-price {price}",
        )
    reasons = [misfit for c in candidates if (misfit := why_not(wanted, c)) is not None]
    first = reasons[0] if reasons else None
    return PeerRefused(
        first.reason if first else RefusalReason.NO_MODEL,
        f"no offer of {order.model} fits: " + ("; ".join(sorted({r.detail for r in reasons})[:3]) or "there is none"),
        needed=first.needed if first else None,
        hint=_tier_hint(wanted, candidates) or "cocoon-node offers shows all offers",
    )


def _tier_hint(wanted: Wanted, candidates: Sequence[Candidate]) -> str | None:
    """Which tier there is, where nobody offers the wanted one."""
    offered = sorted({tier.name.lower() for c in candidates for tier in c.prices})
    if not offered or any(wanted.tier in c.prices for c in candidates):
        return None
    return f"it is offered in another tier: {' or '.join(f'--tier {name}' for name in offered)}"


def worst(errors: Sequence[CocoonError]) -> CocoonError:
    """Of several noes the one that tells most: a refusal before a broken connection."""
    return min(errors, key=lambda error: not isinstance(error, PeerRefused))


def with_hint(error: CocoonError, more: str) -> None:
    """Say more of what can be done about an error."""
    error.hint = more if not error.hint else f"{error.hint}; {more}"
