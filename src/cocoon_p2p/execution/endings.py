"""How jobs and answers end that no worker ran to their end."""

from __future__ import annotations

from cocoon_p2p.errors import ExecutionError


def cancelled() -> ExecutionError:
    return ExecutionError("the job was cancelled", code="CANCELLED")


def unloaded() -> ExecutionError:
    return ExecutionError("the model was unloaded", code="SHUTTING_DOWN", retryable=True)


def copy_of(error: ExecutionError) -> ExecutionError:
    """Each job raises an error of its own: one that is raised twice collects both tracebacks."""
    return ExecutionError(error.message, code=error.code, retryable=error.retryable, hint=error.hint)
