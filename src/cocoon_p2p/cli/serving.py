"""What a node serves, at which price, on which device and why: for `up` and `status`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cocoon_p2p.cli.words import money_note, price, short_id

Pairs = list[tuple[str, Any]]
NOTHING = "nothing: this node asks others (cocoon-node models add PATH to offer a model)"
NOTHING_EVER = "nothing: [provider] serve is false"


def serving_pairs(status: dict[str, Any]) -> Pairs:
    """The lines about models and money out of a node's status."""
    pairs: Pairs = []
    for place, models in _by_place(status.get("models") or ()).items():
        for model in models:
            name = f"{model.get('name')} ({short_id(model.get('model_id'))})"
            pairs.append(("serving", f"{name} for {price(model.get('price_base'), model.get('price_per_item'))}"))
        pairs.append(("", place))
    if not pairs:
        pairs.append(("serving", NOTHING if status.get("serve", True) else NOTHING_EVER))
    network = status.get("settlement_network")
    pairs.append(("money", money_note(network)))
    return pairs


def _by_place(models: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The models under "on <device>: <why>", so that what is the same for several is said once."""
    places: dict[str, list[dict[str, Any]]] = {}
    for model in models:
        reason = model.get("device_reason")
        place = f"on {model.get('device') or 'no device yet'}{f': {reason}' if reason else ''}"
        places.setdefault(place, []).append(model)
    return places
