"""`python pytriton_server.py FOLDER THREADS PORT`: the Open Inference Protocol, model `minilm`, input `text` BYTES[1]."""

from __future__ import annotations

import sys

import numpy as np
from minilm_embedder import Embedder
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

FOLDER, THREADS, PORT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def main() -> None:
    embed = Embedder(FOLDER, THREADS)

    @batch
    def infer(text: np.ndarray) -> dict[str, np.ndarray]:
        return {"embedding": embed([each.decode() for each in text[:, 0]])}

    config = TritonConfig(
        http_address="127.0.0.1", http_port=PORT, allow_grpc=False, allow_metrics=False, log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="minilm",
            infer_func=infer,
            inputs=[Tensor(name="text", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="embedding", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=16, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()


if __name__ == "__main__":
    main()
