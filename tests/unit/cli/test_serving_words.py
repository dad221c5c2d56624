"""The lines about serving: a node that rests, prices that move."""

from __future__ import annotations

from typing import Any

from cocoon_p2p.cli.serving import serving_pairs

MODEL: dict[str, Any] = {
    "name": "m",
    "model_id": "cd" * 32,
    "price_base": 100_000,
    "price_per_item": 10_000,
    "device": "cpu",
    "device_reason": "",
}


def test_a_node_that_rests_says_why_and_until_when_and_what_it_serves_afterwards() -> None:
    idle = {"resting": True, "detail": "this machine runs on battery", "needed_ms": None}
    pairs = serving_pairs({"idle": idle, "models": [MODEL]})
    assert pairs[0] == ("serving", "resting - this machine runs on battery")
    assert pairs[1] == ("", "afterwards m (cdcdcdcd) for 0.0001 GRAM a job + 0.00001 GRAM an item")
    (_, text) = serving_pairs({"idle": idle | {"needed_ms": 480_001}, "models": []})[0]
    assert text == "resting - this machine runs on battery; again in 8 min at the earliest"
    (_, text) = serving_pairs({"idle": idle | {"needed_ms": 10}, "models": []})[0]
    assert text.endswith("again in 1 min at the earliest")


def test_a_node_that_serves_says_nothing_of_its_rules() -> None:
    serves = {"resting": False, "detail": None, "needed_ms": None}
    assert serving_pairs({"idle": serves, "models": [MODEL]}) == serving_pairs({"idle": None, "models": [MODEL]})


def test_a_price_that_moves_says_by_which_policy() -> None:
    (_, text), *_ = serving_pairs({"models": [MODEL | {"pricing": "follow-demand"}]})
    assert text.endswith("0.00001 GRAM an item (follow-demand)")
    (_, text), *_ = serving_pairs({"models": [MODEL | {"pricing": "fixed"}]})
    assert text.endswith("0.00001 GRAM an item")
