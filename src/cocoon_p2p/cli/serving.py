"""What a node serves, at which price, on which device and why: for `up` and `status`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cocoon_p2p.cli.words import money_note, price, short_id, size
from cocoon_p2p.limits import UPSTREAM_RETRY_S
from cocoon_p2p.policy.advice import duration

Pairs = list[tuple[str, Any]]
NOTHING = "nothing: this node asks others (cocoon-node models add PATH to offer a model)"
NOTHING_YET = "nothing yet"
NOTHING_WANTED = "nothing yet: this node picks up models that are wanted, and offers them ([provider] auto_serve)"
NOTHING_TAKEN = "nothing"
NOTHING_EVER = "nothing: [provider] serve is false"


def serving_pairs(status: dict[str, Any], *, verbose: bool = False) -> Pairs:
    """The lines about models and money out of a node's status. `verbose`: with all that was tried to find a device."""
    pairs: Pairs = []
    idle = status.get("idle") or {}
    if idle.get("resting"):
        pairs.append(("serving", _resting(idle)))
    for place, models in _by_place(status.get("models") or (), verbose).items():
        for model in models:
            name = f"{model.get('name')} ({short_id(model.get('model_id'))})"
            asked = price(
                model.get("price_base"), model.get("price_per_item"), tokens=model.get("kind") == "generation"
            )
            label, before = ("", "afterwards ") if idle.get("resting") else ("serving", "")
            pairs.append((label, f"{before}{name} for {asked}{_policy(model)}"))
            pairs += [("", line) for line in _engine_lines(model)]
        pairs.append(("", place))
    waiting = [each for each in status.get("upstreams") or () if each.get("problem")]
    left_out = status.get("not_offered") or ()
    if not pairs:
        pairs.append(("serving", _nothing(status, waiting, left_out)))
    pairs += [("not offered" if i == 0 else "", left_out_model(each)) for i, each in enumerate(left_out)]
    pairs += [("upstream" if i == 0 else "", waiting_upstream(each)) for i, each in enumerate(waiting)]
    if status.get("no_jail"):
        pairs.append(("", f"models that came from peers are not served: {status['no_jail']}"))
    network = status.get("settlement_network")
    pairs.append(("money", money_note(network)))
    return pairs


def _nothing(status: dict[str, Any], waiting: Sequence[Any], left_out: Sequence[Any]) -> str:
    """What is said of a node without an offer."""
    if not status.get("serve", True):
        return NOTHING_EVER
    if status.get("auto_serve"):
        return NOTHING_WANTED
    return NOTHING_YET if waiting else NOTHING_TAKEN if left_out else NOTHING


def left_out_model(model: dict[str, Any]) -> str:
    """Why a model that is here is not on offer."""
    return f"{model.get('name')} ({short_id(model.get('model_id'))}): {model.get('problem')}"


def waiting_upstream(upstream: dict[str, Any]) -> str:
    """Why a cluster is not offered, and that it will be."""
    again = f"it is asked again every {UPSTREAM_RETRY_S:g} s, and offered as soon as it answers"
    return f"{upstream.get('name')} is not offered: {upstream.get('problem')} ({again})"


def _resting(idle: dict[str, Any]) -> str:
    """Why the idle rules keep the node from serving, and until when as far as that is known."""
    needed_ms = idle.get("needed_ms")
    if needed_ms is None:
        return f"resting - {idle.get('detail')}"
    minutes = max(1, round(needed_ms / 60_000))
    until = f"{minutes} min" if minutes <= 90 else duration(needed_ms)
    return f"resting - {idle.get('detail')}; again in {until} at the earliest"


def _policy(model: dict[str, Any]) -> str:
    """How the price moves, when it does."""
    pricing = model.get("pricing") or "fixed"
    return "" if pricing == "fixed" else f" ({pricing})"


def _engine_lines(model: dict[str, Any]) -> list[str]:
    """What a model is, whether it is loaded and by how much, what it has done, and what keeps it from being loaded."""
    state = model.get("state")
    if state is None:
        return []
    devices = model.get("devices") or []
    parts = [str(model.get("kind")), "not loaded: a job loads it" if state == "cold" else str(state)]
    if (model.get("replicas") or 0) > 1:
        parts[-1] += f" {model['replicas']} times ({', '.join(devices)})"
    if model.get("memory_bytes"):
        parts.append(f"{size(model['memory_bytes'])} of memory" + ("" if devices else " expected"))
    parts.append(_count(model.get("jobs_done") or 0))
    problem = [f"could not be loaded: {model['problem']}"] if model.get("problem") else []
    return [", ".join(parts), *problem]


def _count(jobs: int) -> str:
    return "no job yet" if jobs == 0 else f"{jobs:,} job{'' if jobs == 1 else 's'} done"


def _by_place(models: Iterable[dict[str, Any]], verbose: bool) -> dict[str, list[dict[str, Any]]]:
    """The models under "on <device>: <why>", so that what is the same for several is said once."""
    places: dict[str, list[dict[str, Any]]] = {}
    for model in models:
        reason = str(model.get("device_reason") or "")
        reason = reason if verbose else _in_short(reason)
        place = f"on {model.get('device') or 'no device yet'}{f': {reason}' if reason else ''}"
        places.setdefault(place, []).append(model)
    return places


def _in_short(reason: str) -> str:
    """Without what each accelerator said that does not work (execution/device.py)."""
    before, failed, _ = reason.partition(" does not work: ")
    if not failed:
        return reason
    found, more, _ = before.rpartition("; ")
    return found if more else "no accelerator works here (status --verbose says why)"
