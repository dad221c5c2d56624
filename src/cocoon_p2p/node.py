"""`Node`: the embedding API. A node in the network, as a client, as a provider, or both.

async with Node.open(home="…", bootstrap=["/ip4/…/tcp/…/p2p/…"]) as node:
    outputs = await node.run("minilm", text=["how do I earn?"], max_price=10_000_000)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocoon_p2p.assembly import Backends, Parts, advertised_addresses, open_parts
from cocoon_p2p.config import NodeConfig, load_config, render_toml
from cocoon_p2p.config_edit import add_bootstrap
from cocoon_p2p.drivers.clock import unix_ms
from cocoon_p2p.drivers.purchase import Order, Purchase
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.home import Home, locate_home
from cocoon_p2p.ids import PeerId, Tier, parse_peer_id
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, JOB_TIMEOUT_MAX_S
from cocoon_p2p.proto.market import BookOffer
from cocoon_p2p.rows import (
    Row,
    ban_row,
    entry_row,
    invite_row,
    job_row,
    joined_row,
    model_row,
    network_row,
    peer_row,
    reachability_row,
    receipt_row,
    wallet_row,
)
from cocoon_p2p.tensors import TEXT_INPUT, Payload, string_tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BAN_DEFAULT_S = 86_400.0
"""A day: who misbehaved, or was mistaken for somebody, gets another chance."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A job as it is asked for, but for its input."""

    model: str
    """Name or id."""
    tier: str | None = None
    """"sealed" or "open"; None: the configuration's."""
    max_price: int | None = None
    """nanogram, the most to pay; None: the configuration's."""
    provider: str | None = None
    """Peer id; None: the best offer."""
    timeout_s: float | None = None
    """None: the configuration's."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished job."""

    payload: Payload
    job_id: str
    model_id: str
    provider: str
    price_nanogram: int
    timeline_ms: dict[str, float]
    receipt: dict[str, Any] | None
    attempts: list[dict[str, str]] = field(default_factory=list)


class Node:
    """One participant of the network. Made by `Node.open`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        home: str | Path | None = None,
        *,
        config: NodeConfig | None = None,
        bootstrap: Sequence[str] = (),
        listen: Sequence[str] | None = None,
        models: Sequence[str] = (),
        backends: Backends | None = None,
    ) -> AsyncIterator[Node]:
        """A running node, stopped at the end of the block.

        `home` is made with a new identity when it does not exist (None: COCOON_HOME, or ~/.cocoon); one that is made here is a
        client's: it accepts no connections and serves nobody, unless `listen` or `models` say otherwise. `config` is what
        node.toml says (read from the home when not given); `bootstrap`, `listen` and `models` go before it. `backends` is
        for simulations (`cocoon_p2p.testing`).

        Raises ConfigError (home, configuration, port in use), ExecutionError (a model does not load), TransportError (no
        bootstrap node answers). The last not for a node that listens and has its bootstrap addresses from `config`: after
        a power cut all may start at the same moment, so it goes on and keeps trying.
        """
        path = locate_home(home)
        if config is None:
            config = load_config(None, path)
            if not (path / "node.toml").exists() and listen is None and not models:
                config = config.as_client()
        place = Home(path, passphrase_file=config.identity.passphrase_file)
        if not place.initialised:
            place.init(config_text=None if place.config_file.exists() else render_toml(config))
        config = _with_options(config, bootstrap, listen, models)
        must_join = bool(bootstrap) or not config.network.listen
        opened = open_parts(place, config, backends or Backends(), must_join=must_join, by_bootstrap=bool(bootstrap))
        async with opened as parts:
            yield cls(parts)

    # --- who and where ---

    @property
    def peer_id(self) -> PeerId:
        return self._parts.identity.peer_id

    def addresses(self) -> list[str]:
        """Multiaddrs, each with /p2p/ and our peer id: what others give as --bootstrap."""
        advertised = advertised_addresses(self._parts.network, self._parts.config)
        return [f"{address}/p2p/{self.peer_id}" for address in advertised]

    def reachability(self) -> Row:
        """Whether others can dial this node, how it knows, and what could be done for more (`net.port.Reachability`)."""
        return reachability_row(self._parts.network.reachability())

    # --- single peers ---

    async def ping(self, peer: str) -> float:
        """Seconds of one round trip to a peer, after connecting where that is needed. Raises ConfigError (no peer id, or
        our own), TransportError (no address known, unreachable, no answer within limits.PING_TIMEOUT_S, banned)."""
        return await self._parts.peering.ping(_peer_id(peer))

    async def connect(self, target: str) -> Row:
        """Connect to a peer: a multiaddr with /p2p/, an invite, or the id of a peer whose address is known. What `peers`
        says of it then. Raises ConfigError (what `target` is, or that it is for another network), TransportError."""
        peer = await self._parts.peering.connect(target)
        return next((row for row in self.peers() if row["peer_id"] == peer), {"peer_id": peer})

    def ban(self, peer: str, duration_s: float = BAN_DEFAULT_S) -> Row:
        """Cut a peer off and refuse it for so many seconds, also after a restart. Raises ConfigError."""
        peer_id = _peer_id(peer)
        return {"peer_id": peer_id, "banned_until_ms": self._parts.peering.ban(peer_id, duration_s)}

    def unban(self, peer: str) -> Row:
        """End a ban before its time; "was_banned" tells whether there was one. Raises ConfigError."""
        peer_id = _peer_id(peer)
        return {"peer_id": peer_id, "was_banned": self._parts.peering.unban(peer_id)}

    def invite(self, *, hours: float | None = None, with_network_key: bool = False) -> Row:
        """A text by which another machine joins: it holds the best addresses of this node. `hours`: how long it may be
        used; None for ever. `with_network_key`: the private network's key goes with it, so that the invite must be kept
        as secret as the key. Raises ConfigError: this node accepts no connections; there is no network key."""
        text, invitation = self._parts.peering.invite(hours=hours, with_network_key=with_network_key)
        return invite_row(text, invitation)

    async def join(self, invite: str) -> Row:
        """Connect to who wrote an invite and remember it: in the home's node.toml, for the next start, and for whenever
        this node finds itself alone. Raises ConfigError (garbled, expired, our own, another network's; node.toml cannot be
        extended), TransportError (nobody answers there); nothing is remembered then."""
        parts = self._parts
        invitation = await parts.peering.join(invite)
        file, written = parts.home.config_file, list[str]()
        if file.exists():
            written = add_bootstrap(file, invitation.entries, private=bool(parts.peering.membership.fingerprint))
        return joined_row(invitation, file if written else None)

    # --- jobs ---

    async def run(
        self,
        model: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        text: Sequence[str] | None = None,
        max_price: int | None = None,
        tier: str | None = None,
        provider: str | None = None,
        timeout_s: float | None = None,
        outputs: Sequence[str] = (),
    ) -> dict[str, NDArray[np.generic]]:
        """Run one job somewhere in the network and return its outputs by name.

        `inputs` maps input names to arrays (any dtype and shape that the model takes); `text` is a list of n strings for
        a model with a text front end. `max_price` is nanogram. `outputs` names the ones wanted; none means all.

        Raises ExecutionError (code INPUT: what the model wants), PeerRefused (PRICE: the lowest offer, and others),
        TransportError, CocoonError (NO_MODEL), SettlementError.
        """
        from cocoon_p2p.execution.arrays import to_arrays, to_payload

        if (inputs is None) == (text is None):
            raise ConfigError("give either inputs or text", hint='node.run("minilm", text=["…"])')
        if isinstance(text, str):
            raise ConfigError("text must be a list of texts, not one text", hint='node.run("minilm", text=["…"])')
        if text is not None:
            payload = Payload((string_tensor(TEXT_INPUT, list(text)),), tuple(outputs))
        else:
            payload = to_payload(inputs or {}, tuple(outputs))
        request = RunRequest(model, tier=tier, max_price=max_price, provider=provider, timeout_s=timeout_s)
        return to_arrays((await self.run_payload(request, payload)).payload)

    async def run_payload(self, request: RunRequest, payload: Payload) -> RunResult:
        """The same for a payload as it travels, with everything that is known of the job. Raises as `run`."""
        client = self._parts.config.client
        _check_request(request)
        order = Order(
            model=request.model,
            payload=payload,
            tier=_tier(request.tier or client.tier),
            max_total=(client.max_price or None) if request.max_price is None else request.max_price,
            provider=_provider(request.provider),
            timeout_s=client.timeout_s if request.timeout_s is None else request.timeout_s,
        )
        return self._result(await self._parts.buyer.buy(order))

    # --- looking around; everything is JSON as it stands ---

    async def offers(self, model: str | None = None) -> list[Row]:
        """What others offer: of one model (asking the network when nothing is known), or all that is known."""
        market = self._parts.market
        if model is not None:
            offers = await market.find(model)
        else:
            offers = market.offers() or await market.look_around()
        offers.sort(key=lambda each: (each.offer.name, each.offer.price_base + each.offer.price_per_item, each.peer))
        return [self._offer_row(each) for each in offers]

    def peers(self) -> list[Row]:
        """Whom we are connected to."""
        parts = self._parts
        offers = parts.market.offers()
        offered = Counter(offer.peer for offer in offers)
        agents = {offer.peer: offer.agent for offer in offers}
        now_ms = unix_ms(parts.clock)
        return [
            peer_row(
                peer,
                agent=peer.agent or agents.get(peer.peer, ""),
                offers=offered[peer.peer],
                standing=parts.standing.of(peer.peer),
                now_ms=now_ms,
            )
            for peer in parts.network.peers()
        ]

    def banned(self) -> list[Row]:
        """Whom we refuse at the moment, and until when."""
        now_ms = unix_ms(self._parts.clock)
        return [ban_row(record, now_ms) for record in self._parts.store.peers.banned(now_ms=now_ms)]

    def known_peers(self) -> list[PeerId]:
        """Ids of those connected, of those whose offers are known, and of those met lately, banned ones among them."""
        parts = self._parts
        connected = [peer.peer for peer in parts.network.peers()]
        offering = [offer.peer for offer in parts.market.offers()]
        return list(dict.fromkeys((*connected, *offering, *parts.peering.met())))

    def network(self) -> Row:
        """The network that this node is in: the public one, or a private one's name and fingerprint."""
        return network_row(self._parts.peering.membership)

    def status(self) -> Row:
        """This node in short."""
        parts = self._parts
        jobs: dict[str, int] = {}
        for job in parts.store.jobs.newest(1000):
            jobs[job.state] = jobs.get(job.state, 0) + 1
        return {
            "peer_id": self.peer_id,
            "addresses": self.addresses(),
            "uptime_s": round(parts.clock.now() - parts.started, 3),
            "peers": len(parts.network.peers()),
            "bootstrap": [entry_row(entry) for entry in parts.peering.entries()],
            "network": self.network(),
            "reachability": self.reachability(),
            "clock_advice": parts.market.clocks.advice() or None,
            "settlement_network": parts.settlement.network_id,
            "serve": parts.serving is not None,
            "models": self.models(),
            "jobs": jobs,
            "memory_bytes": _memory_bytes(),
            "network_counters": dict(parts.network.counters()),
        }

    def models(self) -> list[Row]:
        """The models that this node serves."""
        serving = self._parts.serving
        rows = []
        for model, status in serving.models() if serving else ():
            assert serving is not None
            base, per_item = serving.price(model.model_id)
            rows.append(
                {
                    **model_row(model),
                    "price_base": base,
                    "price_per_item": per_item,
                    "device": status.device.name,
                    "device_reason": status.device.reason,
                    "loaded": status.loaded,
                    "queued": status.queued,
                    "running": status.running,
                    "jobs_done": status.jobs_done,
                    "pid": status.pid,
                }
            )
        return rows

    def jobs(self, limit: int = 100) -> list[Row]:
        """The newest jobs, as a client and as a provider."""
        return [job_row(job) for job in self._parts.store.jobs.newest(limit)]

    def receipts(self, limit: int = 100) -> list[Row]:
        return [receipt_row(receipt) for receipt in self._parts.store.receipts.newest(limit)]

    async def wallet(self) -> Row:
        settlement = self._parts.settlement
        return wallet_row(await settlement.balance(), await settlement.channels())

    async def add_model(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        price_base: int | None = None,
        price_per_item: int | None = None,
    ) -> Row:
        """Install a model and offer it at once. Raises ConfigError, ExecutionError."""
        serving = self._parts.serving
        if serving is None:
            raise ConfigError(
                "this node serves nobody: [provider] serve is false",
                hint="set serve = true in node.toml and start the node again",
            )
        model = await serving.install_and_serve(
            Path(path), name=name, price_base=price_base, price_per_item=price_per_item
        )
        return model_row(model)

    # --- rows ---

    def _offer_row(self, each: BookOffer) -> Row:
        offer = each.offer
        return {
            "model_id": offer.model_id,
            "name": offer.name,
            "peer_id": each.peer,
            "agent": each.agent,
            "addresses": list(each.addresses),
            "price_base": offer.price_base,
            "price_per_item": offer.price_per_item,
            "tiers": [tier.name.lower() for tier in offer.tiers],
            "slots_free": offer.slots_free,
            "slots_total": offer.slots_total,
            "queue_ms": offer.queue_ms,
            "item_us": offer.item_us,
            "items_max": offer.items_max,
            "input_bytes_max": offer.input_bytes_max,
            "device": offer.device,
            "settlement_network": each.settlement_networks[0] if each.settlement_networks else None,
            "age_ms": max(0, int(self._parts.clock.unix() * 1000) - each.issued_at_ms),
        }

    def _result(self, purchase: Purchase) -> RunResult:
        kept = self._parts.store.receipts.by_job(purchase.job_id, role="client")
        return RunResult(
            payload=purchase.payload,
            job_id=purchase.job_id.hex(),
            model_id=purchase.model_id,
            provider=purchase.provider,
            price_nanogram=purchase.price,
            timeline_ms=purchase.timeline_ms,
            receipt=None if kept is None else receipt_row(kept),
            attempts=purchase.attempts,
        )


def _with_options(
    config: NodeConfig, bootstrap: Sequence[str], listen: Sequence[str] | None, models: Sequence[str]
) -> NodeConfig:
    network = replace(config.network, listen=config.network.listen if listen is None else tuple(listen))
    provider = replace(config.provider, models=tuple(models) or config.provider.models)
    return replace(config, network=network, provider=provider).with_entries(bootstrap)


def _check_request(request: RunRequest) -> None:
    """Raises ConfigError: what goes on the wire must be right before it goes."""
    price, timeout_s = request.max_price, request.timeout_s
    if price is not None and (type(price) is not int or not 0 <= price <= AMOUNT_NANOGRAM_MAX):
        raise ConfigError(
            f"max_price must be a whole number of nanogram, not {price!r}", hint="1 GRAM is 1_000_000_000"
        )
    if timeout_s is not None and not 0 < timeout_s <= JOB_TIMEOUT_MAX_S:
        raise ConfigError(f"timeout_s must be from 0 to {JOB_TIMEOUT_MAX_S:g} seconds, not {timeout_s!r}")


def _tier(text: str) -> Tier:
    if text not in ("sealed", "open"):
        raise ConfigError(f"there is no tier {text!r}", hint="sealed or open")
    return Tier[text.upper()]


def _provider(text: str | None) -> PeerId | None:
    if text is None:
        return None
    try:
        return parse_peer_id(text)
    except ValueError as error:
        raise ConfigError(f"provider: {error}") from error


def _peer_id(text: str) -> PeerId:
    try:
        return parse_peer_id(text)
    except ValueError as error:
        raise ConfigError(str(error), hint="`cocoon-node peers` lists those connected") from error


def _memory_bytes() -> int | None:
    """Resident memory of this process, without its workers; None where /proc is missing."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    import resource

    return pages * resource.getpagesize()
