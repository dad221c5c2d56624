"""job/1, the client's end: an answer in frames, and its payment (protocols/job/1 §3.14 to §3.17)."""

from __future__ import annotations

from cocoon_p2p.errors import CocoonError, RemoteProtocolError
from cocoon_p2p.proto.client_attempt import NOTHING_SENT, ClientAttempt
from cocoon_p2p.proto.job_effects import ClientEffect, KeepMarks, Received, ReserveMore, Send, StreamBegun
from cocoon_p2p.proto.job_states import ClientEvent, ClientState
from cocoon_p2p.proto.stream_client import ClientStream
from cocoon_p2p.wire.job import Frame, Stop, StreamHead
from cocoon_p2p.wire.seal import decode_response_header


class StreamedJob(ClientAttempt):
    """Part of `ClientJob`."""

    def more_reserved(self, payment: bytes) -> list[ClientEffect]:
        """`ReserveMore` was done."""
        stream = self.stream
        if stream is None or self.state is not ClientState.STREAMING or stream.stopping:
            if stream is not None:
                stream.forget_payment()
            return []
        self._frame_at = self._heard  # it may have been waiting for us
        larger = stream.larger_payment()
        total = None if larger is None else stream.amount(larger)
        return self._acknowledged(stream, payment) if total is None else [ReserveMore(total)]

    def more_failed(self, error: CocoonError) -> list[ClientEffect]:
        """There is no money for more: the answer is to end here. `stream.payment_error` keeps why."""
        if self.stream is None or self.over:
            return []
        self.stream.payment_error = error
        self.stream.forget_payment()
        return self.stop()

    def stop(self) -> list[ClientEffect]:
        """Come to an end: what is here by then is paid for. Where nothing can be here yet, `cancel`."""
        # SPEC job/1 §3.17
        stream = self.stream
        if stream is None or self.state in (*NOTHING_SENT, ClientState.SENDING, ClientState.WAITING):
            return self.cancel()
        if self.state is not ClientState.STREAMING or stream.stopping:
            return []
        stream.stopping = True
        self._frame_at = self._heard
        return [Send(Stop(self.job_id))]

    def _on_stream_head(self, message: StreamHead) -> list[ClientEffect]:
        self._machine.remote(ClientEvent.STREAM_HEAD)
        if self.stream is None:
            raise RemoteProtocolError("STREAM_HEAD for an output that was to come whole", code="UNEXPECTED")
        self._check_response(message.response_header)
        assert self._request is not None
        self.stream.begin(message, self._request.frame_opener(message.response_header))
        return [StreamBegun(message.prompt_items, message.queue_us), *self._pay_on(self.stream)]

    def _on_frame(self, message: Frame) -> list[ClientEffect]:
        self._machine.remote(ClientEvent.FRAME)
        stream = self.stream
        assert stream is not None
        piece = stream.receive(message)
        self._frame_at = self._heard
        received: list[ClientEffect] = [Received(piece, message.items)]
        if not stream.finished:
            return received + self._pay_on(stream)
        self._machine.local(ClientEvent.OUTPUT_COMPLETE)
        stream.forget_payment()
        return received + self._acknowledged(stream, b"")

    def _pay_on(self, stream: ClientStream) -> list[ClientEffect]:
        items = stream.next_payment()
        if items is None:
            return []
        total = stream.amount(items)
        return self._acknowledged(stream, b"") if total is None else [ReserveMore(total)]

    def _acknowledged(self, stream: ClientStream, payment: bytes) -> list[ClientEffect]:
        """What is here is owed: on our own disk before the provider hears it."""
        # SPEC job/1 §3.16
        stream.acknowledge()
        owed = self.owed
        kept: list[ClientEffect] = [] if owed is None else [KeepMarks(owed)]
        return [*kept, Send(stream.pay(payment))]

    def _check_response(self, header: bytes) -> None:
        # SPEC seal/1 §5.1
        if decode_response_header(header).job_id != self.job_id:
            raise RemoteProtocolError("the response is for another job", code="ENVELOPE")
