"""The stranger: a node of a minute's life, with an identity and play money of its own, that looks at another node from outside.
It enters the network by others where there are any, so what it finds it finds through them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

from cocoon_p2p.assembly import Backends
from cocoon_p2p.cli.doctor_market import Bought
from cocoon_p2p.cli.temporary_homes import TemporaryHomes
from cocoon_p2p.config import NodeConfig, problem_of_dial_address
from cocoon_p2p.errors import TransportError
from cocoon_p2p.home import Home
from cocoon_p2p.ids import PeerId
from cocoon_p2p.models.canary import canary_input
from cocoon_p2p.models.manifest import Manifest
from cocoon_p2p.node import Node, RunRequest
from cocoon_p2p.policy.agreement import Precision, tolerance
from cocoon_p2p.tensors import Payload

HOMES = TemporaryHomes("doctor", "cocoon-doctor-", ".cocoon-doctor")
ENTRIES_MAX = 16
"""Others by whom the stranger may enter."""
ADDRESSES_MAX = 4
"""Of each of them."""


def ways_in(status: Mapping[str, Any], peers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Addresses, with /p2p/, of others by whom to enter the network that a node is in: those it is connected to, and its
    bootstrap nodes."""
    found = []
    for row in peers:
        dialled = () if row["direction"] == "inbound" else tuple(row["addresses"])
        found += _named((*dialled, *row["listens_on"]), row["peer_id"])
    for entry in status["bootstrap"]:
        found += _named(entry["addresses"], entry["peer_id"])
    return [each for each in dict.fromkeys(found) if problem_of_dial_address(each) is None][
        : ENTRIES_MAX * ADDRESSES_MAX
    ]


def _named(addresses: Sequence[str], peer: str) -> list[str]:
    return [f"{address.partition('/p2p/' + peer)[0]}/p2p/{peer}" for address in addresses[:ADDRESSES_MAX]]


@dataclass(frozen=True, slots=True)
class Entered:
    """Where the stranger stands."""

    node: Node
    by_others: bool
    """Whether it came in by others than the node that it looks at."""
    trouble: str = ""
    """Why it did not, although there are others."""


async def live(
    home: Home,
    others: Sequence[str],
    itself: Sequence[str],
    *,
    task_status: trio.TaskStatus[Entered] = trio.TASK_STATUS_IGNORED,
) -> None:
    """A task: enter the network of the node of `home` by `others`, else by `itself` (its own addresses), and stay until
    cancelled. Raises CocoonError when there is no way in."""
    trouble = ""
    with HOMES.folder() as folder:
        if others:
            try:
                async with _stranger(folder / "stranger", home, others) as node:
                    task_status.started(Entered(node, by_others=True))
                    await trio.sleep_forever()
            except TransportError as error:
                if not itself:
                    raise
                trouble = error.message
        async with _stranger(folder / "guest", home, itself) as node:
            task_status.started(Entered(node, by_others=False, trouble=trouble))
            await trio.sleep_forever()


def _stranger(folder: Path, home: Home, entries: Sequence[str]) -> AbstractAsyncContextManager[Node]:
    """In the private network of `home`, where that is in one: its key is in memory only, so that no temporary folder keeps it
    when this program is killed."""
    private = home.private_network()
    backends = Backends() if private is None else Backends(private=private)
    return Node.open(folder, config=stranger_config(entries), backends=backends)


def stranger_config(entries: Sequence[str]) -> NodeConfig:
    """Of a client that enters by these addresses alone, and pays what is asked: its money is worth nothing."""
    config = NodeConfig().as_client(entries)
    network = replace(config.network, mdns=False, upnp=False)
    market = replace(config.market, history_hours=0)
    return replace(config, network=network, market=market, client=replace(config.client, max_price=0))


async def buy(
    node: Node,
    peer: PeerId,
    manifest: Manifest,
    own: Mapping[str, Any],
    answer: Payload,
    *,
    seed: int,
    tier: str,
    timeout_s: float,
) -> Bought:
    """Buy the canary of `seed` from `peer`, and compare what comes with the peer's own `answer`; `own` is the head of it
    (`Node.own_answer`). Raises CocoonError."""
    from cocoon_p2p.execution.comparison import agree

    given = canary_input(manifest, random.Random(seed), tame=int(own["tame"]))
    request = RunRequest(model=manifest.model_id, tier=tier, provider=peer, timeout_s=timeout_s)
    result = await node.run_payload(request, given)
    bound = tolerance(Precision(manifest.precision))
    agreement = agree(result.payload, answer, quantised=bound.quantised)
    receipt = result.receipt or {}
    return Bought(
        total_ms=float(result.timeline_ms["total"]),
        price=result.price_nanogram,
        signed_by_both=bool(receipt.get("provider_signature") and receipt.get("client_signature")),
        tier=tier,
        agrees=agreement.within(bound.bound),
    )
