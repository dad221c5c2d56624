"""What runs a node's models, put together: its own engine, the sessions whose state stays here, and its operator's clusters."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack

import trio

from cocoon_p2p.config import NodeConfig
from cocoon_p2p.drivers.serving import Serving
from cocoon_p2p.drivers.upstreams import UpstreamOffer, Upstreams
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.execution.engines import EngineSet, open_engine_set
from cocoon_p2p.execution.port import Engine
from cocoon_p2p.execution.session_states import SessionBounds
from cocoon_p2p.execution.upstream.settings import UpstreamSettings
from cocoon_p2p.limits import UPSTREAM_KEY_BYTES_MAX


async def open_engines(
    stack: AsyncExitStack, config: NodeConfig, own: AbstractAsyncContextManager[Engine]
) -> EngineSet:
    """All that this node runs models with: its own engine, its operator's clusters, and the sessions. They end with `stack`."""
    engine = await stack.enter_async_context(own)
    upstream = None
    if config.upstream:
        from cocoon_p2p.execution.upstream.engine import open_upstream_engine  # with httpx: few nodes have a cluster

        opened = open_upstream_engine(output_bytes_max=config.execution.output_bytes_max)
        upstream = await stack.enter_async_context(opened)
    bounds = SessionBounds(config.execution.session_idle_s, config.execution.session_bytes_max)
    return await stack.enter_async_context(open_engine_set(engine, upstream, bounds))


async def offer_upstreams(engines: EngineSet | None, serving: Serving | None, config: NodeConfig) -> Upstreams | None:
    """Ask each [[upstream]] what it serves, and offer it. Raises ConfigError; one that does not answer is asked again later."""
    if engines is None or serving is None or not config.upstream:
        return None
    if "open" not in config.provider.tiers:
        raise ConfigError(
            "[[upstream]]: other machines of yours read the inputs, so its models are served in tier open alone",
            hint='add "open" to [provider] tiers',
        )
    offers = await trio.to_thread.run_sync(upstream_offers, config)
    upstreams = Upstreams(engines, serving, offers)
    await upstreams.begin()
    return upstreams


def upstream_offers(config: NodeConfig) -> list[UpstreamOffer]:
    """What [[upstream]] says, with the API keys. Raises ConfigError."""
    offers = []
    for each in config.upstream:
        settings = UpstreamSettings(
            name=each.name,
            kind=each.kind,
            url=each.url.rstrip("/"),
            model=each.model,
            task=each.task,
            context=each.context if each.kind == "openai" and each.task == "generation" else 0,
            parallel=each.parallel,
            timeout_s=each.timeout_s,
            api_key=_api_key(each.api_key_file, each.name),
        )
        offers.append(UpstreamOffer(settings, _price(each.price_base), _price(each.price_per_item)))
    return offers


def _price(given: int) -> int | None:
    return None if given < 0 else given


def _api_key(path: str, name: str) -> str:
    """Raises ConfigError, which never quotes the file."""
    if not path:
        return ""
    try:
        with open(path, "rb") as file:
            key = file.read(UPSTREAM_KEY_BYTES_MAX + 1).strip()
    except OSError as error:
        raise ConfigError(f'[[upstream "{name}"]] api_key_file: cannot read {path}: {error.strerror}') from error
    if not key or len(key) > UPSTREAM_KEY_BYTES_MAX or not key.isascii() or not key.decode().isprintable():
        raise ConfigError(
            f'[[upstream "{name}"]] api_key_file: {path} holds no key', hint="one line of printable ASCII"
        )
    return key.decode()
