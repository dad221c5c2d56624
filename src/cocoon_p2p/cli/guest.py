"""Commands without a running node: a node that joins the network for one question, serves nothing, and leaves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cocoon_p2p.cli.evidence import accused_jobs
from cocoon_p2p.cli.interrupts import run_async
from cocoon_p2p.cli.output import print_note
from cocoon_p2p.cli.place import home_option
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.home import Home
from cocoon_p2p.ids import Tier
from cocoon_p2p.tensors import Payload

if TYPE_CHECKING:
    from cocoon_p2p.node import RunResult


def offers_as_guest(
    home: Home, config: NodeConfig, bootstrap: Sequence[str], model: str | None, tier: str | None
) -> dict[str, Any]:
    """The market that a newcomer finds, as `Node.market` gives it. Raises ConfigError without a bootstrap address."""
    return run_async(partial(_offers, home, guest_config(home, config, bootstrap), model, tier))


def run_as_guest(
    home: Home,
    config: NodeConfig,
    bootstrap: Sequence[str],
    head: dict[str, Any],
    payload: Payload,
    *,
    evidence: dict[str, bytes],
) -> tuple[dict[str, Any], Payload]:
    """One job, or a dry run: its result as the local API gives it, and its outputs. Evidence of wrong answers goes into
    `evidence`, by job. Raises CocoonError."""
    return run_async(partial(_run, home, guest_config(home, config, bootstrap), head, payload, evidence))


def audit_as_guest(
    home: Home, config: NodeConfig, bootstrap: Sequence[str], wanted: dict[str, Any], providers: Sequence[str]
) -> list[dict[str, Any]]:
    """Canary jobs, as `Node.audit` gives them. `wanted` are its arguments; `providers` as they were typed. Raises
    CocoonError."""
    return run_async(partial(_audit, home, guest_config(home, config, bootstrap), wanted, providers))


def guest_config(home: Home, config: NodeConfig, bootstrap: Sequence[str]) -> NodeConfig:
    """The configuration of a node for one question. Raises ConfigError without anybody to enter by."""
    private = home.private_network()
    entries = config.network.entries(private=private is not None)
    if not bootstrap and not entries and not _knows_anybody(home, "" if private is None else private.fingerprint):
        raise ConfigError(
            f"no node runs on {home.path}, and no address is known to enter the network by",
            code="NO_NODE",
            hint=f"start a node: cocoon-node up{home_option(home)}; or give --bootstrap /ip4/…/tcp/…/p2p/PEER_ID; "
            "or enter by somebody's invite: cocoon-node join INVITE",
        )
    print_note("no node runs here; joining the network for this one question")
    return config.as_client(bootstrap)


def _knows_anybody(home: Home, fingerprint: str) -> bool:
    """Whether peers of this network were reached from this home before."""
    from cocoon_p2p.store import open_store

    try:
        with open_store(home.state_file, read_only=True) as store:
            return bool(store.known_peers.of_network(fingerprint))
    except ConfigError:  # of an older schema, which the node itself brings up to date
        return False


async def _offers(home: Home, config: NodeConfig, model: str | None, tier: str | None) -> dict[str, Any]:
    from cocoon_p2p.node import Node

    async with Node.open(home.path, config=config) as node:
        market: dict[str, Any] = await node.market(model, tier=None if tier is None else Tier[tier.upper()])
    return market


async def _run(
    home: Home, config: NodeConfig, head: dict[str, Any], payload: Payload, evidence: dict[str, bytes]
) -> tuple[dict[str, Any], Payload]:
    from cocoon_p2p.cli.peer_names import provider_of
    from cocoon_p2p.gateway.run_json import is_dry_run, result_to_json, run_request
    from cocoon_p2p.node import Node

    provider = head.pop("provider", None)  # as it was typed
    run_request(head)
    result: RunResult
    async with Node.open(home.path, config=config) as node:
        if provider is not None:
            head["provider"] = await provider_of(node, provider, head["model"])
        request = run_request(head)
        if is_dry_run(head):
            return await node.consider(request, payload), Payload(())
        result = await node.run_payload(request, payload)
        row = result_to_json(result)
        for job_id in accused_jobs(row):
            found = node.evidence(job_id)
            if found is not None:
                evidence[job_id] = found
    return row, result.payload


async def _audit(
    home: Home, config: NodeConfig, wanted: dict[str, Any], providers: Sequence[str]
) -> list[dict[str, Any]]:
    from cocoon_p2p.cli.peer_names import provider_of
    from cocoon_p2p.node import Node

    async with Node.open(home.path, config=config) as node:
        peers = None
        if providers:
            peers = [await provider_of(node, each, wanted["model"]) for each in providers]
        rows: list[dict[str, Any]] = await node.audit(providers=peers, **wanted)
    return rows
