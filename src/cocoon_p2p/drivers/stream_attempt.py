"""One job at one provider as a client, whose answer comes piece by piece and is paid so: `drivers.job_attempt` with what is more.

The machine (`proto.job_client`) opens the pieces, counts them and says when to pay on; this hands them over and makes the payments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

import trio

from cocoon_p2p.drivers.job_attempt import Attempt, AttemptPorts, Lane, StreamEffect
from cocoon_p2p.errors import RemoteProtocolError, SettlementError
from cocoon_p2p.generation import Piece
from cocoon_p2p.net.port import Bytes
from cocoon_p2p.proto.job_client import ClientJob
from cocoon_p2p.proto.job_effects import KeepMarks, Received, ReserveMore, StreamBegun
from cocoon_p2p.wire.job import Receipt, ReceiptBody


class StreamAttempt(Attempt):
    """`run_stream` in place of `run`."""

    def __init__(self, ports: AttemptPorts, session: Lane, job: ClientJob) -> None:
        super().__init__(ports, session, job)
        self.on_piece: Callable[[Piece], None] | None = None
        """Called in the step in which a piece was opened. Raises RemoteProtocolError for one that nobody asked for."""
        self.items = 0
        """Worked on until now, the prompt's among them."""
        self.shortage: SettlementError | None = None
        """Why it could not be paid further, where that ended it."""
        self._reserved = 0

    async def run_stream(self, payment: bytes, pieces: Sequence[Bytes]) -> None:
        """Carry the job through, from the first payment to the receipt. Raises the error that it ended with; `whole` says whether the
        answer came nevertheless."""
        self._reserved = self.job.first_total
        await self.carry(payment, pieces)

    @property
    def whole(self) -> bool:
        """The final piece is here."""
        return self.job.stream is not None and self.job.stream.finished

    @property
    def reserved(self) -> int:
        return self._reserved

    @property
    def price(self) -> int:
        """Nanogram: what was paid, or what was acknowledged and so is owed."""
        if self.job.receipt_body is not None:
            return self.job.receipt_body.price
        return 0 if self.job.stream is None else self.job.stream.at_risk

    async def stop(self) -> None:
        """No more is wanted; what came is paid."""
        with trio.CancelScope(shield=True):
            await self.run_effects(self.job.stop())

    async def run_stream_effect(self, effect: StreamEffect) -> None:
        match effect:
            case StreamBegun():
                self.marks.output_head = self._ports.clock.now()
            case Received(piece, items):
                await self._received(piece, items)
            case ReserveMore(total):
                await self._reserve_more(total)
            case KeepMarks(owed):
                self._ports.store.stream_marks.put(self.job.job_id, self.job.provider, owed.encode())
            case _:
                assert_never(effect)

    def _keep_receipt(self, receipt: Receipt, body: ReceiptBody) -> None:
        store = self._ports.store
        with store.transaction():
            super()._keep_receipt(receipt, body)
            store.stream_marks.remove(body.job_id, self.job.provider)

    async def _received(self, piece: Piece, items: int) -> None:
        self.items = items
        if piece.finish is not None:
            self.marks.output_complete = self._ports.clock.now()
        try:
            if self.on_piece is not None:
                self.on_piece(piece)
        except RemoteProtocolError as error:
            await self.run_effects(self.job.fault(error))

    async def _reserve_more(self, total: int) -> None:
        job = self.job
        try:
            payment = await self._ports.settlement.reserve_more(job.provider, job.job_id, total)
        except SettlementError as error:
            self.shortage = error
            await self.run_effects(job.more_failed(error))
        else:
            self._reserved = total
            await self.run_effects(job.more_reserved(payment))
