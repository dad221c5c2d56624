"""Greedy answers are those of onnxruntime-genai's Generator."""

from __future__ import annotations

import numpy as np
import pytest
from generation_rig import Rig, text_ids, tiny

from cocoon_p2p.generation import GenerationRequest

pytestmark = pytest.mark.slow

PROMPTS = ["hello", "what is the capital of France?", "x", "0123456789" * 20]


@pytest.mark.parametrize("graph", ["grouped", "positions"])
def test_greedy_answers_equal_those_of_genai(graph: str) -> None:
    og = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed: nothing to compare with")
    folder = tiny(graph)
    model = og.Model(str(folder))
    rig = Rig(folder)
    answers = [rig.add(GenerationRequest(prompt=text, max_tokens=60)) for text in PROMPTS]
    rig.finish()
    for answer, text in zip(answers, PROMPTS, strict=True):
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=len(text) + 60)
        generator = og.Generator(model, parameters)
        generator.append_tokens(np.array(text_ids(text), np.int32))
        found = []
        while not generator.is_done():
            generator.generate_next_token()
            found.append(int(generator.get_next_tokens()[0]))
        assert rig.result(answer).ids == found
        tokenizer = og.Tokenizer(model)
        assert tokenizer.encode(text).tolist() == text_ids(text)
