"""HTTP to one upstream: bounded in size and time, its failures turned into a job's.

A client reads what it may know: which of its inputs was wrong, or that another provider may do better. What the operator
should do stands in the log. Neither ever has the request, the answer's body, or the API key.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import trio

from cocoon_p2p.errors import ExecutionError, one_line
from cocoon_p2p.execution.upstream.settings import UpstreamSettings
from cocoon_p2p.limits import UPSTREAM_CONNECT_TIMEOUT_S

log = logging.getLogger(__name__)

JSON_TYPE = "application/json"
_WRONG_INPUT = (400, 413, 422)
_NOT_LET_IN = (401, 403)
_COME_LATER = (408, 425, 429, 503)


class Complaints:
    """What the operator is told of one cluster: each trouble once, and that it is over."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._trouble = self._last_oddity = ""
        self._oddities: set[str] = set()

    @property
    def last(self) -> str:
        """The trouble that there is, else what was odd since its last good answer; "" when nothing was."""
        return self._trouble or self._last_oddity

    def trouble(self, text: str) -> None:
        """It does no work."""
        if text != self._trouble:
            self._trouble = text
            log.error("upstream %s %s", self._name, text)

    def over(self) -> None:
        self._last_oddity = ""
        if self._trouble:
            self._trouble = ""
            log.warning("upstream %s answers again", self._name)

    def oddity(self, text: str) -> None:
        """One answer of it was none."""
        self._last_oddity = text
        if text not in self._oddities:
            self._oddities.add(text)
            log.warning("upstream %s: %s", self._name, text)


class UpstreamHttp:
    """Requests to one upstream, until `aclose`."""

    def __init__(self, settings: UpstreamSettings, complaints: Complaints) -> None:
        self._settings = settings
        self._complaints = complaints
        headers = {"accept-encoding": "identity", "user-agent": "cocoon-node"}
        if settings.api_key:
            headers["authorization"] = f"Bearer {settings.api_key}"
        # No proxy and no .netrc of the environment: inputs and the key go where node.toml says, and nowhere else.
        self._client = httpx.AsyncClient(
            base_url=settings.url,
            headers=headers,
            timeout=httpx.Timeout(settings.timeout_s, connect=min(UPSTREAM_CONNECT_TIMEOUT_S, settings.timeout_s)),
            limits=httpx.Limits(max_connections=settings.parallel + 2, max_keepalive_connections=settings.parallel),
            follow_redirects=False,
            trust_env=False,
        )
        self.healthy = True
        """Whether the last request reached it."""

    async def aclose(self) -> None:
        await self._client.aclose()

    async def get(self, path: str, *, bytes_max: int) -> Any:
        """JSON from `path`. Raises ExecutionError."""
        async with self.open("GET", path) as answer:
            return await answer.json(bytes_max)

    async def post(self, path: str, tree: Mapping[str, Any], *, bytes_max: int) -> Any:
        """JSON to and from `path`. Raises ExecutionError."""
        async with self.open("POST", path, as_json(tree)) as answer:
            return await answer.json(bytes_max)

    @asynccontextmanager
    async def open(
        self, method: str, path: str, content: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Answer]:
        """An answer whose body is still to be read; leaving the block closes the connection of one that was not read to its
        end, and so ends the work on it. Raises ExecutionError for anything but a good answer, also out of the block."""
        sent = {**({} if content is None else {"content-type": JSON_TYPE}), **(headers or {})}
        try:
            async with self._client.stream(method, path, content=content, headers=sent) as response:
                self._judge(response)
                answer = Answer(response, self)
                try:
                    yield answer
                finally:
                    await answer.close()
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self._lost(error) from None  # its text and its request may quote the input

    def nonsense(self, what: str) -> ExecutionError:
        """The upstream broke the protocol: `what` says how, in words of ours."""
        self._complaints.oddity(what)
        return ExecutionError("the provider's cluster gave what is no answer", code="MODEL", retryable=True)

    def _judge(self, response: httpx.Response) -> None:
        """Raises ExecutionError unless it is a good answer."""
        self.healthy = True
        status = response.status_code
        if status == 200:
            self._complaints.over()
            if response.headers.get("content-encoding", "identity") != "identity":
                raise self.nonsense("it compresses its answers, though it was asked not to")
            return
        if status in _WRONG_INPUT:
            raise ExecutionError(f"the provider's cluster does not take this input (HTTP {status})", code="INPUT")
        if status in _NOT_LET_IN:
            self._complaints.trouble(f"does not let this node in (HTTP {status}): is api_key_file right?")
            raise ExecutionError("the provider is not let in to its own cluster", code="WORKER", retryable=True)
        if status in _COME_LATER:
            raise ExecutionError("the provider's cluster is busy", code="BUSY", retryable=True)
        self._complaints.trouble(f"answers HTTP {status}: are url and model right?")
        raise ExecutionError(f"the provider's cluster failed (HTTP {status})", code="MODEL", retryable=True)

    def _lost(self, error: Exception) -> ExecutionError:
        if isinstance(error, httpx.PoolTimeout):
            return ExecutionError("the provider's cluster is busy", code="BUSY", retryable=True)
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            self.healthy = False
            why = one_line(error) or type(error).__name__
            self._complaints.trouble(f"cannot be reached at {self._settings.url}: {why}: is it running?")
            return ExecutionError("the provider's cluster cannot be reached", code="WORKER", retryable=True)
        if isinstance(error, httpx.TimeoutException):
            self._complaints.oddity(f"it was silent for {self._settings.timeout_s:g} s (timeout_s)")
            return ExecutionError("the provider's cluster went silent", code="WORKER", retryable=True)
        self._complaints.oddity(f"it broke off an answer ({type(error).__name__})")
        return ExecutionError("the provider's cluster broke off its answer", code="WORKER", retryable=True)


class Answer:
    """A good answer, whose body is still to be read."""

    def __init__(self, response: httpx.Response, http: UpstreamHttp) -> None:
        self._response = response
        self._http = http
        self._chunks = response.aiter_raw()

    def header(self, name: str) -> str | None:
        value: str | None = self._response.headers.get(name)
        return value

    async def chunk(self) -> bytes:
        """The next part of the body; none at its end."""
        return await anext(self._chunks, b"")

    async def body(self, bytes_max: int) -> bytearray:
        """All of it. Raises ExecutionError(code="LIMITS") when it is larger."""
        body = bytearray()
        while chunk := await self.chunk():
            if len(body) + len(chunk) > bytes_max:
                raise ExecutionError(f"the answer is larger than {bytes_max} bytes", code="LIMITS", retryable=True)
            body += chunk
        return body

    async def close(self) -> None:
        """End a body that was not read to its end. httpx reads through generators within generators, which nobody closes
        who stops in the middle: a cancellation within the innermost ends them all."""
        with trio.CancelScope() as scope, suppress(httpx.HTTPError, httpx.StreamError):
            scope.cancel()
            while await self.chunk():
                pass

    async def json(self, bytes_max: int) -> Any:
        return self.parse(await self.body(bytes_max))

    def parse(self, body: bytes | bytearray | memoryview) -> Any:
        """Raises ExecutionError(code="MODEL")."""
        try:
            return json.loads(bytes(body))
        except (ValueError, RecursionError):
            raise self._http.nonsense("its answer is not JSON") from None


def as_json(tree: Mapping[str, Any]) -> bytes:
    """Raises ExecutionError(code="INPUT") for numbers that JSON has no words for, and text that is not Unicode."""
    try:
        return json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        text = "the provider's cluster takes only finite numbers, and text in Unicode"
        raise ExecutionError(text, code="INPUT") from error
