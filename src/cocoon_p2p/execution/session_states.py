"""State that stays here between the calls of one session (job/1 §4.4): in this process's memory, bounded, wiped when it goes.

It lives beside the workers, not in them: a worker that dies, or that made room for another model, takes no session along,
and any replica can do the next call. The state before the last call is kept as well, so that a call whose answer got lost is
simply made again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.blocks import wipe
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.limits import (
    SESSION_BYTES_PER_CLIENT_MAX,
    SESSIONS_IN_ALL_MAX,
    SESSIONS_PER_CLIENT_MAX,
)
from cocoon_p2p.tensors import Tensor

State = tuple[Tensor, ...]
SessionKey = tuple[PeerId | None, ModelId, bytes]
"""Whose it is, of which model, and the id that the client drew: two clients with one id do not meet."""


@dataclass(frozen=True, slots=True)
class SessionBounds:
    idle_s: float
    """How long a session is kept without a call; 0: none is kept."""
    bytes_max: int
    """Of all sessions together."""
    bytes_per_client_max: int = SESSION_BYTES_PER_CLIENT_MAX
    per_client_max: int = SESSIONS_PER_CLIENT_MAX
    count_max: int = SESSIONS_IN_ALL_MAX


@dataclass(slots=True, eq=False)
class _Session:
    turn: trio.Lock = field(default_factory=trio.Lock)
    callers: int = 0
    """Calls that run or wait: it goes only when there is none."""
    step: int = 0
    """Of the next call."""
    state: State = ()
    before: State = ()
    """With which the last call was made; none when it began with zeros."""
    used_at: float = 0.0

    @property
    def size(self) -> int:
        return _size(self.state) + _size(self.before)

    def wipe(self) -> None:
        for tensor in (*self.state, *self.before):
            wipe(memoryview(tensor.data))
        self.state = self.before = ()


class SessionStates:
    """All sessions of a node. `expire` is a task."""

    def __init__(self, bounds: SessionBounds) -> None:
        self._bounds = bounds
        self._sessions: OrderedDict[SessionKey, _Session] = OrderedDict()
        """The one used last, last."""
        self._bytes = 0
        self._more = trio.Event()

    @property
    def enabled(self) -> bool:
        return self._bounds.idle_s > 0

    @property
    def count(self) -> int:
        return len(self._sessions)

    @property
    def bytes_in_use(self) -> int:
        return self._bytes

    @asynccontextmanager
    async def turn(self, key: SessionKey) -> AsyncIterator[SessionTurn]:
        """A session to oneself, after those who asked before: its calls come one after the other."""
        session = self._sessions.setdefault(key, _Session())
        session.callers += 1
        try:
            async with session.turn:
                yield SessionTurn(self, key, session)
        finally:
            session.callers -= 1
            session.used_at = trio.current_time()
            if session.callers == 0 and session.step == 0:
                self._sessions.pop(key, None)  # nothing came of it
            self._more.set()

    async def expire(self) -> None:
        """Wipes what nobody has used for idle_s, until it is cancelled."""
        while True:
            idle = [session for session in self._sessions.values() if not session.callers]
            if not idle:
                self._more = trio.Event()
                await self._more.wait()
                continue
            await trio.sleep_until(min(session.used_at for session in idle) + self._bounds.idle_s)
            now = trio.current_time()
            for key, session in list(self._sessions.items()):
                if not session.callers and session.used_at + self._bounds.idle_s <= now:
                    self._drop(key)

    def drop_model(self, model_id: ModelId) -> None:
        """Its sessions end, but for those with a call under way, which end by themselves."""
        for key, session in list(self._sessions.items()):
            if key[1] == model_id and not session.callers:
                self._drop(key)

    def close(self) -> None:
        for key in list(self._sessions):
            self._drop(key)

    def keep(self, key: SessionKey, session: _Session, step: int, state: State, before: State) -> None:
        """Called by `SessionTurn.keep`. Raises ExecutionError(code="LIMITS")."""
        size = _size(state) + _size(before)
        if size > min(self._bounds.bytes_per_client_max, self._bounds.bytes_max):
            raise ExecutionError(
                f"the state has {_size(state)} bytes, which is more than this provider keeps", code="LIMITS", retryable=True
            )  # fmt: skip
        old = (*session.state, *session.before)
        self._bytes += size - session.size
        session.step, session.state, session.before = step, state, before
        kept = {id(tensor) for tensor in (*state, *before)}
        for tensor in old:
            if id(tensor) not in kept:
                wipe(memoryview(tensor.data))
        self._sessions.move_to_end(key)
        self._make_room(key[0])

    def _make_room(self, client: PeerId | None) -> None:
        """Over a client's bounds its own oldest session goes; over those of all, the oldest of whoever has most."""
        bounds = self._bounds
        while self._over(client, bounds.per_client_max, bounds.bytes_per_client_max):
            if not self._drop_oldest(client):
                break
        while self._bytes > bounds.bytes_max or len(self._sessions) > bounds.count_max:
            if not any(self._drop_oldest(each) for each in self._by_size()):
                break

    def _over(self, client: PeerId | None, count_max: int, bytes_max: int) -> bool:
        own = [session for key, session in self._sessions.items() if key[0] == client]
        return len(own) > count_max or sum(session.size for session in own) > bytes_max

    def _by_size(self) -> list[PeerId | None]:
        sizes: dict[PeerId | None, int] = {}
        for key, session in self._sessions.items():
            sizes[key[0]] = sizes.get(key[0], 0) + session.size
        return sorted(sizes, key=lambda client: -sizes[client])

    def _drop_oldest(self, client: PeerId | None) -> bool:
        for key, session in self._sessions.items():
            if key[0] == client and not session.callers:
                self._drop(key)
                return True
        return False

    def _drop(self, key: SessionKey) -> None:
        session = self._sessions.pop(key)
        self._bytes -= session.size
        session.wipe()


class SessionTurn:
    """One call's hold of its session."""

    def __init__(self, states: SessionStates, key: SessionKey, session: _Session) -> None:
        self._states = states
        self._key = key
        self._session = session

    def state_for(self, step: int) -> State:
        """What the call with this number goes on with. Raises ExecutionError(code="SESSION")."""
        # SPEC job/1 §4.4
        session = self._session
        if session.step == step and session.state:
            return session.state
        if session.step == step + 1 and session.before:
            return session.before  # the answer to this call got lost
        if not session.step:
            raise ExecutionError(
                "this session is not kept here (any more)",
                code="SESSION",
                hint="begin a new one, or send the state along",
            )
        raise ExecutionError(f"call {step} is not the next of this session: {session.step} is", code="SESSION")

    def keep(self, step: int, used: State, outputs: Sequence[Tensor]) -> None:
        """The call with this number was done with the state `used` (none: zeros), and gave `outputs`, which are copied.
        Raises ExecutionError(code="LIMITS")."""
        owned = {id(tensor) for tensor in (*self._session.state, *self._session.before)}
        before = used if all(id(tensor) in owned for tensor in used) else _copied(used)
        self._states.keep(self._key, self._session, step + 1, _copied(outputs), before)


def _copied(tensors: Sequence[Tensor]) -> State:
    return tuple(Tensor(each.name, each.dtype, each.shape, bytearray(each.data)) for each in tensors)


def _size(state: State) -> int:
    return sum(len(memoryview(tensor.data).cast("B")) for tensor in state)
