"""`cocoon-node generate` without a running node: one that joins the network for this answer, and leaves."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from cocoon_p2p.cli.guest import guest_config
from cocoon_p2p.cli.interrupts import run_async
from cocoon_p2p.cli.output import print_note
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.home import Home

if TYPE_CHECKING:
    from cocoon_p2p.cli.generate import Shown
    from cocoon_p2p.node import Generation


def generate_as_guest(
    home: Home, config: NodeConfig, bootstrap: Sequence[str], head: dict[str, Any], shown: Shown
) -> bool:
    """Whether it was stopped by Ctrl-C. Raises CocoonError."""
    return run_async(partial(_generate, home, guest_config(home, config, bootstrap), head, shown))


async def _generate(home: Home, config: NodeConfig, head: dict[str, Any], shown: Shown) -> bool:
    from cocoon_p2p.cli.peer_names import provider_of
    from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
    from cocoon_p2p.gateway.generate_json import end_line, generate_request, piece_line, start_line
    from cocoon_p2p.node import Node

    provider = head.pop("provider", None)  # as it was typed
    generate_request(head)
    async with Node.open(home.path, config=config) as node:
        if provider is not None:
            head["provider"] = await provider_of(node, provider, head["model"])
        limits, request, raw = generate_request(head)
        error: CocoonError | None = None
        async with open_plain_nursery() as nursery:
            async with node.generate_request(limits, request, raw=raw) as generation:
                await nursery.start(_stop_at_interrupt, generation, shown)
                shown.line(start_line(generation))
                try:
                    while True:
                        shown.line(piece_line(await generation.next_piece()))
                except StopAsyncIteration:
                    pass
                except CocoonError as failure:
                    error = failure
            nursery.cancel_scope.cancel()
    if error is not None and not generation.text:
        raise error
    shown.line(end_line(generation, error))
    return shown.stopped


async def _stop_at_interrupt(generation: Generation, shown: Shown, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            if shown.stopped:
                raise KeyboardInterrupt
            shown.stopped = True
            if not generation.text:
                print_note("stopping")
            await generation.cancel()
