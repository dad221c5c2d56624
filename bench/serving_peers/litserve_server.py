"""`python litserve_server.py FOLDER THREADS PORT`: POST /predict {"text": …} → {"embedding": […]}"""

from __future__ import annotations

import sys

import litserve
from minilm_embedder import Embedder

FOLDER, THREADS, PORT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self._embed = Embedder(FOLDER, THREADS)

    def decode_request(self, request: dict) -> str:
        return request["text"]

    def batch(self, inputs: list) -> list:
        return inputs

    def predict(self, texts: list) -> object:
        return self._embed(texts)

    def unbatch(self, output: object) -> list:
        return list(output)

    def encode_response(self, output: object) -> dict:
        return {"embedding": output.tolist()}


if __name__ == "__main__":
    # A window of 2 ms did best of 0.5, 2 and 10.
    server = litserve.LitServer(Api(max_batch_size=16, batch_timeout=0.002), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=PORT, log_level="error", generate_client_file=False, access_log=False)
