"""What holds for all tests of this folder."""

from __future__ import annotations

import pytest

from cocoon_p2p.net.reach import probing


@pytest.fixture(autouse=True)
def nobody_asks_to_be_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second after they meet, peers dial each other back (AutoNAT): connections that a test which counts them would find
    on a busy machine only. Tests of that let it happen."""
    monkeypatch.setattr(probing, "AUTONAT_GATHER_S", 3600.0)
