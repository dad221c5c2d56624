"""`bentoml serve bentoml_service:Minilm`: POST /embed {"texts": […]} → [[…]]; folder and threads by the environment."""

from __future__ import annotations

import os

import bentoml
import numpy as np
from minilm_embedder import Embedder


@bentoml.service(workers=1, traffic={"timeout": 60})
class Minilm:
    def __init__(self) -> None:
        self._embed = Embedder(os.environ["MINILM_FOLDER"], int(os.environ["MINILM_THREADS"]))

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=10_000)
    def embed(self, texts: list[str]) -> np.ndarray:
        return self._embed(texts)
