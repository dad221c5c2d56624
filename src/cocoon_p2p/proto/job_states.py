"""job/1: all states of a job and all transitions between them, for both ends, in two visible tables."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

from cocoon_p2p.errors import LocalProtocolError, RemoteProtocolError


class ClientState(Enum):
    ASKING = "asking"
    QUOTED = "quoted"
    SENDING = "sending"
    WAITING = "waiting"
    RECEIVING = "receiving"
    STREAMING = "streaming"
    RECEIVED = "received"
    DONE = "done"
    FAILED = "failed"


class ClientEvent(Enum):
    QUOTE = "QUOTE"
    REFUSAL = "REFUSAL"
    OUTPUT_HEAD = "OUTPUT_HEAD"
    OUTPUT = "OUTPUT"
    STREAM_HEAD = "STREAM_HEAD"
    FRAME = "FRAME"
    RECEIPT = "RECEIPT"
    FAILURE = "FAILURE"
    PROGRESS = "PROGRESS"
    SUBMIT_SENT = "submit sent"
    ACCEPT_SENT = "accept sent"
    INPUT_SENT = "input sent"
    OUTPUT_COMPLETE = "output complete"
    CANCEL = "cancelled"
    LOST = "connection lost"
    DEADLINE = "deadline"


class ProviderState(Enum):
    QUOTED = "quoted"
    PAYING = "paying"
    RECEIVING = "receiving"
    EXECUTING = "executing"
    RETURNING = "returning"
    STREAMING = "streaming"
    ENDING = "waiting for the last acknowledgement"
    CLOSED = "closed"


class ProviderEvent(Enum):
    ACCEPT = "ACCEPT"
    REFUSED = "refused"
    INPUT = "INPUT"
    CANCEL = "CANCEL"
    PAY = "PAY"
    STOP = "STOP"
    PAYMENT_TAKEN = "payment taken"
    PAYMENT_REFUSED = "payment refused"
    INPUT_COMPLETE = "input complete"
    INPUT_BAD = "input bad"
    FAULT = "fault"
    EXECUTED = "executed"
    EXECUTION_FAILED = "execution failed"
    OUTPUT_SENT = "output sent"
    STREAM_BEGUN = "stream begun"
    FRAMES_SENT = "frames sent"
    ALL_ACKNOWLEDGED = "all acknowledged"
    EXPIRED = "expired"
    YIELDED = "yielded"
    LOST = "connection lost"


_C, _CE = ClientState, ClientEvent
_P, _PE = ProviderState, ProviderEvent

# SPEC job/1 §3.1
CLIENT_TRANSITIONS: Mapping[tuple[ClientState, ClientEvent], ClientState] = {
    (_C.ASKING, _CE.QUOTE): _C.QUOTED,
    (_C.ASKING, _CE.REFUSAL): _C.FAILED,
    (_C.QUOTED, _CE.ACCEPT_SENT): _C.SENDING,
    # a firm offer: nobody was asked
    (_C.ASKING, _CE.SUBMIT_SENT): _C.SENDING,
    (_C.SENDING, _CE.REFUSAL): _C.FAILED,
    (_C.SENDING, _CE.PROGRESS): _C.SENDING,
    (_C.WAITING, _CE.PROGRESS): _C.WAITING,
    (_C.SENDING, _CE.INPUT_SENT): _C.WAITING,
    (_C.WAITING, _CE.REFUSAL): _C.FAILED,
    (_C.WAITING, _CE.OUTPUT_HEAD): _C.RECEIVING,
    (_C.RECEIVING, _CE.OUTPUT): _C.RECEIVING,
    (_C.RECEIVING, _CE.OUTPUT_COMPLETE): _C.RECEIVED,
    (_C.RECEIVED, _CE.RECEIPT): _C.DONE,
    # an answer in frames
    (_C.WAITING, _CE.STREAM_HEAD): _C.STREAMING,
    (_C.STREAMING, _CE.FRAME): _C.STREAMING,
    (_C.STREAMING, _CE.PROGRESS): _C.STREAMING,
    (_C.STREAMING, _CE.OUTPUT_COMPLETE): _C.RECEIVED,
    # what can end a job wherever it is
    **{
        (state, _CE.FAILURE): _C.FAILED
        for state in (_C.ASKING, _C.QUOTED, _C.SENDING, _C.WAITING, _C.RECEIVING, _C.STREAMING)
    },
    **{
        (state, event): _C.FAILED
        for event in (_CE.CANCEL, _CE.LOST, _CE.DEADLINE)
        for state in _C
        if state not in (_C.DONE, _C.FAILED)
    },
}

# SPEC job/1 §3.2
PROVIDER_TRANSITIONS: Mapping[tuple[ProviderState, ProviderEvent], ProviderState] = {
    (_P.QUOTED, _PE.ACCEPT): _P.PAYING,
    (_P.QUOTED, _PE.REFUSED): _P.CLOSED,
    (_P.QUOTED, _PE.EXPIRED): _P.CLOSED,
    (_P.PAYING, _PE.PAYMENT_TAKEN): _P.RECEIVING,
    (_P.PAYING, _PE.PAYMENT_REFUSED): _P.CLOSED,
    (_P.RECEIVING, _PE.INPUT): _P.RECEIVING,
    (_P.RECEIVING, _PE.INPUT_COMPLETE): _P.EXECUTING,
    (_P.RECEIVING, _PE.INPUT_BAD): _P.CLOSED,
    (_P.PAYING, _PE.EXPIRED): _P.CLOSED,
    (_P.RECEIVING, _PE.EXPIRED): _P.CLOSED,
    (_P.EXECUTING, _PE.EXECUTED): _P.RETURNING,
    (_P.EXECUTING, _PE.EXECUTION_FAILED): _P.CLOSED,
    (_P.EXECUTING, _PE.EXPIRED): _P.CLOSED,
    (_P.RETURNING, _PE.OUTPUT_SENT): _P.CLOSED,
    # an answer in frames
    (_P.EXECUTING, _PE.STREAM_BEGUN): _P.STREAMING,
    (_P.STREAMING, _PE.PAY): _P.STREAMING,
    (_P.STREAMING, _PE.STOP): _P.STREAMING,
    (_P.STREAMING, _PE.FRAMES_SENT): _P.ENDING,
    (_P.STREAMING, _PE.EXECUTION_FAILED): _P.CLOSED,
    (_P.STREAMING, _PE.EXPIRED): _P.CLOSED,
    (_P.STREAMING, _PE.PAYMENT_REFUSED): _P.CLOSED,
    (_P.ENDING, _PE.PAY): _P.ENDING,
    (_P.ENDING, _PE.STOP): _P.ENDING,
    (_P.ENDING, _PE.PAYMENT_REFUSED): _P.ENDING,
    (_P.ENDING, _PE.EXPIRED): _P.CLOSED,
    (_P.ENDING, _PE.EXECUTION_FAILED): _P.CLOSED,
    (_P.ENDING, _PE.ALL_ACKNOWLEDGED): _P.CLOSED,
    **{(state, _PE.FAULT): _P.CLOSED for state in (_P.QUOTED, _P.PAYING, _P.RECEIVING, _P.STREAMING, _P.ENDING)},
    # also while the answer is on its way: nobody pays for an answer that he does not have
    **{(state, _PE.CANCEL): _P.CLOSED for state in _P if state is not _P.CLOSED},
    **{(state, _PE.YIELDED): _P.CLOSED for state in (_P.PAYING, _P.RECEIVING, _P.EXECUTING, _P.STREAMING)},
    **{(state, _PE.LOST): _P.CLOSED for state in _P if state is not _P.CLOSED},
}

STREAM_FAULTS = frozenset({"MALFORMED", "UNKNOWN_TAG", "BOUND", "UNEXPECTED", "FLOOD"})
"""Codes after which nothing on a stream can be trusted to be in step; the others end one job (protocols/README.md)."""

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


class Machine(Generic[S, E]):
    """A state, and the only way to change it."""

    def __init__(self, table: Mapping[tuple[S, E], S], start: S) -> None:
        self._table = table
        self.state = start

    def allows(self, event: E) -> bool:
        return (self.state, event) in self._table

    def local(self, event: E) -> None:
        """Move on an event of our own side. Raises LocalProtocolError: a bug."""
        if not self.allows(event):
            raise LocalProtocolError(f"{event.value!r} is not possible for a job that is {self.state.value}")
        self.state = self._table[self.state, event]

    def expect(self, event: E) -> None:
        """Check that a message of the peer is in turn, before it is read. Raises RemoteProtocolError(code="UNEXPECTED")."""
        if not self.allows(event):
            raise RemoteProtocolError(f"{event.value} came for a job that is {self.state.value}", code="UNEXPECTED")

    def remote(self, event: E) -> None:
        """Move on a message of the peer. Raises as `expect`."""
        self.expect(event)
        self.state = self._table[self.state, event]
