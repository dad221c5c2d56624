"""Commands without a running node: a node that joins the network for one question, serves nothing, and leaves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from cocoon_p2p.cli.output import print_note
from cocoon_p2p.cli.place import home_option
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.home import Home
from cocoon_p2p.tensors import Payload

if TYPE_CHECKING:
    from cocoon_p2p.node import RunResult


def offers_as_guest(
    home: Home, config: NodeConfig, bootstrap: Sequence[str], model: str | None
) -> list[dict[str, Any]]:
    """The offers that a newcomer finds. Raises ConfigError without a bootstrap address."""
    return trio.run(partial(_offers, home, _guest_config(home, config, bootstrap), model))


def run_as_guest(
    home: Home, config: NodeConfig, bootstrap: Sequence[str], head: dict[str, Any], payload: Payload
) -> tuple[dict[str, Any], Payload]:
    """One job: its result as the local API gives it, and its outputs. Raises CocoonError."""
    return trio.run(partial(_run, home, _guest_config(home, config, bootstrap), head, payload))


def _guest_config(home: Home, config: NodeConfig, bootstrap: Sequence[str]) -> NodeConfig:
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


async def _offers(home: Home, config: NodeConfig, model: str | None) -> list[dict[str, Any]]:
    from cocoon_p2p.node import Node

    async with Node.open(home.path, config=config) as node:
        offers: list[dict[str, Any]] = await node.offers(model)
    return offers


async def _run(
    home: Home, config: NodeConfig, head: dict[str, Any], payload: Payload
) -> tuple[dict[str, Any], Payload]:
    from cocoon_p2p.gateway.run_json import result_to_json, run_request
    from cocoon_p2p.node import Node

    request = run_request(head)
    result: RunResult
    async with Node.open(home.path, config=config) as node:
        result = await node.run_payload(request, payload)
    return result_to_json(result), result.payload
