"""What a node serves, at which price, on which device and why: for `up` and `status`."""

from __future__ import annotations

from typing import Any

from cocoon_p2p.cli.words import money_note, price, short_id

Pairs = list[tuple[str, Any]]


def serving_pairs(status: dict[str, Any]) -> Pairs:
    """The lines about models and money out of a node's status."""
    pairs: Pairs = []
    for model in status.get("models") or ():
        name = f"{model.get('name')} ({short_id(model.get('model_id'))})"
        pairs.append(("serving", f"{name} for {price(model.get('price_base'), model.get('price_per_item'))}"))
        reason = model.get("device_reason")
        pairs.append(("", f"on {model.get('device') or 'no device yet'}{f': {reason}' if reason else ''}"))
    if not pairs:
        pairs.append(("serving", "nothing: this node asks others (cocoon-node models add PATH to offer a model)"))
    network = status.get("settlement_network")
    pairs.append(("money", money_note(network)))
    return pairs
