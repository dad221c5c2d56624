"""The port `Machine`: the state of the machine that the idle rules ask about."""

from __future__ import annotations

from typing import Protocol

from cocoon_p2p.policy.idle import MachineFacts


class Machine(Protocol):
    async def facts(self) -> MachineFacts:
        """The machine as it is now; what it cannot tell is None. Never raises for that."""
