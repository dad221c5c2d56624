"""The environment that the fork server and its workers are started in."""

from __future__ import annotations

from collections.abc import Mapping

ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime from 1.29 on tells Microsoft the names and hashes of models it loads
    "OPENBLAS_NUM_THREADS": "1",  # numpy's BLAS is not used; its threads would not survive a fork
    "TOKENIZERS_PARALLELISM": "false",  # nor would these
}
"""What must stand in the environment before the libraries are loaded."""

_SECRET_PREFIX = "COCOON_PASSPHRASE"


def worker_environment(node: Mapping[str, str]) -> dict[str, str]:
    """The node's environment for the processes that run models: without its secrets, with `ENVIRONMENT`."""
    return {name: value for name, value in node.items() if not name.startswith(_SECRET_PREFIX)} | ENVIRONMENT
