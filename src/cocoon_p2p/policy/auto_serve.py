"""Which models a provider picks up by itself: those that are asked for and nobody has free, within its budgets.

Strangers tell it what is wanted, so what one of them says counts for little: asks by subnet, with a bound, and the market by the
number of subnets that say the same. Deterministic: the same facts give the same choice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import (
    AUTO_SERVE_DEAR,
    AUTO_SERVE_HALF_LIFE_S,
    AUTO_SERVE_KEEP_S,
    AUTO_SERVE_MEANWHILE,
    AUTO_SERVE_MODELS_MAX,
    AUTO_SERVE_SCORE_MIN,
    AUTO_SERVE_SUBNET_MAX,
    AUTO_SERVE_SUBNETS_MAX,
    AUTO_SERVE_SUBNETS_MIN,
)

_FORGOTTEN = 0.05
"""An ask that counts for less is as good as none: 2 hours old."""


class Demand:
    """Asks for models that this node does not have. Each weighs 1 and fades; of one subnet no more than AUTO_SERVE_SUBNET_MAX
    counts for a model. Bounded: what was not asked for longest is forgotten."""

    def __init__(self) -> None:
        self._models: OrderedDict[ModelId, OrderedDict[str, tuple[float, float]]] = OrderedDict()

    def asked(self, model_id: ModelId, subnet: str, now: float) -> None:
        """Somebody in `subnet` (policy.subnets) asked for it in vain."""
        subnets = self._models.setdefault(model_id, OrderedDict())
        self._models.move_to_end(model_id)
        weight = _faded(subnets.get(subnet, (0.0, now)), now) + 1.0
        subnets[subnet] = (min(weight, AUTO_SERVE_SUBNET_MAX), now)
        subnets.move_to_end(subnet)
        if len(subnets) > AUTO_SERVE_SUBNETS_MAX:
            subnets.popitem(last=False)
        if len(self._models) > AUTO_SERVE_MODELS_MAX:
            self._models.popitem(last=False)

    def scores(self, now: float) -> dict[ModelId, float]:
        """What those models are wanted for which enough different subnets have asked."""
        found = {}
        for model_id, subnets in self._models.items():
            weights = [weight for each in subnets.values() if (weight := _faded(each, now)) >= _FORGOTTEN]
            if len(weights) >= AUTO_SERVE_SUBNETS_MIN:
                found[model_id] = sum(weights)
        return found


def _faded(entry: tuple[float, float], now: float) -> float:
    weight, at = entry
    return float(weight * 0.5 ** (max(0.0, now - at) / AUTO_SERVE_HALF_LIFE_S))


@dataclass(frozen=True, slots=True)
class ModelOnOffer:
    """One provider's word, as the market's book has it."""

    model_id: ModelId
    subnet: str
    is_full: bool
    price: int
    """Nanogram of the smallest job, in the cheapest tier."""


class Shortage:
    """What the market lacks. Remembers the least price of each model that enough subnets asked at the same time."""

    def __init__(self) -> None:
        self._floors: OrderedDict[ModelId, int] = OrderedDict()

    def scores(self, offers: Iterable[ModelOnOffer]) -> dict[ModelId, float]:
        """Of models all of whose providers are full, or cost AUTO_SERVE_DEAR times what they did, if those are of enough
        subnets: what they would score if AUTO_SERVE_SCORE_MIN had asked, and one more for each further subnet."""
        by_model: dict[ModelId, list[ModelOnOffer]] = {}
        for offer in offers:
            by_model.setdefault(offer.model_id, []).append(offer)
        return {
            model_id: AUTO_SERVE_SCORE_MIN + subnets - AUTO_SERVE_SUBNETS_MIN
            for model_id, found in sorted(by_model.items())
            if (subnets := len({each.subnet for each in found})) >= AUTO_SERVE_SUBNETS_MIN
            and (self._is_dear(model_id, found) or all(each.is_full for each in found))
        }

    def _is_dear(self, model_id: ModelId, found: Sequence[ModelOnOffer]) -> bool:
        # The cheapest of the dearest subnets: one who dumps, or asks for a fortune, moves nothing.
        prices = sorted(
            min(each.price for each in found if each.subnet == subnet) for subnet in {e.subnet for e in found}
        )
        middle = prices[len(prices) // 2]
        floor = min(self._floors.get(model_id, middle), middle)
        self._floors[model_id] = floor
        self._floors.move_to_end(model_id)
        if len(self._floors) > AUTO_SERVE_MODELS_MAX:
            self._floors.popitem(last=False)
        return floor > 0 and middle >= AUTO_SERVE_DEAR * floor


@dataclass(frozen=True, slots=True)
class PickedUp:
    """A model that this node picked up by itself. Times in Unix seconds."""

    model_id: ModelId
    size: int
    picked_at: float
    used_at: float


def ranked(
    asked: dict[ModelId, float], short: dict[ModelId, float], left_out: Collection[ModelId]
) -> list[tuple[ModelId, float]]:
    """What would be of most use first. `left_out`: what is here, or was tried lately."""
    scores = {model_id: asked.get(model_id, 0.0) + short.get(model_id, 0.0) for model_id in {*asked, *short}}
    wanted = [(i, score) for i, score in scores.items() if score >= AUTO_SERVE_SCORE_MIN and i not in left_out]
    return sorted(wanted, key=lambda each: (-each[1], each[0]))


def victims(
    picked: Iterable[PickedUp], needed: int, budget: int, *, now: float, is_busy: Callable[[ModelId], bool]
) -> list[ModelId] | None:
    """What has to go so that `needed` bytes more stay within `budget`: those that were not used for longest. None: it cannot
    be done, since what is here is used, busy, or was picked up a moment ago."""
    kept = sorted(picked, key=lambda each: (each.used_at, each.model_id))
    used = sum(each.size for each in kept)
    going: list[ModelId] = []
    for each in kept:
        if used + needed <= budget:
            break
        if now - max(each.picked_at, each.used_at) >= AUTO_SERVE_KEEP_S and not is_busy(each.model_id):
            going.append(each.model_id)
            used -= each.size
    return going if used + needed <= budget else None


def fits_meanwhile(picked: Iterable[PickedUp], needed: int, budget: int) -> bool:
    """Whether all that is here may stay until `needed` bytes more have come, although that is more than `budget`."""
    return sum(each.size for each in picked) + needed <= budget * (1 + AUTO_SERVE_MEANWHILE)
