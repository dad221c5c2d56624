"""Ledgers of a payer and its payees, opened and reopened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import LocalSettlement, open_local_settlement

Opener = Callable[[IdentityKey], LocalSettlement]


@pytest.fixture
def open_wallet(tmp_path: Path) -> Iterator[Opener]:
    """Opens the wallet of an identity (again: from the same file), with a channel key of its own."""
    with ExitStack() as stack:

        def open_wallet(identity: IdentityKey, channel_key: IdentityKey | None = None) -> LocalSettlement:
            key = channel_key or IdentityKey.from_seed(bytes(b ^ 0xFF for b in identity.seed))
            return stack.enter_context(open_local_settlement(tmp_path / f"{identity.peer_id}.db", identity, key))

        yield open_wallet
