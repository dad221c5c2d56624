"""The contract suite of the port `Settlement` on every backend."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import open_local_settlement
from cocoon_p2p.testing.settlement_contract import SETTLEMENT_CHECKS, SettlementCheck, SettlementPair


@pytest.mark.parametrize("check", SETTLEMENT_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
async def test_local(check: SettlementCheck, tmp_path: Path) -> None:
    payer, payee, channel_key = (IdentityKey.generate() for _ in range(3))
    with ExitStack() as stack:

        async def restart(pair: SettlementPair) -> None:
            stack.close()
            pair.payer = stack.enter_context(open_local_settlement(tmp_path / "payer.db", payer, channel_key))
            pair.payee = stack.enter_context(
                open_local_settlement(tmp_path / "payee.db", payee, IdentityKey.from_seed(b"\7" * 32))
            )

        pair = SettlementPair(
            payer=None,  # type: ignore[arg-type]
            payee=None,  # type: ignore[arg-type]
            payer_id=payer.peer_id,
            payee_id=payee.peer_id,
            channel_key=channel_key,
            restart=restart,
        )
        await restart(pair)
        await check(pair)
