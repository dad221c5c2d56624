"""job/1, the client's end of an answer in frames: what came, what it says of that, and how far it is paid for. Pure;
`proto.job_client` asks it, and says what follows for the job.

What is at risk. The client has signed for at most one instalment beyond what came (before the first frame: beyond the prompt,
once it was counted), and owes nothing but what it acknowledged, which it has.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cocoon_p2p import limits
from cocoon_p2p.errors import CocoonError, ExecutionError, RemoteProtocolError
from cocoon_p2p.generation import Piece, parse_piece
from cocoon_p2p.proto.job_answers import StreamMark
from cocoon_p2p.proto.stream_provider import half_of
from cocoon_p2p.sealing.frames import FrameOpener
from cocoon_p2p.wire.job import Frame, Pay, QuoteBody, StreamHead, quoted_total

if TYPE_CHECKING:
    from hashlib import _Hash


class ClientStream:
    """One answer. `paid`: items that the first payment covers."""

    def __init__(self, quote: QuoteBody, paid: int) -> None:
        self._quote = quote
        self.paid = paid
        """Items that the payments sent so far cover."""
        self.prompt_items = 0
        self.queue_us = 0
        self.items = 0
        """Of the frames that came; 0 before the first."""
        self.frames = 0
        self.acked = 0
        """Items that were acknowledged, and so are owed."""
        self.marks: tuple[StreamMark, ...] = ()
        """What was acknowledged last, the newest at the end."""
        self.finished = False
        """The final frame is here: the answer is whole."""
        self.stopping = False
        """STOP was said."""
        self.payment_error: CocoonError | None = None
        """Why no more was paid, where that ended it."""
        self._tokens = 0
        self._text_bytes = 0
        self._pays = 0
        self._wanted: int | None = None
        """Items that a payment is being made for."""
        self._opener: FrameOpener | None = None
        self._digest: _Hash = hashlib.sha256()

    # --- getters ---

    @property
    def at_risk(self) -> int:
        """Nanogram that the provider may claim: what was acknowledged costs so much."""
        return self._price(self.acked) if self.acked else 0

    # --- the provider ---

    def begin(self, head: StreamHead, opener: FrameOpener) -> None:
        """Raises RemoteProtocolError(code="RECEIPT") for a prompt of more items than this input can have."""
        # SPEC job/1 §3.14
        most = min(self._quote.items, self._quote.input_bytes + limits.PROMPT_TOKENS_SLACK)
        if head.prompt_items > most:
            raise RemoteProtocolError(f"a prompt of {head.prompt_items} items; at most {most}", code="RECEIPT")
        self.prompt_items, self.queue_us = head.prompt_items, head.queue_us
        self._opener = opener
        # SPEC job/1 §3.7
        self._digest.update(head.response_header)

    def receive(self, frame: Frame) -> Piece:
        """The piece in the next frame. Raises RemoteProtocolError: RECEIPT for a count that is not that of its tokens or not
        paid for, ENVELOPE, PAYLOAD."""
        # SPEC job/1 §3.15
        assert self._opener is not None
        new = frame.items - max(self.items, self.prompt_items)
        if new < (not frame.final) or frame.items > self.paid:
            raise RemoteProtocolError(
                f"a frame of {frame.items} items after {self.items}; {self.paid} are paid", code="RECEIPT"
            )
        data = self._opener.open(frame.ciphertext, frame.final)
        try:
            piece = parse_piece(data)
        except ExecutionError as error:
            raise RemoteProtocolError(error.message, code="PAYLOAD") from error
        if len(piece.tokens) != new or (piece.finish is not None) is not frame.final:
            raise RemoteProtocolError(f"a frame counts {new} items for {len(piece.tokens)} tokens", code="RECEIPT")
        self._count_text(piece)
        self._digest.update(frame.ciphertext)
        self.items, self.frames = frame.items, self.frames + 1
        self.finished = frame.final
        return piece

    def _count_text(self, piece: Piece) -> None:
        """Text costs nothing, and stays in memory: it must be that of the tokens. Raises RemoteProtocolError(code="PAYLOAD")."""
        # SPEC job/1 §10.2
        self._tokens += len(piece.tokens)
        self._text_bytes += len(piece.text.encode())
        most = limits.ANSWER_BYTES_MORE + limits.ANSWER_BYTES_PER_TOKEN * self._tokens
        if self._text_bytes > most:
            raise RemoteProtocolError(
                f"{self._text_bytes} bytes of text for {self._tokens} tokens; at most {most}", code="PAYLOAD"
            )

    # --- paying ---

    def next_payment(self) -> int | None:
        """Items that the client is to pay for now, those paid before among them; None while it has nothing to say. Then either
        `pay` follows, or no more payment is made."""
        # SPEC job/1 §3.16
        if self.finished or self.stopping or self._wanted is not None or not self._is_due():
            return None
        self._wanted = self._ahead()
        return self._wanted

    def larger_payment(self) -> int | None:
        """Items that the client is to pay for instead, when so much came while a payment was made that its end would be reached
        before the next one may be said; None where it will do."""
        # SPEC job/1 §3.16
        assert self._wanted is not None
        if self._wanted == self._quote.items or self._wanted >= self.items + half_of(self._quote.instalment):
            return None
        self._wanted = self._ahead()
        return self._wanted

    def _ahead(self) -> int:
        ahead = max(self.items, self.prompt_items) + self._quote.instalment
        return max(self.paid, min(self._quote.items, ahead))

    def _is_due(self) -> bool:
        half = half_of(self._quote.instalment)
        if self.frames:
            return not self._pays or self.items - self.acked >= half
        return self.paid < min(self._quote.items, self.prompt_items + half)

    def amount(self, items: int) -> int | None:
        """Nanogram for so many items in all; None where that is no more than was paid."""
        total = self._price(items)
        return total if total > self._price(self.paid) else None

    def acknowledge(self) -> None:
        """All that is here is about to be acknowledged: `marks` says what."""
        if self.items > self.acked or self.finished:
            mark = StreamMark(self.frames, self.items, self._digest.digest())
            self.marks = (*self.marks, mark)[-limits.STREAM_MARKS_KEPT :]
            self.acked = self.items

    def pay(self, payment: bytes) -> Pay:
        """After `acknowledge`: `payment` covers what `next_payment` said; or nothing new, where none was made."""
        self.paid = self._wanted if self._wanted is not None else self.paid
        self._wanted = None
        self._pays += 1
        return Pay(self._quote.job_id, payment, self.frames, self.items, self.paid)

    def forget_payment(self) -> None:
        """It was not made, or is not needed any more."""
        self._wanted = None

    def _price(self, items: int) -> int:
        return quoted_total(self._quote.price_base, self._quote.price_per_item, items)
