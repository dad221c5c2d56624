"""Our own experience with providers: kept in memory, and written along with other things."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.limits import EXPERIENCES_KEPT_MAX
from cocoon_p2p.policy.experience import Experience, Outcome, after, is_late, reliability
from cocoon_p2p.store import ExperienceRecord, Store

ALL_MODELS = ""
Key = tuple[PeerId, str]


class ExperienceKeeper:
    """Success counts for a provider whatever it ran, times for each of its models. What was noted is written by `write`,
    so that it shares a transaction with what else a job writes."""

    def __init__(self, store: Store, clock: Clock, *, kept_max: int = EXPERIENCES_KEPT_MAX) -> None:
        self._store = store
        self._clock = clock
        self._kept_max = kept_max
        self._known: OrderedDict[Key, Experience] = OrderedDict(
            ((record.peer_id, record.model_id), record.experience) for record in store.experiences.all()
        )
        self._unwritten: set[Key] = set()

    def of(self, peer: PeerId, model: ModelId) -> Experience:
        """A stranger's when we know nothing."""
        all_models = self._known.get((peer, ALL_MODELS))
        if all_models is None:
            return Experience()
        this = self._known.get((peer, model))
        if this is None:
            return replace(all_models, overhead_ms=None, item_us=None)
        return replace(all_models, overhead_ms=this.overhead_ms, item_us=this.item_us)

    def knows(self, peer: PeerId) -> bool:
        return (peer, ALL_MODELS) in self._known

    def reliability(self, peer: PeerId) -> float:
        """0 … 1; 0.5 for a stranger."""
        return reliability(self._known.get((peer, ALL_MODELS), Experience()), unix_ms(self._clock))

    def note(
        self,
        peer: PeerId,
        model: ModelId,
        outcome: Outcome,
        *,
        items: int = 0,
        total_ms: float | None = None,
        execute_us: int | None = None,
    ) -> None:
        """One more job. A job that was done is found to be LATE here. `total_ms` is without the provider's queue. A wrong
        answer is written at once."""
        if outcome is Outcome.DONE and total_ms is not None and is_late(self.of(peer, model), items, total_ms):
            outcome = Outcome.LATE
        now_ms = unix_ms(self._clock)
        for key in ((peer, ALL_MODELS), (peer, str(model))):
            before = self._known.get(key, Experience())
            self._known[key] = after(before, outcome, now_ms, items=items, total_ms=total_ms, execute_us=execute_us)
            self._known.move_to_end(key)
            self._unwritten.add(key)
        while len(self._known) > self._kept_max:
            key, _ = self._known.popitem(last=False)
            self._unwritten.discard(key)
        if outcome is Outcome.WRONG:
            self.write()

    def write(self) -> None:
        """Bring what was noted to the store. Raises StoreError."""
        if self._unwritten:
            self._store.experiences.save(
                ExperienceRecord(peer, model, self._known[peer, model]) for peer, model in sorted(self._unwritten)
            )
            self._unwritten.clear()
