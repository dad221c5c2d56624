"""The standing of a peer: what its faults weigh, how they fade, and when they are too many.

Standing is a penalty of 0 or more. Each fault adds its weight; the sum halves every `limits.STANDING_HALF_LIFE_S`, and at
`limits.STANDING_PENALTY_MAX` the peer is banned for `limits.STANDING_BAN_S`. On the way there it is slowed. A banned peer
that comes back begins with what is left of its penalty, so that the next ban needs less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from cocoon_p2p.limits import STANDING_BAN_S, STANDING_HALF_LIFE_S, STANDING_PENALTY_MAX, STANDING_SLOW_PENALTY


class Fault(Enum):
    """What a peer can do that an honest one never, or hardly ever, does."""

    MALFORMED = "malformed"
    """Bytes that are no message, a frame over the bound, an unknown tag, a message out of turn."""
    BAD_SIGNATURE = "bad signature"
    """A quote, receipt, seal key or acknowledgement whose signature is wrong."""
    BAD_VOUCHER = "bad voucher"
    """A voucher or channel that is badly signed, foreign, or worth more than its deposit."""
    STALE_VOUCHER = "stale voucher"
    """Two tasks of an honest payer may once in a while overtake each other."""
    FORGED_ANNOUNCEMENT = "forged announcement"
    REPLAY = "replay"
    """A job id, or an envelope, that was used before."""
    BAD_ENVELOPE = "bad envelope"
    """A sealed input that does not open, or was altered on its way."""
    BAD_RECEIPT = "bad receipt"
    """A receipt that does not say what was done: another price than agreed, other hashes."""
    EXPIRED = "expired"
    """Sent what is past its time. Clocks that differ do that too."""
    BAD_QUOTE = "bad quote"
    """A quote for another job than was asked for, or dearer than was announced."""
    STALLED = "stalled"
    """Took a job or announced an input and then went silent. Slow lines do that too."""
    BROKEN_PROMISE = "broken promise"
    """Quoted and then refused or failed the job."""
    OVERRUN = "overrun"
    """Sent more on a stream than it was allowed to."""
    FLOOD = "flood"
    """Asked for or sent many times what it may. Programs in a loop do that, too."""
    FORGED_RECORD = "forged record"
    """Stored a DHT record under another's name."""
    BAD_PIECE = "bad piece"
    """A piece of a model, or hashes of pieces, that are not the model's. A failing disk does that, too."""
    IDLE_STREAMS = "idle streams"
    """Opened a stream and then sent nothing. A line that breaks at that moment does that, too."""


WEIGHTS: dict[Fault, float] = {
    Fault.MALFORMED: 25.0,
    Fault.BAD_SIGNATURE: 50.0,
    Fault.BAD_VOUCHER: 50.0,
    Fault.STALE_VOUCHER: 15.0,
    Fault.FORGED_ANNOUNCEMENT: 50.0,
    Fault.REPLAY: 25.0,
    Fault.BAD_ENVELOPE: 25.0,
    Fault.BAD_RECEIPT: 50.0,
    Fault.EXPIRED: 10.0,
    Fault.BAD_QUOTE: 25.0,
    Fault.STALLED: 5.0,
    Fault.BROKEN_PROMISE: 5.0,
    Fault.OVERRUN: 50.0,
    Fault.FLOOD: 10.0,
    Fault.FORGED_RECORD: 50.0,
    Fault.BAD_PIECE: 25.0,
    Fault.IDLE_STREAMS: 5.0,
}
"""Two forgeries within minutes, or four pieces of garbage, are a ban; what a bad line may cause takes twenty."""

FAULT_OF_CODE: dict[str, Fault] = {
    "MALFORMED": Fault.MALFORMED,
    "UNKNOWN_TAG": Fault.MALFORMED,
    "BOUND": Fault.MALFORMED,
    "ENVELOPE": Fault.BAD_ENVELOPE,
    "SIGNATURE": Fault.BAD_SIGNATURE,
    "VOUCHER_SIGNATURE": Fault.BAD_VOUCHER,
    "VOUCHER_FOREIGN": Fault.BAD_VOUCHER,
    "VOUCHER_STALE": Fault.STALE_VOUCHER,
    "CHANNEL_SIGNATURE": Fault.BAD_VOUCHER,
    "DEPOSIT": Fault.BAD_VOUCHER,
    "REPLAY": Fault.REPLAY,
    "EXPIRED": Fault.EXPIRED,
    "QUOTE": Fault.BAD_QUOTE,
    "RECEIPT": Fault.BAD_RECEIPT,
    "ANNOUNCEMENT": Fault.FORGED_ANNOUNCEMENT,
    "FLOOD": Fault.FLOOD,
    "PIECE": Fault.BAD_PIECE,
}
"""The code of a RemoteProtocolError -> the fault it stands for."""

FAULT_OF_MISBEHAVIOUR: dict[str, Fault] = {
    "malformed": Fault.MALFORMED,
    "overrun": Fault.OVERRUN,
    "flood": Fault.FLOOD,
    "bad_signature": Fault.BAD_SIGNATURE,
    "forged_record": Fault.FORGED_RECORD,
    "idle_streams": Fault.IDLE_STREAMS,
}
"""What the network layer reports (net/port.py, `Misbehaviour`) -> the fault it is."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Times are Unix milliseconds. A stranger's is `Standing()`."""

    penalty: float = 0.0
    """As of `at_ms`."""
    at_ms: int = 0
    banned_until_ms: int = 0

    def penalty_at(self, now_ms: int) -> float:
        """What is left of the penalty. A clock that went backwards does not make it grow."""
        elapsed_s = max(now_ms - self.at_ms, 0) / 1000
        return float(self.penalty * 0.5 ** (elapsed_s / STANDING_HALF_LIFE_S))

    def is_banned(self, now_ms: int) -> bool:
        return now_ms < self.banned_until_ms

    def percent(self, now_ms: int) -> float:
        """100 for a peer that nothing is known against, 0 for a banned one."""
        if self.is_banned(now_ms):
            return 0.0
        return 100.0 * (1.0 - min(self.penalty_at(now_ms) / STANDING_PENALTY_MAX, 1.0))

    def pace(self, now_ms: int) -> tuple[float, float]:
        """(share, seconds): which share of the rates that others get the peer deserves now, and when its penalty will have
        faded enough for all of them. (1, 0) for a peer in good standing."""
        penalty = self.penalty_at(now_ms)
        steps = math.floor(penalty / STANDING_SLOW_PENALTY)
        if not steps:
            return 1.0, 0.0
        return float(0.5**steps), STANDING_HALF_LIFE_S * math.log2(penalty / STANDING_SLOW_PENALTY)


def fault_of_code(code: str) -> Fault:
    """The fault that a RemoteProtocolError's code stands for; MALFORMED for codes that are not listed."""
    return FAULT_OF_CODE.get(code, Fault.MALFORMED)


def after_fault(standing: Standing, fault: Fault, now_ms: int) -> Standing:
    """The standing of a peer after one more fault; `is_banned` tells whether it was one too many."""
    penalty = standing.penalty_at(now_ms) + WEIGHTS[fault]
    banned_until_ms = standing.banned_until_ms
    if penalty >= STANDING_PENALTY_MAX:
        # the ban starts anew with each fault above the threshold; the penalty is capped so that bans do not add up
        penalty = STANDING_PENALTY_MAX
        banned_until_ms = max(banned_until_ms, now_ms + round(STANDING_BAN_S * 1000))
    return Standing(penalty, now_ms, banned_until_ms)
