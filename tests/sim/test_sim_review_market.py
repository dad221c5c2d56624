"""Providers that say yes, and then no. Virtual time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing
from test_sim_jobs import X, autojump_clock, doubled, result_of, run

from cocoon_p2p.errors import SettlementError
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.testing import models
from cocoon_p2p.testing.simulation import Simulation

__all__ = ["autojump_clock"]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_one_provider_that_takes_nobodys_payment_spoils_no_job(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks the least, quotes everybody, and then refuses the payment."""
    async with Simulation(tmp_path, seed=seed) as sim:
        await sim.start("bootstrap")
        for name in ("one", "two"):
            await sim.start(name, model=echo_model, behaviour=doubled, execute_s=0.1)
        source = models.copy_model(tmp_path / "cheap", "float32", ("batch", 4))
        cheap = (
            ModelRegistry(tmp_path / "cheap" / "home").add(source, name="echo", price_base=1, price_per_item=0).folder
        )
        liar = await sim.start("liar", model=cheap, behaviour=doubled)

        async def refuse(payer: PeerId, job_id: JobId, payment: bytes, max_total: int) -> None:
            raise SettlementError("the vouchers do not reach", code="CREDIT", needed=max_total)

        monkeypatch.setattr(liar.node._parts.settlement, "accept_payment", refuse)
        client = await sim.start("client")
        await client.node.offers("echo")
        await trio.sleep(2)
        for _ in range(5):
            result = await run(client, timeout_s=60.0)
            assert np.array_equal(result_of(result), 2 * X)
            assert result.provider != liar.node.peer_id
