"""onnxruntime-genai in a process of its own: `python -m bench.genai_peer FOLDER`.

A line of JSON in, {"how": "generator" | "engine", "prompts": [[ids…]…], "tokens": n}; a line out: {"tokens", "seconds",
"first_s"}. "generator" answers one prompt after the other, "engine" gives all to the Engine at once. Greedy."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import onnxruntime_genai as genai  # type: ignore[import-untyped]


def generator(model: Any, prompts: list[list[int]], tokens: int) -> tuple[int, float]:
    """Tokens made, and seconds to the first one of the first prompt."""
    made, first_s, begun = 0, 0.0, time.perf_counter()
    for prompt in prompts:
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(prompt) + tokens, do_sample=False)
        each = genai.Generator(model, parameters)
        each.append_tokens(np.array(prompt, np.int32))
        while not each.is_done():
            each.generate_next_token()
            made += 1
            first_s = first_s or time.perf_counter() - begun
    return made, first_s


def engine(model: Any, prompts: list[list[int]], tokens: int) -> tuple[int, float]:
    """Likewise; the first token of any."""
    made, first_s, begun = 0, 0.0, time.perf_counter()
    running = genai.Engine(model)
    requests = []  # held: the engine does not
    for prompt in prompts:
        request = running.create_request()
        options = genai.TurnOptions(request)
        options.set_max_generated_tokens(tokens)
        options.set_do_sample(False)
        request.begin_turn(np.array(prompt, np.int32), options)
        requests.append((request, options))
    events = running.create_event_buffer(2 * len(prompts))
    while running.has_pending_requests():
        for event in running.run(events):
            if event.flags.value & genai.EngineEventFlags.TOKEN.value:
                made += 1
                first_s = first_s or time.perf_counter() - begun
    return made, first_s


HOW = {"generator": generator, "engine": engine}


def main() -> None:
    model = genai.Model(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        begun = time.perf_counter()
        made, first_s = HOW[asked["how"]](model, asked["prompts"], asked["tokens"])
        took = time.perf_counter() - begun
        print(json.dumps({"tokens": made, "seconds": took, "first_s": first_s}), flush=True)


if __name__ == "__main__":
    main()
