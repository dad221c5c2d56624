"""A model behind the OpenAI API, as vLLM, Ray Serve, SGLang, llama.cpp and others offer it: /v1/embeddings,
/v1/chat/completions and /v1/completions with stream=true.

https://platform.openai.com/docs/api-reference; vLLM's `continuous_usage_stats` (usage in every event) is asked for, and
done without where it is not known.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.upstream.http import Answer, UpstreamHttp, as_json
from cocoon_p2p.execution.upstream.openai_events import Event, EventFormat, read_event
from cocoon_p2p.execution.upstream.settings import UpstreamSettings
from cocoon_p2p.execution.upstream.sse import EventReader, EventTooLarge
from cocoon_p2p.generation import GenerationRequest
from cocoon_p2p.limits import UPSTREAM_EVENT_BYTES_MAX, UPSTREAM_HEAD_BYTES_MAX, UPSTREAM_JSON_BYTES_MAX
from cocoon_p2p.tensors import Tensor

_DONE = b"[DONE]"


class OpenAI:
    """One model of one endpoint. Raises ExecutionError where nothing else is said."""

    def __init__(self, settings: UpstreamSettings, http: UpstreamHttp) -> None:
        self._settings = settings
        self._http = http
        self._tells_usage = True
        """Whether it may know `continuous_usage_stats`."""

    async def knows_model(self) -> bool:
        """Whether it lists the model; True also for one that lists none."""
        tree = await self._http.get("/v1/models", bytes_max=UPSTREAM_HEAD_BYTES_MAX)
        listed = tree.get("data") if isinstance(tree, dict) else None
        if not isinstance(listed, list) or not listed:
            return True
        return any(isinstance(each, dict) and each.get("id") == self._settings.model for each in listed)

    async def embed(self, name: str, texts: list[str], width: int | None) -> Tensor:
        """float32[texts, width] named `name`; `width` None: whatever it is."""
        asked = {"model": self._settings.model, "input": texts, "encoding_format": "base64"}
        tree = await self._http.post("/v1/embeddings", asked, bytes_max=UPSTREAM_JSON_BYTES_MAX)
        try:
            rows = {row["index"]: _vector(row["embedding"]) for row in tree["data"]}
            vectors = [rows[index] for index in range(len(texts))]
            width = len(vectors[0]) // 4 if width is None else width
            if not width or len(rows) != len(texts) or any(len(vector) != 4 * width for vector in vectors):
                raise ValueError("vectors of another number or size")
        except (ValueError, TypeError, LookupError, OverflowError, struct.error) as error:
            raise self._http.nonsense(f"its embeddings are none ({type(error).__name__})") from None
        return Tensor(name, "float32", (len(texts), width), b"".join(vectors))

    async def stream(self, request: GenerationRequest, max_tokens: int) -> AsyncGenerator[Event]:
        """The answer's events. Close the iterator (`aclose`) to end the work."""
        path, asked = _asked(self._settings.model, request, max_tokens)
        form = EventFormat(chat=request.prompt is None)
        while True:
            usage = {"include_usage": True} | ({"continuous_usage_stats": True} if self._tells_usage else {})
            content = as_json({**asked, "stream": True, "stream_options": usage})
            begun = False
            try:
                async with self._http.open("POST", path, content, {"accept": "text/event-stream"}) as answer:
                    begun = True
                    async with aclosing(self._events(answer, form)) as events:
                        async for event in events:
                            yield event
                return
            except ExecutionError as error:
                if begun or error.code != "INPUT" or not self._tells_usage:
                    raise
                self._tells_usage = False  # is it that what it does not take? If not, it says so again

    async def _events(self, answer: Answer, form: EventFormat) -> AsyncGenerator[Event]:
        reader = EventReader(UPSTREAM_EVENT_BYTES_MAX)
        try:
            while chunk := await answer.chunk():
                for data in reader.feed(chunk):
                    if data == _DONE:
                        return
                    yield self._event(answer.parse(data), form)
        except EventTooLarge as error:
            raise self._http.nonsense(str(error)) from None
        raise self._http.nonsense("its stream ended without [DONE]")

    def _event(self, tree: Any, form: EventFormat) -> Event:
        if isinstance(tree, dict) and "error" in tree:
            raise self._http.nonsense("it reported an error in the middle of an answer")
        try:
            return read_event(tree, form)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            raise self._http.nonsense(f"an event of its stream is none ({type(error).__name__})") from None


def _vector(given: Any) -> bytes:
    """Raises ValueError, TypeError, OverflowError, struct.error."""
    if isinstance(given, str):
        raw = base64.b64decode(given, validate=True)
        if len(raw) % 4:
            raise ValueError("not whole numbers of float32")
        return raw
    if not isinstance(given, list) or not all(type(each) in (int, float) for each in given):
        raise ValueError("no list of numbers")
    return struct.pack(f"<{len(given)}f", *given)


def _asked(model: str, request: GenerationRequest, max_tokens: int) -> tuple[str, dict[str, Any]]:
    """Path and body."""
    asked: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
    }
    if request.stop:
        asked["stop"] = list(request.stop)
    if request.top_k:
        asked["top_k"] = request.top_k  # not OpenAI's own; vLLM and others have it
    if request.json_schema is not None:
        schema = {"name": "answer", "schema": dict(request.json_schema), "strict": True}
        asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.prompt is not None:
        asked["prompt"] = request.prompt
        if request.logprobs is not None:
            asked["logprobs"] = request.logprobs
        return "/v1/completions", asked
    asked["messages"] = [dict(message) for message in request.messages]
    if request.tools:
        asked["tools"] = [dict(tool) for tool in request.tools]
    if request.logprobs is not None:
        asked |= {"logprobs": True, "top_logprobs": request.logprobs}
    return "/v1/chat/completions", asked


def check_possible(request: GenerationRequest) -> None:
    """Raises ExecutionError(code="INPUT") for what the API has no word for."""
    if request.resume:
        raise ExecutionError(
            "an answer of an upstream model cannot go on behind tokens of another: their ids are not known; ask anew",
            code="INPUT",
        )
    if request.regex is not None:
        raise ExecutionError("an upstream model takes no regex: give a json_schema", code="INPUT")
