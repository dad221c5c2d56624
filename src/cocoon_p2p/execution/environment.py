"""The environment that the fork server and its workers are started in."""

from __future__ import annotations

from collections.abc import Mapping

ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime from 1.29 on tells Microsoft the names and hashes of models it loads
    "OPENBLAS_NUM_THREADS": "1",  # numpy's BLAS is not used; its threads would not survive a fork
    "TOKENIZERS_PARALLELISM": "false",  # nor would these
}
"""What must stand in the environment before the libraries are loaded."""

_KEPT = (
    "PATH", "HOME", "LANG", "LC_", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHON", "LD_LIBRARY_PATH", "DYLD_", "MALLOC_", "OMP_",
    "ORT_", "CUDA_", "CUDNN_", "NVIDIA_", "ROCR_", "HIP_", "HSA_", "MIOPEN_", "COVERAGE_",
)  # fmt: skip
"""How names begin that Python, the libraries and drivers ask for."""


def worker_environment(node: Mapping[str, str]) -> dict[str, str]:
    """The node's environment for the processes that run models: what they need of it, with `ENVIRONMENT`. People keep passphrases,
    tokens and keys to other services in the rest, and a hostile model may come to read its process's memory."""
    return {name: value for name, value in node.items() if name.startswith(_KEPT)} | ENVIRONMENT
