"""`Node`: the embedding API. A node in the network, as a client, as a provider, or both.

async with Node.open(home="…", bootstrap=["/ip4/…/tcp/…/p2p/…"]) as node:
    outputs = await node.run("minilm", text=["how do I earn?"], max_price=10_000_000)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path

from cocoon_p2p.assembly import Backends, Parts, open_parts
from cocoon_p2p.config import NodeConfig, load_config, render_toml
from cocoon_p2p.drivers.clock import unix_ms
from cocoon_p2p.execution.port import ModelStatus
from cocoon_p2p.home import Home, locate_home
from cocoon_p2p.limits import DAMAGED_ROWS_TOLD_MS
from cocoon_p2p.node_audit import NodeAudit
from cocoon_p2p.node_doctor import NodeDoctor
from cocoon_p2p.node_generate import GeneratedToken, Generation, NodeGenerate
from cocoon_p2p.node_jobs import RunRequest, RunResult
from cocoon_p2p.node_map import MapItem, NodeMap
from cocoon_p2p.node_market import NodeMarket
from cocoon_p2p.node_models import NodeModels, serving_of
from cocoon_p2p.node_peers import NodePeers
from cocoon_p2p.node_pull import NodePull
from cocoon_p2p.node_session import NodeSession, Session
from cocoon_p2p.rows import Row, entry_row, model_row, wallet_row

__all__ = ["GeneratedToken", "Generation", "MapItem", "Node", "RunRequest", "RunResult", "Session"]


class Node(NodePeers, NodeMap, NodeGenerate, NodeMarket, NodeModels, NodePull, NodeSession, NodeAudit, NodeDoctor):
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

    # --- looking around; everything is JSON as it stands ---

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
            "no_jail": (parts.serving.allow_list.no_jail or None) if parts.serving is not None else None,
            "idle": None if parts.idling is None else parts.idling.row(),
            "models": self.models(),
            "not_offered": self._not_offered(),
            "auto_serve": parts.moves.auto_serve is not None,
            "upstreams": self._upstreams(),
            "jobs": jobs,
            "audits": self._audits(),
            "damaged_rows": self._damaged_rows(),
            "memory_bytes": _memory_bytes(),
            "network_counters": dict(parts.network.counters()),
        }

    def _audits(self) -> Row | None:
        """The jobs of ours that second providers repeated since the start; None where [client] audit_percent is 0."""
        percent, repeater = self._parts.config.client.audit_percent, self._parts.checks.repeater
        if not percent:
            return None
        return {"percent": percent, "repeated": repeater.repeated, "differed": repeater.differed}

    def _damaged_rows(self) -> Row | None:
        """Rows of each table that could not be read lately, and were set aside; None when there are none."""
        since_ms = unix_ms(self._parts.clock) - DAMAGED_ROWS_TOLD_MS
        return dict(self._parts.store.damaged.counts(since_ms=since_ms)) or None

    def _not_offered(self) -> list[Row]:
        """The models that are here to be served and are not: name, id, and why."""
        serving = self._parts.serving
        failed = serving.not_offered() if serving else ()
        return [{"name": model.name, "model_id": model.model_id, "problem": why} for model, why in failed]

    def _upstreams(self) -> list[Row]:
        """The operator's clusters: name, model, and why it is not offered (None while it is)."""
        upstreams = self._parts.upstreams
        rows = [] if upstreams is None else [asdict(each) for each in upstreams.standing()]
        return [row | {"problem": row["problem"] or None} for row in rows]

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
                    "pricing": serving.pricing(model.model_id),
                    "device": status.device.name,
                    "device_reason": status.device.reason,
                    "loaded": status.loaded,
                    "state": _state(status),
                    "problem": status.problem or None,
                    "devices": [device.name for device in status.devices],
                    "replicas": status.replicas,
                    "memory_bytes": status.memory_bytes,
                    "queued": status.queued,
                    "running": status.running,
                    "jobs_done": status.jobs_done,
                    "pid": status.pid,
                }
            )
        return rows

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
        model = await serving_of(self._parts).install_and_serve(
            Path(path), name=name, price_base=price_base, price_per_item=price_per_item
        )
        return model_row(model)


def _state(status: ModelStatus) -> str:
    """In one word for people: loaded, restarting, loading, failed or cold."""
    if status.warm:
        return "loaded" if status.loaded else "restarting"
    if status.loading:
        return "loading"
    return "failed" if status.problem else "cold"


def _with_options(
    config: NodeConfig, bootstrap: Sequence[str], listen: Sequence[str] | None, models: Sequence[str]
) -> NodeConfig:
    network = replace(config.network, listen=config.network.listen if listen is None else tuple(listen))
    provider = replace(config.provider, models=tuple(models) or config.provider.models)
    return replace(config, network=network, provider=provider).with_entries(bootstrap)


def _memory_bytes() -> int | None:
    """Resident memory of this process, without its workers; None where /proc is missing."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    import resource

    return pages * resource.getpagesize()
