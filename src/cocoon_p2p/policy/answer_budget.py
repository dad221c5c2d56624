"""How many answers a provider signs for one client of which no job comes: a signature costs a tenth of a millisecond, and a
question costs who asks nothing. Counted by client, however many streams it opens. Times are seconds of one clock."""

from __future__ import annotations

from collections import OrderedDict

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import ANSWERS_UNPAID_BURST, ANSWERS_UNPAID_PER_S, RATE_KEYS_MAX


class AnswerBudget:
    """Bounded: the client that was quiet longest is forgotten, and begins with a full budget."""

    # SPEC job/1 §3.3
    def __init__(self, *, clients_max: int = RATE_KEYS_MAX) -> None:
        self._clients_max = clients_max
        self._left: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()

    def take(self, client: PeerId, now: float) -> bool:
        """One more answer; False when it is too many."""
        left, at = self._left.get(client, (ANSWERS_UNPAID_BURST, now))
        left = min(left + max(0.0, now - at) * ANSWERS_UNPAID_PER_S, ANSWERS_UNPAID_BURST)
        taken = left >= 1.0
        self._left[client] = (left - taken, now)
        self._left.move_to_end(client)
        if len(self._left) > self._clients_max:
            self._left.popitem(last=False)
        return taken

    def give_back(self, client: PeerId) -> None:
        """A job came of one: that answer was worth its while."""
        if client in self._left:
            left, at = self._left[client]
            self._left[client] = (left + 1.0, at)
