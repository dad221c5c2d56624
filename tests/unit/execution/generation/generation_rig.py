"""A tiny model, a scheduler over it, and one-by-one generation to hold it against."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import onnxruntime as ort

from cocoon_p2p.execution.generation.answer import Answer, Event
from cocoon_p2p.execution.generation.front import Front
from cocoon_p2p.execution.generation.kv_cache import Graph, KeyValues
from cocoon_p2p.execution.generation.kv_memory import DeviceMemory, HostMemory
from cocoon_p2p.execution.generation.kv_rows import SeparateRows
from cocoon_p2p.execution.generation.kv_slots import Slots
from cocoon_p2p.execution.generation.scheduler import Scheduler
from cocoon_p2p.execution.session import run_options
from cocoon_p2p.generation import GenerationRequest, Token
from cocoon_p2p.models.generation_spec import GenerationSpec
from cocoon_p2p.testing.tiny_genai import FIRST_BYTE, SPECIAL_TOKENS, make_tiny_genai

GRAPHS = ("grouped", "positions", "plain")
KV_DTYPES = ("float32", "float16")


@cache
def tiny(graph: str = "grouped", kv_dtype: str = "float32") -> Path:
    """The folder of a tiny model, made once."""
    return make_tiny_genai(Path(mkdtemp(prefix="tiny-")), graph=graph, kv_dtype=kv_dtype)


@cache
def session_of(folder: Path) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])


@cache
def spec_of(folder: Path) -> GenerationSpec:
    model = json.loads((folder / "genai_config.json").read_text())["model"]
    decoder = model["decoder"]
    inputs = {argument.name: argument.type for argument in session_of(folder).get_inputs()}
    return GenerationSpec(
        tokenizer="tokenizer.json",
        template="chat_template.jinja",
        bos="<|bos|>",
        eos="<|eos|>",
        eos_ids=(model["eos_token_id"],),
        context=model["context_length"],
        vocab=model["vocab_size"],
        layers=decoder["num_hidden_layers"],
        kv_heads=decoder["num_key_value_heads"],
        head_size=decoder["head_size"],
        kv_dtype="float16" if "float16" in inputs["past_key_values.0.key"] else "float32",
        ids="input_ids",
        mask="attention_mask",
        positions="position_ids" if "position_ids" in inputs else None,
        logits="logits",
        past_key="past_key_values.%d.key",
        past_value="past_key_values.%d.value",
        present_key="present.%d.key",
        present_value="present.%d.value",
        in_place=bool(json.loads((folder / "genai_config.json").read_text())["search"]["past_present_share_buffer"]),
    )


@cache
def greedy(folder: Path, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
    """One-by-one generation by plain runs of the graph: past in, present out."""
    spec, session = spec_of(folder), session_of(folder)
    past = [name for pair in spec.past_names() for name in pair]
    present = [name for pair in spec.present_names() for name in pair]
    shape = (1, spec.kv_heads, 0, spec.head_size)
    values: Sequence[Any] = [np.zeros(shape, spec.kv_dtype) for _ in past]
    new, before, answer = np.array([prompt]), 0, []
    for _ in range(count):
        feeds = dict(zip(past, values, strict=True)) | {
            "input_ids": new,
            "attention_mask": np.ones((1, before + new.shape[1]), np.int64),
        }
        if spec.positions is not None:
            feeds[spec.positions] = np.arange(before, before + new.shape[1])[None]
        logits, *values = session.run(["logits", *present], feeds)
        before += new.shape[1]
        answer.append(int(logits[0, -1].argmax()))
        new = np.array([answer[-1:]])
    return tuple(answer)


def text_ids(text: str) -> list[int]:
    """What the tiny tokenizer makes of a text without special tokens."""
    return [FIRST_BYTE + byte for byte in text.encode()]


def special(name: str) -> int:
    return SPECIAL_TOKENS.index(f"<|{name}|>")


class NoCancels:
    """Runs that nothing ends but `cancelled`."""

    def __init__(self) -> None:
        self.cancelled: set[int] = set()
        self.runs: list[tuple[int, ...]] = []

    def begin(self, jobs: Iterable[int]) -> Any:
        numbers = tuple(jobs)
        if set(numbers) <= self.cancelled:
            return None
        self.runs.append(numbers)
        return run_options()

    def end(self) -> None:
        pass

    def is_cancelled(self, job: int) -> bool:
        return job in self.cancelled

    def forget(self, job: int) -> None:
        self.cancelled.discard(job)


class Rig:
    """A scheduler, with its answers gathered by number."""

    def __init__(
        self, folder: Path, *, rows_max: int = 8, tokens_max: int = 1 << 20, device_memory: bool = False
    ) -> None:
        spec = spec_of(folder)
        self.spec = spec
        graph = Graph(session_of(folder), spec)
        bounds = {"rows_max": rows_max, "bytes_max": tokens_max * spec.kv_bytes_per_token}
        shape = (len(graph.past), spec.kv_heads, spec.head_size, graph.cache_type)
        if not spec.in_place:
            self.kv: KeyValues = SeparateRows(graph, device="cpu", **bounds)
        elif device_memory:
            memory = DeviceMemory(*shape, provider="CPUExecutionProvider", device="cpu", device_id=0)
            self.kv = Slots(graph, memory, **bounds)
        else:
            self.kv = Slots(graph, HostMemory(*shape), **bounds)
        self.front = Front(folder, spec)
        self.runs = NoCancels()
        self.now = 0.0
        self.scheduler = Scheduler(self.kv, self.runs, lambda: self.now, vocab=spec.vocab)
        self.events: dict[int, list[Event]] = defaultdict(list)
        self._next = 1

    def add(
        self, request: GenerationRequest, *, items_max: int = 1 << 20, allowed: int = 1 << 20, client: bytes = b"me"
    ) -> Answer:
        number, self._next = self._next, self._next + 1
        answer = self.front.answer(
            number, request.encode().decode(), client=client, items_max=items_max, allowed=allowed, now=self.now
        )
        self.scheduler.add(answer)
        return answer

    def step(self) -> list[Event]:
        events = self.scheduler.step()
        for event in events:
            self.events[event.number].append(event)
        return events

    def finish(self) -> None:
        while self.scheduler.has_work:
            self.step()

    def run(self, request: GenerationRequest, **options: Any) -> Result:
        answer = self.add(request, **options)
        self.finish()
        return self.result(answer)

    def result(self, answer: Answer) -> Result:
        return Result(self.events[answer.number])


class Result:
    """What came of one answer."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.error = events[-1].error if events else None
        pieces = [event.piece for event in events if event.piece is not None]
        self.tokens: list[Token] = [token for piece in pieces for token in piece.tokens]
        self.ids = [token.id for token in self.tokens]
        self.text = "".join(piece.text for piece in pieces)
        self.finish = pieces[-1].finish if pieces else None
        self.reused = pieces[0].reused_tokens if pieces else 0
        self.prompt_tokens = pieces[0].prompt_tokens if pieces else None
        self.items = events[-1].items if events else 0
