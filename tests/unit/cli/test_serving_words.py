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


def test_each_model_says_whether_it_is_loaded_and_what_it_did() -> None:
    loaded = MODEL | {
        "kind": "embedding",
        "state": "loaded",
        "devices": ["cpu"],
        "replicas": 1,
        "memory_bytes": 191_000_000,
    }
    assert lines_of(loaded | {"jobs_done": 1024}) == ["embedding, loaded, 191.0 MB of memory, 1,024 jobs done"]
    twice = loaded | {"devices": ["cuda:0", "cuda:1"], "replicas": 2, "jobs_done": 1}
    assert lines_of(twice) == ["embedding, loaded 2 times (cuda:0, cuda:1), 191.0 MB of memory, 1 job done"]
    cold = loaded | {"state": "cold", "devices": [], "replicas": 0, "jobs_done": 0}
    assert lines_of(cold) == ["embedding, not loaded: a job loads it, 191.0 MB of memory expected, no job yet"]
    failed = cold | {"state": "failed", "problem": "it would take about 9.1 GiB of memory"}
    assert lines_of(failed)[1] == "could not be loaded: it would take about 9.1 GiB of memory"


def lines_of(model: dict[str, Any]) -> list[str]:
    """What is said of a model between its name and the device."""
    return [text for _, text in serving_pairs({"models": [model]})[1:-2]]


def test_a_node_that_serves_says_nothing_of_its_rules() -> None:
    serves = {"resting": False, "detail": None, "needed_ms": None}
    assert serving_pairs({"idle": serves, "models": [MODEL]}) == serving_pairs({"idle": None, "models": [MODEL]})


def test_a_price_that_moves_says_by_which_policy() -> None:
    (_, text), *_ = serving_pairs({"models": [MODEL | {"pricing": "follow-demand"}]})
    assert text.endswith("0.00001 GRAM an item (follow-demand)")
    (_, text), *_ = serving_pairs({"models": [MODEL | {"pricing": "fixed"}]})
    assert text.endswith("0.00001 GRAM an item")


def test_a_cluster_that_does_not_answer_is_named_with_what_happens_next() -> None:
    down = {"name": "llama", "model": "meta/llama", "problem": "cannot be reached at http://x: is it running?"}
    pairs = serving_pairs({"upstreams": [down, {"name": "vectors", "model": "bge", "problem": None}]})
    assert pairs[0] == ("serving", "nothing yet")
    name, text = pairs[1]
    assert name == "upstream"
    assert text.startswith("llama is not offered: cannot be reached at http://x")
    assert "asked again every 15 s" in text
    assert not any("vectors" in str(text) for _, text in pairs)
    (_, serving), _, (name, _), _ = serving_pairs({"models": [MODEL], "upstreams": [down]})
    assert (serving[:2], name) == ("m ", "upstream")


def test_a_model_that_does_not_fit_is_named_with_the_reason() -> None:
    large = {"name": "large", "model_id": "ab" * 32, "problem": "it would take about 9.1 GiB of memory"}
    told = ("not offered", "large (abababab): it would take about 9.1 GiB of memory")
    assert serving_pairs({"not_offered": [large]})[:2] == [("serving", "nothing"), told]
    assert serving_pairs({"models": [MODEL], "not_offered": [large]})[-2] == told


def test_a_node_that_picks_up_models_is_not_one_that_asks_others() -> None:
    (_, text), *_ = serving_pairs({"auto_serve": True})
    assert text.startswith("nothing yet: this node picks up models that are wanted")
    (_, text), *_ = serving_pairs({"auto_serve": False})
    assert "this node asks others" in text
