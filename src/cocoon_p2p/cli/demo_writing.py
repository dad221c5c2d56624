"""The demo's language model: one provider fetches it from another, serves it, and the client sees the answer as it is made."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import trio

from cocoon_p2p.cli.demo_network import RunningNode, in_thread
from cocoon_p2p.cli.output import printable, terminal_columns
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.ids import ModelId

MODEL = "parrot"
PROMPT = "A provider"
MAX_TOKENS, TEMPERATURE, SEED = 60, 0.8, 42
PULL_TIMEOUT_S = 20.0
LOOK_AGAIN_S = 0.05
TEXT_COLUMNS_MAX = 100


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model that one provider has from another."""

    model_id: str
    by: str
    origin: str
    bytes: int
    seconds: float
    """From the wish to the moment when the client knows of the new offer."""


@dataclass(frozen=True, slots=True)
class Writing:
    """What was fetched and what was written."""

    pulled: Pulled
    prompt: str
    text: str
    prompt_tokens: int
    tokens: int
    first_token_s: float | None
    tokens_s: float | None
    price_nanogram: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def pull(client: RunningNode, by: RunningNode, origin: RunningNode, model_id: ModelId) -> Pulled:
    """Have `by` fetch the model and wait until the client has heard that it offers it. Raises CocoonError."""
    started = time.perf_counter()
    at, ours = await in_thread(by.api), await in_thread(client.api)
    with trio.move_on_after(PULL_TIMEOUT_S) as scope:
        row = await in_thread(partial(at.post, "/v1/pulls", {"model": model_id}))
        while row["phase"] not in ("done", "failed"):
            await trio.sleep(LOOK_AGAIN_S)
            pulls = (await in_thread(partial(at.get, "/v1/pulls")))["pulls"]
            row = next(each for each in pulls if each["model_id"] == model_id)
        while row["phase"] == "done":
            if await _offered(ours, model_id, by.peer_id):
                break
            await trio.sleep(LOOK_AGAIN_S)
    if scope.cancelled_caught or row["error"] is not None:
        why = f"within {PULL_TIMEOUT_S:.0f} s" if row["error"] is None else f": {row['error']['message']}"
        raise CocoonError(f"{by.name} has not fetched the model {MODEL} {why}")
    return Pulled(model_id, by.name, origin.name, int(row["total_bytes"]), round(time.perf_counter() - started, 3))


async def _offered(api: Any, model_id: str, peer_id: str) -> bool:
    offers = (await in_thread(partial(api.get, "/v1/offers", model=model_id)))["offers"]
    return any(offer["peer_id"] == peer_id for offer in offers)


async def write(
    client: RunningNode, by: RunningNode, pulled: Pulled, show: Callable[[str], None] = lambda text: None
) -> Writing:
    """Have the model go on with PROMPT; `show` gets the text as it comes. Raises CocoonError."""
    api = await in_thread(client.api)
    head = {
        "model": pulled.model_id, "prompt": PROMPT, "raw": True, "max_tokens": MAX_TOKENS, "temperature": TEMPERATURE,
        "seed": SEED, "provider": by.peer_id,
    }  # fmt: skip

    def answer() -> Mapping[str, Any]:
        result: Mapping[str, Any] = {}
        for line in api.generate(head):
            if "piece" in line:
                show(line["piece"]["text"])
            if "error" in line:
                raise CocoonError(line["error"]["message"], code=line["error"]["code"])
            result = line.get("result", result)
        return result

    show(PROMPT)
    result = await in_thread(answer)
    return Writing(
        pulled=pulled,
        prompt=PROMPT,
        text=result["text"],
        prompt_tokens=result["usage"]["prompt_tokens"],
        tokens=result["usage"]["completion_tokens"],
        first_token_s=result["first_token_s"],
        tokens_s=result["tokens_s"],
        price_nanogram=int(result["price_nanogram"]),
    )


class WrappedText:
    """Writes words as they come, on lines that fit the terminal: a word is shown when the next one begins."""

    def __init__(self) -> None:
        self._width = min(terminal_columns(), TEXT_COLUMNS_MAX)
        self._column = 0
        self._word = ""

    def __call__(self, text: str) -> None:
        for char in text:
            if char.isspace():
                self._put()
            else:
                self._word += char
        sys.stdout.flush()

    def end(self) -> None:
        self._put()
        print(flush=True)

    def _put(self) -> None:
        word, self._word = printable(self._word), ""
        if not word:
            return
        if self._column and self._column + 1 + len(word) > self._width:
            sys.stdout.write("\n")
            self._column = 0
        before = " " if self._column else ""
        sys.stdout.write(before + word)
        self._column += len(before) + len(word)
