"""What an operator decides about the pool of loaded models."""

from __future__ import annotations

from dataclasses import dataclass

from cocoon_p2p.limits import POOL_TEND_S, REPLICA_AFTER_S, REPLICA_IDLE_S, ROOM_PATIENCE_S


@dataclass(frozen=True, slots=True)
class PoolSettings:
    budget_bytes: int | None = None
    """Of memory, for all workers together; None: no bound."""
    unload_idle_s: float = 0.0
    """0: a model is unloaded only when another needs the room."""
    replicas_max: int = 0
    """Workers of one model; 0: one for each GPU, and one on a CPU."""
    tend_s: float = POOL_TEND_S
    room_patience_s: float = ROOM_PATIENCE_S
    replica_after_s: float = REPLICA_AFTER_S
    replica_idle_s: float = REPLICA_IDLE_S
