"""The contract of `Network`, on the simulated network and on libp2p with real sockets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType

import pytest

from cocoon_p2p.ids import PeerId, peer_id_from_public_key
from cocoon_p2p.net.libp2p import open_libp2p
from cocoon_p2p.net.memory import MemoryHub
from cocoon_p2p.net.port import Network, RecordValidator
from cocoon_p2p.testing.net_contract import NetworkContract, NetworkHarness


class MemoryHarness:
    def __init__(self) -> None:
        self.hub = MemoryHub(seed=1, latency_s=0.0005)

    def open(
        self,
        number: int,
        *,
        bootstrap: Sequence[str] = (),
        validators: Mapping[str, RecordValidator] = MappingProxyType({}),
    ) -> AbstractAsyncContextManager[Network]:
        peer_id: PeerId = peer_id_from_public_key(hashlib.sha256(b"%d" % number).digest())
        return self.hub.open(peer_id, bootstrap=bootstrap, validators=validators)


class Libp2pHarness:
    def open(
        self,
        number: int,
        *,
        bootstrap: Sequence[str] = (),
        validators: Mapping[str, RecordValidator] = MappingProxyType({}),
    ) -> AbstractAsyncContextManager[Network]:
        seed = hashlib.sha256(b"contract %d" % number).digest()
        return open_libp2p(
            seed, listen=["/ip4/127.0.0.1/tcp/0"], agent="contract", bootstrap=bootstrap, validators=validators
        )


class TestMemory(NetworkContract):
    @pytest.fixture
    def harness(self) -> NetworkHarness:
        return MemoryHarness()


class TestLibp2p(NetworkContract):
    @pytest.fixture
    def harness(self) -> NetworkHarness:
        return Libp2pHarness()
