"""job/1 as a provider, for answers that come piece by piece: the engine's stream of tokens on one side, frames on the other, and between
them the bound of what is paid. The machine (`proto.job_provider`) seals, counts and decides.

A piece goes out in the step in which it came. The engine works no further than it is allowed to, so a client that reads slowly, or pays no
more, holds up its own answer alone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from cocoon_p2p.drivers.clock import Clock
from cocoon_p2p.errors import ExecutionError, RemoteProtocolError, SettlementError
from cocoon_p2p.execution.port import Engine, InputBuffer, TokenStream
from cocoon_p2p.ids import JobId
from cocoon_p2p.proto.job_effects import Generate, ProviderEffect, TakeMore
from cocoon_p2p.proto.job_provider import ProviderSession
from cocoon_p2p.settlement.port import Settlement

log = logging.getLogger(__name__)

RunEffects = Callable[[Sequence[ProviderEffect]], Awaitable[None]]


class Ports(Protocol):
    """The part of `job_provider.ProviderPorts` that is used here."""

    @property
    def engine(self) -> Engine: ...

    @property
    def settlement(self) -> Settlement: ...

    @property
    def clock(self) -> Clock: ...


class FirstPayment(Protocol):
    """Of one job: `kept` is set when it is on the disk, or `unkept` says why it is not."""

    kept: trio.Event
    unkept: SettlementError | None


class StreamProvider:
    """The streams of one session. `run` carries out the machine's effects."""

    def __init__(self, ports: Ports, machine: ProviderSession, run: RunEffects) -> None:
        self._ports = ports
        self._machine = machine
        self._run = run
        self._streams: dict[JobId, TokenStream] = {}

    async def generate(self, effect: Generate, buffer: InputBuffer, payment: FirstPayment) -> None:
        """Until the final piece is out, or this is cancelled: then the model stops."""
        job_id = effect.job_id
        try:
            stream = await self._ports.engine.generate(
                effect.model_id,
                buffer,
                items_max=effect.items_max,
                items_allowed=effect.items_allowed,
                client=self._machine.client,
            )
            async with stream:
                self._streams[job_id] = stream
                try:
                    await self._give_out(job_id, stream, payment)
                finally:
                    del self._streams[job_id]
        except ExecutionError as error:
            await self._run(self._machine.execution_failed(job_id, error))

    async def _give_out(self, job_id: JobId, stream: TokenStream, payment: FirstPayment) -> None:
        """Raises ExecutionError."""
        clock, machine = self._ports.clock, self._machine
        await payment.kept.wait()  # nothing is handed out for a voucher that a power cut could take away
        if payment.unkept is not None:
            raise _disk_failed(job_id, payment.unkept)
        queue_us = int(stream.queue_s * 1e6)
        await self._run(
            machine.stream_begun(job_id, prompt_items=stream.prompt_items, queue_us=queue_us, now=clock.now())
        )
        while True:
            made = await stream.receive()
            await self._run(
                machine.produced(
                    job_id,
                    data=made.data,
                    items=made.items,
                    final=made.final,
                    execute_us=int(made.execute_s * 1e6),
                    now=clock.now(),
                )
            )
            if made.final:
                return

    def allow(self, job_id: JobId, items: int) -> None:
        """So much is paid for."""
        if (stream := self._streams.get(job_id)) is not None:
            stream.allow(items)

    def stop(self, job_id: JobId) -> None:
        """The client wants no more."""
        if (stream := self._streams.get(job_id)) is not None:
            stream.stop()

    async def take_more(self, effect: TakeMore, nursery: trio.Nursery) -> None:
        """A further payment. While it goes to the disk, messages are read on."""
        job_id, machine = effect.job_id, self._machine
        try:
            await self._ports.settlement.accept_more(machine.client, job_id, effect.payment, effect.total)
        except SettlementError as error:
            await self._run(machine.more_refused(job_id, error.message))
        except RemoteProtocolError as error:
            await self._run(machine.more_bad(job_id, error))
        else:
            nursery.start_soon(self._keep_more, effect)

    async def _keep_more(self, effect: TakeMore) -> None:
        try:
            await self._ports.settlement.kept()
        except SettlementError as error:
            failure = _disk_failed(effect.job_id, error)
            await self._run(self._machine.execution_failed(effect.job_id, failure))
        else:
            await self._run(self._machine.more_taken(effect.job_id, effect.paid, now=self._ports.clock.now()))


def _disk_failed(job_id: JobId, error: SettlementError) -> ExecutionError:
    log.error("job %s: its payment cannot be kept: %s", job_id.hex(), error)
    return ExecutionError("the provider's disk failed", code="WORKER")
