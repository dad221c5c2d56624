"""The engine with ONNX Runtime: the contract."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from cocoon_p2p.execution.onnx_engine import open_engine
from cocoon_p2p.execution.port import Engine
from cocoon_p2p.testing.engine_contract import EngineContract


class TestOnnxEngine(EngineContract):
    def open_engine(self, **settings: Any) -> AbstractAsyncContextManager[Engine]:
        return open_engine(device="cpu", threads=1, **settings)
