"""What the processes that run models get to see of the node's environment."""

from __future__ import annotations

from cocoon_p2p.execution.environment import worker_environment


def test_workers_do_not_inherit_secrets() -> None:
    given = {
        "PATH": "/bin",
        "COCOON_PASSPHRASE": "secret",
        "COCOON_PASSPHRASE_FILE": "/secret",
        "OPENBLAS_NUM_THREADS": "8",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HF_TOKEN": "secret",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    environment = worker_environment(given)
    assert "secret" not in "".join(environment.values())
    assert environment["PATH"] == "/bin"
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["ORT_DISABLE_TELEMETRY"] == environment["OPENBLAS_NUM_THREADS"] == "1"
