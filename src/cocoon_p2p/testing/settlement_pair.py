"""Two ends of a backend of the port `Settlement`, for its checks (`testing.settlement_contract`)."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cocoon_p2p.errors import CocoonError
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.port import Balance, ChannelStatus, Settlement


@dataclass
class SettlementPair:
    """A payer with money, a payee, and a third identity that has nothing to do with them."""

    payer: Settlement
    payee: Settlement
    payer_id: PeerId
    payee_id: PeerId
    channel_key: IdentityKey
    """The payer's: checks sign with it what an honest payer would not."""
    restart: Callable[[SettlementPair], Awaitable[None]]
    """Close both backends and open them again from what they wrote, replacing `payer` and `payee`."""

    async def pay(self, job_id: JobId, max_total: int) -> bytes:
        """Reserve and accept."""
        payment = await self.payer.reserve(self.payee_id, job_id, max_total)
        await self.payee.accept_payment(self.payer_id, job_id, payment, max_total)
        await self.payee.kept()
        return payment

    async def settle(self, job_id: JobId, price: int) -> None:
        await self.payee.earned(job_id, price)
        await self.payer.paid(job_id, price)

    async def channel(self, side: str) -> ChannelStatus:
        """The only open channel, as "payer" or "payee" sees it."""
        backend = self.payer if side == "payer" else self.payee
        (found,) = [c for c in await backend.channels() if c.role == side and not c.closed]
        return found


SettlementCheck = Callable[[SettlementPair], Awaitable[None]]
JOB = 1_000_000


def new_job() -> JobId:
    return JobId(os.urandom(16))


async def refused(code: str, kind: type[CocoonError], call: Awaitable[object]) -> CocoonError:
    """The error that awaiting `call` raises, which must be of this kind and code."""
    try:
        await call
    except kind as error:
        assert error.code == code, f"{error.code} ({error.message}), not {code}"
        return error
    raise AssertionError(f"no {kind.__name__} with code {code}")


def held(balance: Balance) -> int:
    """What does not change as long as nothing is claimed."""
    return balance.available + balance.deposited + balance.spent
