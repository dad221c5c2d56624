"""What `cocoon-node doctor` says of models, prices, rules and money."""

from __future__ import annotations

from typing import Any

import pytest

from cocoon_p2p.cli.doctor_market import (
    RANDOM,
    SPEED_FLOOR_US,
    Bought,
    judge_idle,
    judge_model,
    judge_money,
    judge_price,
    judge_purchase,
    judge_refusal,
)
from cocoon_p2p.errors import RefusalReason

MODEL = {"name": "minilm", "loaded": True, "device": "cpu", "device_reason": "no accelerator works", "pricing": "fixed"}
SLOW_US = 10 * SPEED_FLOOR_US


def offer(device: str = "cpu", item_us: int = SLOW_US) -> dict[str, Any]:
    return {"device": device, "item_us": item_us, "prices": {"sealed": 110_000}}


def ran(item_us: int = SLOW_US) -> dict[str, Any]:
    return {"item_us": item_us}


@pytest.mark.parametrize(
    ("model", "announced", "run", "state", "words"),
    [
        (MODEL, offer(), ran(), "pass", "announced 50.0 ms"),
        (MODEL, offer(), None, "pass", "loaded on cpu"),
        (MODEL, offer(item_us=0), ran(), "pass", "no speed announced yet"),
        (MODEL | {"loaded": False}, offer(), ran(), "fail", "not loaded"),
        (MODEL | {"loaded": False, "state": "cold"}, offer(), None, "pass", "its next job loads it"),
        (MODEL, None, ran(), "fail", "not on offer"),
        (MODEL, offer("cuda:0"), ran(), "fail", "announced on cuda:0 and runs on cpu: no accelerator works"),
        (MODEL | {"device": "cuda:0"}, offer(), ran(), "warn", "runs on cuda:0"),
        (MODEL, offer(), RANDOM, "fail", "differently from run to run"),
        (MODEL, offer(), ran(4 * SLOW_US), "warn", "disappointed"),
        (MODEL, offer(), ran(SLOW_US // 4), "warn", "goes elsewhere"),
        (MODEL, offer(), ran(2 * SLOW_US), "pass", "announced 50.0 ms"),
        (MODEL, offer(item_us=10), ran(SPEED_FLOOR_US // 2), "pass", "announced 10 µs"),
    ],
)
def test_a_model(model: dict[str, Any], announced: Any, run: Any, state: str, words: str) -> None:
    check = judge_model(model, announced, run)
    assert (check.name, check.state, words in check.seen) == ("model minilm", state, True), check
    assert bool(check.advice) == (state != "pass")


@pytest.mark.parametrize(
    ("signed", "agrees", "state", "words"),
    [
        (True, True, "pass", "the answer is what the node's own engine says"),
        (True, None, "pass", "signed by both"),
        (True, False, "fail", "not what this node's own engine says"),
        (False, True, "fail", "not signed by both"),
    ],
)
def test_a_purchase(signed: bool, agrees: bool | None, state: str, words: str) -> None:
    check = judge_purchase("minilm", Bought(12.5, 110_000, signed, "sealed", agrees))
    assert (check.state, words in check.seen) == (state, True), check
    assert all(part in check.seen for part in ("12.5 ms", "0.00011 GRAM", "test money, no value"))


def test_a_refusal() -> None:
    assert judge_refusal("minilm", RefusalReason.BUSY, "all slots are taken").state == "warn"
    check = judge_refusal("minilm", RefusalReason.LIMITS, "too long")
    assert (check.state, check.seen) == ("fail", "a stranger is refused (LIMITS): too long")


def others(*prices: int, free: int = 4, tier: str = "sealed", unit: str = "item") -> list[dict[str, Any]]:
    return [
        {"unit": unit, "slots_free": free, "prices": {tier: {"base_nanogram": price - 1, "per_unit_nanogram": 1}}}
        for price in prices
    ]


@pytest.mark.parametrize(
    ("own", "offers", "state", "words"),
    [
        ({"sealed": 100}, [], "pass", "nobody else is known"),
        ({"sealed": 200}, others(100, 100), "pass", "2 others: 0.0000001 GRAM at best"),
        ({"sealed": 201}, others(100, 100), "warn", "with 8 slots free: who looks for the cheapest never comes to you"),
        ({"sealed": 201}, others(100, 100, free=0), "pass", "median"),
        ({"sealed": 201}, others(50, 101, 900), "pass", "0.000000101 GRAM median"),
        ({"sealed": 500}, others(100, tier="open"), "pass", "costs 0.0000005 GRAM sealed"),
        ({"sealed": 500}, others(100, unit="token"), "pass", "costs 0.0000005 GRAM sealed"),
        ({"open": 500, "sealed": 90}, [*others(100, tier="open"), *others(100)], "warn", "open job"),
        ({"sealed": 0, "open": 0}, others(100), "warn", "for nothing"),
    ],
)
def test_a_price(own: dict[str, int], offers: list[dict[str, Any]], state: str, words: str) -> None:
    check = judge_price(MODEL, own, offers, " --home /n")
    assert (check.state, words in check.seen) == (state, True), check
    assert (" --home /n" in check.advice) == (state == "warn")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({}, ("cocoon-node models set minilm", "price_per_item in [provider]")),
        ({"kind": "generation"}, ("price_per_token in [provider]",)),
        ({"upstream": {"kind": "openai"}}, ("in its [[upstream]] of node.toml",)),
    ],
)
def test_where_a_dear_price_is_lowered(model: dict[str, Any], words: tuple[str, ...]) -> None:
    unit = "token" if model.get("kind") == "generation" else "item"
    advice = judge_price(MODEL | model, {"sealed": 500}, others(100, unit=unit), "").advice
    assert all(each in advice for each in words), advice


def test_idle_rules() -> None:
    serves = {"resting": False, "detail": None, "needed_ms": None}
    rests = {"resting": True, "detail": "outside its hours (it serves from 22:00)", "needed_ms": 3_599_500}
    assert judge_idle(None, []).state == "pass"
    assert judge_idle(serves, []).state == "pass"
    check = judge_idle(rests, [])
    assert (check.state, "for 1 h at least: outside its hours" in check.seen) == ("warn", True), check
    assert "nobody can tell until when" in judge_idle(rests | {"needed_ms": None}, []).seen
    check = judge_idle(rests, ["mains_power", "load_max"])
    assert check.state == "fail"
    assert "take mains_power and load_max out of [idle]" in check.advice


def test_money() -> None:
    check = judge_money([MODEL], 0)
    assert (check.state, check.seen) == (
        "pass",
        "test money, no value: nobody earns or pays anything; pricing: fixed",
    )
    assert judge_money([], -239).seen == "settlement network -239"
    check = judge_money([MODEL | {"pricing": "fixed, as mine failed"}], 0)
    assert (check.state, "mine" in check.seen) == ("fail", True)
