"""job/1, the provider's end of an answer in frames: what was sent, what the client has acknowledged, and how far the model may
work. Pure; `proto.job_provider` asks it, and says what follows for the job.

What is at risk. The model works on at most one instalment beyond what the client acknowledged as owed; until the first
acknowledgement, on the prompt and one instalment. Work that nobody acknowledged earns nothing.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import TYPE_CHECKING

from cocoon_p2p import limits
from cocoon_p2p.errors import ExecutionError, RemoteProtocolError
from cocoon_p2p.proto.job_answers import StreamMark
from cocoon_p2p.sealing.frames import PIECE_IN_FRAME_BYTES_MAX, FrameSealer
from cocoon_p2p.wire.job import Frame, Pay, QuoteBody, Receipt, ReceiptBody, quoted_total

if TYPE_CHECKING:
    from hashlib import _Hash

NOTHING = StreamMark(0, 0, b"")


def half_of(instalment: int) -> int:
    """Items that a further PAY acknowledges at least."""
    # SPEC job/1 §3.16
    return (instalment + 1) // 2


def check_first_paid(quote: QuoteBody, paid: int) -> None:
    """How far the payment of ACCEPT or SUBMIT says it reaches. Raises RemoteProtocolError(code="QUOTE")."""
    # SPEC job/1 §3.5
    least, most = (min(quote.items, quote.instalment), quote.items) if quote.instalment else (0, 0)
    if not least <= paid <= most:
        raise RemoteProtocolError(f"a first payment for {paid} items, not {least} to {most}", code="QUOTE")


def first_amount(quote: QuoteBody, paid: int) -> int:
    """Nanogram that the first payment is to cover."""
    return quoted_total(quote.price_base, quote.price_per_item, paid) if quote.instalment else quote.max_total


class ProviderStream:
    """One answer."""

    def __init__(self, quote: QuoteBody, paid: int) -> None:
        self._quote = quote
        self.paid = paid
        """Items that the payments taken so far cover."""
        self._announced_paid = paid
        """With those that are being taken."""
        self.prompt_items: int | None = None
        """None before the prompt is counted."""
        self.items = 0
        """Sent."""
        self.acked = NOTHING
        self.receipt: tuple[Receipt, ReceiptBody] | None = None
        """Over what was acknowledged last; None while nothing is owed."""
        self.stopping = False
        self.unpaid_since: float | None = None
        """Since when the model waits for the client to pay, or to acknowledge."""
        self.queue_us = 0
        self.execute_us = 0
        self._pays = 0
        self._sealer: FrameSealer | None = None
        self._digest: _Hash = hashlib.sha256()
        self._unacked: deque[StreamMark] = deque()
        """Of the frames since the last acknowledgement: at most one an item, and the final one."""

    # --- getters ---

    @property
    def allowed(self) -> int:
        """Items that the model may work on in all."""
        # SPEC job/1 §3.16
        begun = max(self.acked.items, self.prompt_items or 0)
        return min(self.paid, begun + self._quote.instalment)

    @property
    def may_work(self) -> bool:
        """Whether the prompt is paid for, so that the model has begun."""
        return self.prompt_items is not None and self.allowed >= self.prompt_items

    @property
    def promised(self) -> int:
        """Items that all payments cover, those among them that are being taken."""
        return self._announced_paid

    @property
    def frames(self) -> int:
        """Sent."""
        return 0 if self._sealer is None else self._sealer.frames

    @property
    def all_acknowledged(self) -> bool:
        return self._sealer is not None and self._sealer.finished and self.acked.frames == self._sealer.frames

    @property
    def wasted(self) -> int:
        """Nanogram that the work would cost which the client has not acknowledged: of the prompt, once the model may begin with it,
        and of what was sent. At least 1 where there is any."""
        # SPEC job/1 §3.9
        worked = max(self.items, self.prompt_items or 0) if self.items or self.may_work else 0
        if worked <= self.acked.items:
            return 0
        return max(1, self.total(worked) - (self.total(self.acked.items) if self.acked.items else 0))

    # --- the engine ---

    def begin(self, header: bytes, sealer: FrameSealer, prompt_items: int, queue_us: int, now: float) -> None:
        self.prompt_items = prompt_items
        self.queue_us = queue_us
        self._sealer = sealer
        # SPEC job/1 §3.7
        self._digest.update(header)
        self._look_for_work(now)

    def produced(self, data: bytes, *, items: int, final: bool, execute_us: int, now: float) -> Frame:
        """The next frame. Raises ExecutionError for what this program's own engine must not give."""
        assert self._sealer is not None
        assert self.prompt_items is not None
        least = max(self.items, self.prompt_items) + (not final)
        if not least <= items <= self.allowed or not 0 < len(data) <= PIECE_IN_FRAME_BYTES_MAX:
            raise ExecutionError("the engine gave a piece that cannot be sent", code="WORKER", retryable=True)
        ciphertext = self._sealer.seal(data, final)
        self._digest.update(ciphertext)
        self.items, self.execute_us = items, execute_us
        self._unacked.append(StreamMark(self._sealer.frames, items, self._digest.digest()))
        self._look_for_work(now)
        return Frame(self._quote.job_id, ciphertext, items, final)

    # --- the client ---

    def acknowledge(self, pay: Pay, now: float) -> bool:
        """Whether more is owed now than before. Raises RemoteProtocolError: RECEIPT for counts that are not what was sent, or
        go back; FLOOD for acknowledgements in smaller steps than are allowed."""
        # SPEC job/1 §3.16
        if not self._announced_paid <= pay.paid <= self._quote.items:
            raise RemoteProtocolError(f"PAY reaches {pay.paid} items, after {self._announced_paid}", code="RECEIPT")
        mark = self._mark_of(pay)
        moved = mark.items - self.acked.items
        last = self._sealer is not None and self._sealer.finished and mark.frames == self._sealer.frames
        idle = moved < half_of(self._quote.instalment) if self._pays else moved == 0 and pay.paid == self.paid
        if idle and not last:
            raise RemoteProtocolError(f"PAY moves on by {moved} items", code="FLOOD")
        self._pays += 1
        self._announced_paid = pay.paid
        while self._unacked and self._unacked[0].frames <= mark.frames:
            self._unacked.popleft()
        self.acked = mark
        self._look_for_work(now)
        return mark.items > 0

    def _mark_of(self, pay: Pay) -> StreamMark:
        known = (self.acked, *self._unacked)
        found = next((mark for mark in known if (mark.frames, mark.items) == (pay.frames, pay.items)), None)
        if found is None:
            raise RemoteProtocolError(
                f"PAY acknowledges {pay.items} items in {pay.frames} frames, which were not sent", code="RECEIPT"
            )
        return found

    def total(self, paid: int) -> int:
        """Nanogram for so many items."""
        return quoted_total(self._quote.price_base, self._quote.price_per_item, paid)

    def more_taken(self, paid: int, now: float) -> None:
        """A further payment is on disk."""
        self.paid = max(self.paid, paid)
        self._look_for_work(now)

    def stop(self) -> None:
        """Raises RemoteProtocolError(code="FLOOD") for a second STOP."""
        # SPEC job/1 §3.17
        if self.stopping:
            raise RemoteProtocolError("a second STOP", code="FLOOD")
        self.stopping = True
        self.unpaid_since = None

    def next_deadline(self) -> float | None:
        """When the client has been waited for long enough."""
        # SPEC job/1 §3.16
        return None if self.unpaid_since is None else self.unpaid_since + limits.STREAM_UNPAID_S

    def _look_for_work(self, now: float) -> None:
        """Whether the model can go on, or what was sent last was the end and is to be acknowledged."""
        finished = self._sealer is not None and self._sealer.finished
        idle = self.allowed <= max(self.items, self.prompt_items or 0) and not self.stopping
        if not (finished or (idle and self.allowed < self._quote.items)):
            self.unpaid_since = None
        elif self.unpaid_since is None:
            self.unpaid_since = now
