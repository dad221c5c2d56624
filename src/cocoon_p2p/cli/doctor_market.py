"""What `cocoon-node doctor` makes of models, prices, idle rules and money. As doctor_checks.py: no IO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from cocoon_p2p.cli.doctor_checks import Check, Row, State
from cocoon_p2p.cli.words import TEST_MONEY, duration, gram, milliseconds, short_ids
from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.limits import DOCTOR_PRICE_FACTOR, DOCTOR_SPEED_FACTOR
from cocoon_p2p.units import LOCAL_NETWORK_ID

SPEED_FLOOR_US = 5_000
"""Below that an item's time is the noise of the machine, and moves nobody's choice."""
NOT_AN_ACCELERATOR = "cpu"
RANDOM: Row = {}
"""In place of a run: two runs of the same input gave two answers."""


def judge_model(model: Row, offer: Row | None, run: Row | None) -> Check:
    """One served model: `model` as the status has it, `offer` as it is announced, `run` of just now (`Node.own_answer`)."""
    name = f"model {model['name']}"
    if model.get("state") == "cold" and offer is not None:
        return Check(name, "pass", "on offer, and not in memory at the moment: its next job loads it")
    if not model["loaded"]:
        return Check(name, "fail", "it is not loaded", "the node's log says why; start the node again: cocoon-node up")
    device = str(model["device"])
    if offer is None:
        return Check(name, "fail", f"loaded on {device}, but not on offer", "start the node again: cocoon-node up")
    if offer["device"] != device:
        state: State = "fail" if device == NOT_AN_ACCELERATOR else "warn"
        return Check(
            name,
            state,
            f"it is announced on {offer['device']} and runs on {device}: {model.get('device_reason') or 'nobody knows why'}",
            'mend the accelerator (cocoon-node status --verbose), or set providers = "cpu" in [execution] of node.toml; then '
            "start the node again",
        )
    if run is None:
        return Check(name, "pass", f"loaded on {device}, as announced")
    if run is RANDOM:
        return Check(
            name,
            "fail",
            "it answers the same input differently from run to run, so whoever compares will call its answers wrong",
            f"do not offer a model that draws at random: cocoon-node models remove {model['name']}; if it does not, this "
            "machine's memory or accelerator is at fault",
        )
    return _judge_speed(name, device, int(offer["item_us"]), int(run["item_us"]))


def _judge_speed(name: str, device: str, announced: int, measured: int) -> Check:
    took = _microseconds(measured)
    if not announced:
        return Check(name, "pass", f"loaded on {device}, as announced; {took} an item just now, no speed announced yet")
    said = _microseconds(announced)
    low, high = sorted((max(announced, SPEED_FLOOR_US), max(measured, SPEED_FLOOR_US)))
    if high <= DOCTOR_SPEED_FACTOR * low:
        return Check(name, "pass", f"loaded on {device}, as announced; {took} an item just now, announced {said}")
    slower = measured > announced
    return Check(
        name,
        "warn",
        f"an item took {took} just now, and {said} is announced: "
        + ("who chooses by speed is disappointed" if slower else "who chooses by speed goes elsewhere"),
        "see what else this machine does (top); the announced time is an average that follows the next jobs",
    )


def _microseconds(value: int) -> str:
    return f"{value} µs" if value < 1000 else milliseconds(value / 1000)


@dataclass(frozen=True, slots=True)
class Bought:
    """What the stranger's job came to."""

    total_ms: float
    price: int
    """Nanogram."""
    signed_by_both: bool
    tier: str
    agrees: bool | None
    """With the node's own engine; None when that has nothing to compare."""


def _a(tier: str) -> str:
    return f"an {tier}" if tier[0] in "aeiou" else f"a {tier}"


def judge_purchase(model: str, bought: Bought) -> Check:
    name = f"purchase {model}"
    seen = f"a stranger bought {_a(bought.tier)} job in {milliseconds(bought.total_ms)} for {gram(bought.price)} ({TEST_MONEY})"
    if bought.agrees is False:
        return Check(
            name,
            "fail",
            f"{seen}, and the answer was not what this node's own engine says to the same input",
            f"look at the model and its files: cocoon-node models show {model}; install it again: cocoon-node models add PATH",
        )
    if not bought.signed_by_both:
        return Check(name, "fail", f"{seen}, but its receipt is not signed by both", "see: cocoon-node receipts")
    right = "" if bought.agrees is None else "; the answer is what the node's own engine says"
    return Check(name, "pass", f"{seen}{right}; the receipt is signed by both")


def judge_refusal(model: str, reason: RefusalReason, detail: str) -> Check:
    """The node said no to the stranger."""
    name, seen = f"purchase {model}", f"a stranger is refused ({reason.name}): {short_ids(detail)}"
    if reason in (RefusalReason.BUSY, RefusalReason.IDLE_POLICY):
        return Check(
            name, "warn", seen, "it may be so for a while only: ask again later; more slots in [provider] take more"
        )
    return Check(
        name, "fail", seen, "compare it with [provider] of node.toml: tiers, items_max, input_bytes_max, slots"
    )


def judge_price(model: Row, own: Mapping[str, int], offers: Sequence[Row], at: str) -> Check:
    """`own`: price of a job of one item (or token) by tier. `offers`: what others offer of this model (rows_market.offer_row)."""
    title, unit = str(model["name"]), "token" if model.get("kind") == "generation" else "item"
    name = f"price {title}"
    if own and all(price == 0 for price in own.values()):
        return Check(
            name,
            "warn",
            "this node works for nothing",
            f"price_base and price_per_{unit} in [provider] of node.toml, or cocoon-node models set {title} --price-base NANOGRAM{at}",
        )
    dear, shown = [], []
    for tier, price in own.items():
        others = [each for each in offers if tier in each["prices"] and each["unit"] == unit]
        if not others:
            shown.append(f"{gram(price)} {tier}")
            continue
        prices = [one_item(each, tier) for each in others]
        middle, free = int(median(prices)), sum(int(each["slots_free"]) for each in others)
        shown.append(
            f"{gram(price)} {tier} ({_others(len(others))}: {gram(min(prices))} at best, {gram(middle)} median)"
        )
        if price > DOCTOR_PRICE_FACTOR * middle and free:
            dear.append(
                f"{gram(price)} for {_a(tier)} job of one {unit}, and the median of {_others(len(others))} is {gram(middle)} with "
                f"{free} slots free"
            )
    if dear:
        return Check(
            name,
            "warn",
            f"{'; '.join(dear)}: who looks for the cheapest never comes to you",
            f"see what others ask: cocoon-node offers {title}{at}; lower the price: {_where_the_price_stands(model, unit, at)}; or let "
            'it follow demand: pricing = "follow-demand"',
        )
    alone = "" if offers else "; nobody else is known to offer this model"
    return Check(name, "pass", f"a job of one {unit} costs {', '.join(shown)}{alone}")


def _where_the_price_stands(model: Row, unit: str, at: str) -> str:
    if model.get("upstream"):
        return "price_base and price_per_item in its [[upstream]] of node.toml"
    return (
        f"cocoon-node models set {model['name']} --price-base NANOGRAM --price-per-item NANOGRAM{at}, or, for all models without a "
        f"price of their own, price_base and price_per_{unit} in [provider] of node.toml"
    )


def one_item(offer: Row, tier: str) -> int:
    """Nanogram of a job of one item."""
    price = offer["prices"][tier]
    return int(price["base_nanogram"]) + int(price["per_unit_nanogram"])


def _others(count: int) -> str:
    return "1 other" if count == 1 else f"{count} others"


def judge_jail(no_jail: str | None) -> Check:
    """`no_jail`: why model processes cannot be shut in here."""
    if not no_jail:
        return Check("jail", "pass", "models run in processes that reach no file, no network and no other process")
    return Check(
        "jail",
        "warn",
        f"models that came from peers are not run here: {no_jail}",
        "those that you added yourself are; one that you trust: its id in allow of [provider] in node.toml",
    )


def judge_idle(idle: Row | None, untold: Sequence[str]) -> Check:
    """`untold`: rules whose facts this machine cannot tell."""
    name = "idle rules"
    if untold:
        keys = " and ".join(untold)
        return Check(
            name,
            "fail",
            f"this machine cannot tell what {keys} asks about, so it never serves",
            f"take {keys} out of [idle] in node.toml, and start the node again",
        )
    if idle is None:
        return Check(name, "pass", "there are none: this node serves around the clock")
    if idle.get("resting"):
        needed_ms = idle.get("needed_ms")
        until = "nobody can tell until when" if needed_ms is None else f"for {duration(needed_ms / 1000 + 1)} at least"
        return Check(
            name,
            "warn",
            f"this node rests, {until}: {idle.get('detail')}",
            "that is what [idle] in node.toml asks for; change it there, and start the node again",
        )
    return Check(name, "pass", "this machine may serve now")


def judge_money(models: Sequence[Row], network_id: Any) -> Check:
    """How prices are made, and what the money is."""
    policies = sorted({str(model.get("pricing") or "fixed") for model in models})
    money = TEST_MONEY if network_id in (None, LOCAL_NETWORK_ID) else f"settlement network {network_id}"
    if money == TEST_MONEY:
        money += ": nobody earns or pays anything"
    broken = [policy for policy in policies if "failed" in policy]
    if broken:
        return Check(
            "money",
            "fail",
            f"the pricing policy broke: {short_ids(broken[0])}; {money}",
            'the node\'s log says why; mend it, or set pricing = "fixed" in [provider] of node.toml',
        )
    return Check("money", "pass", f"{money}" + (f"; pricing: {', '.join(policies)}" if policies else ""))
