"""The guard round everything that may fail without harming anything else: handlers, validators, background work, and
calls into libraries. The only file of this room that may catch `Exception`.

py-libp2p lets an exception in one handler end the whole host (libp2p_cures.py); here it ends one stream,
is counted, and is logged once with its traceback.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import trio

from cocoon_p2p.errors import CocoonError, EndOfStream, RemoteProtocolError, TransportError, one_line
from cocoon_p2p.net.port import Stream, StreamHandler

logger = logging.getLogger("cocoon_p2p.net")

Result = TypeVar("Result")

Counters = Counter[str]
"""What was dropped, refused or swallowed, by name; `Network.counters()` shows it."""


async def run_handler(handler: StreamHandler, stream: Stream, counters: Counters) -> None:
    """Serve one inbound stream: closed when the handler returns, reset when it raises. Only cancellation, and what is no
    Exception, passes through."""
    try:
        await handler(stream)
        await stream.aclose()
    except EndOfStream:
        await stream.aclose()  # the usual way out of a loop that receives
    except trio.Cancelled:
        await stream.reset()
        raise
    except BaseExceptionGroup as group:
        await stream.reset()
        what = f"handler of {stream.protocol} for {stream.peer}"
        _note_group(group, what, counters, failed="handler_failed", disconnected="handler_disconnected")
    except TransportError as error:
        await stream.reset()
        counters["handler_disconnected"] += 1
        logger.debug("%s with %s ended: %s", stream.protocol, stream.peer, error)
    except RemoteProtocolError as error:
        await stream.reset()
        counters["handler_peer_fault"] += 1
        logger.info("%s of %s: %s (%s)", stream.protocol, stream.peer, one_line(error), error.code)
    except Exception:
        await stream.reset()
        counters["handler_failed"] += 1
        logger.exception("handler of %s for %s failed; its stream was reset", stream.protocol, stream.peer)


async def run_guarded(name: str, task: Callable[[], Awaitable[None]], counters: Counters) -> bool:
    """Await `task()`; a failure is counted as "<name>_failed" and logged instead of raised. True if it did not fail."""
    try:
        await task()
    except trio.Cancelled:
        raise
    except BaseExceptionGroup as group:
        _note_group(group, name, counters, failed=f"{name}_failed", disconnected=f"{name}_failed")
    except CocoonError as error:
        counters[f"{name}_failed"] += 1
        logger.debug("%s: %s", name, error)
    except Exception:
        counters[f"{name}_failed"] += 1
        logger.exception("%s failed", name)
    else:
        return True
    return False


def call_guarded(name: str, function: Callable[[], Result], otherwise: Result, counters: Counters) -> Result:
    """`function()`, or `otherwise` when it raises; the failure is counted as "<name>_failed"."""
    try:
        return function()
    except CocoonError as error:
        counters[f"{name}_failed"] += 1
        logger.debug("%s: %s", name, error)
    except Exception:
        counters[f"{name}_failed"] += 1
        logger.exception("%s failed", name)
    return otherwise


@asynccontextmanager
async def open_service_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery of background tasks, cancelled when the body is done. What the body raises passes as it is: trio would
    wrap it in a group, and a ConfigError would be none any more to whoever opened the service.

    What a background task raises comes out too, in a group, beside what the body raised unless that is but the
    cancellation that followed: from a nursery inside the body it comes as a group, which must not hide the error.
    """
    raised: BaseException | None = None
    background: BaseExceptionGroup[BaseException] | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as error:  # noqa: BLE001  (raised again below)
                raised = error
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        background = group.split(trio.Cancelled)[1]
    if background is not None:
        failed = _without_cancellation(raised)
        if failed is None:
            raise background
        raise BaseExceptionGroup("the service and its user failed", [failed, *background.exceptions])
    if raised is not None:
        raise raised


def _without_cancellation(error: BaseException | None) -> BaseException | None:
    """What is left of `error` when every trio.Cancelled is taken out of it."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1]
    return None if isinstance(error, trio.Cancelled) else error


@contextmanager
def foreign_errors(what: str, *, outcome_known: bool, code: str | None = None) -> Iterator[None]:
    """Whatever a library raises inside becomes one TransportError with its cause; our own errors pass as they are."""
    try:
        yield
    except CocoonError:
        raise
    except Exception as error:
        raise TransportError(f"{what}: {describe(error)}", outcome_known=outcome_known, code=code) from error


@contextmanager
def deadline(timeout_s: float, what: str) -> Iterator[None]:
    """Raises TransportError when the block takes longer."""
    with trio.move_on_after(timeout_s) as scope:
        yield
    if scope.cancelled_caught:
        raise TransportError(f"{what}: timed out", outcome_known=True, code="TIMEOUT")


def describe(error: BaseException) -> str:
    """One line for a person: the text of the error or of what it wraps, else the name of its class."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(describe(inner) for inner in error.exceptions)
    if isinstance(error, trio.TooSlowError):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, OSError) and error.__cause__ is not None:
        return describe(error.__cause__)  # trio's "all attempts to connect failed"
    text = str(error).strip()
    if not text and error.__cause__ is not None:
        return describe(error.__cause__)
    return text.splitlines()[0] if text else type(error).__name__


def _note_group(
    group: BaseExceptionGroup[BaseException], what: str, counters: Counters, *, failed: str, disconnected: str
) -> None:
    """Log the failures of a group and count it under one of two names; raise what must not be swallowed: cancellation, KeyboardInterrupt and their like."""
    failures, others = group.split(Exception)
    disconnections, faults = failures.split(TransportError) if failures is not None else (None, None)
    if faults is not None:
        counters[failed] += 1
        logger.error("%s failed", what, exc_info=faults)
    elif disconnections is not None:
        counters[disconnected] += 1
        logger.debug("%s: %s", what, describe(disconnections))
    if others is not None:
        raise others
