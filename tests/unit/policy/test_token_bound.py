"""A client without a tokenizer: its bound is never below what a tokenizer makes of a prompt."""

from __future__ import annotations

import json

from cocoon_p2p.generation import GenerationRequest
from cocoon_p2p.limits import INSTALMENT_TOKENS
from cocoon_p2p.policy.token_bound import first_payment, items_bound, prompt_bound


def chat(*texts: str) -> GenerationRequest:
    return GenerationRequest(messages=tuple({"role": "user", "content": text} for text in texts), max_tokens=100)


def test_a_byte_is_a_token_at_most() -> None:
    text = "Grüß Gott, 你好 \U0001f600"
    assert prompt_bound(GenerationRequest(prompt=text)) >= len(text.encode())
    assert prompt_bound(chat(text, text)) >= 2 * (len(text.encode()) + 64)


def test_tools_count() -> None:
    tools = ({"type": "function", "function": {"name": "f" * 100}},)
    plain = chat("Why?")
    told = GenerationRequest(messages=plain.messages, tools=tools)
    assert prompt_bound(told) > prompt_bound(plain) + 100
    asks = {"type": "object", "properties": {name: {"type": "string"} for name in ("city", "unit")}, "required": []}
    nested = ({"type": "function", "function": {"name": "weather", "parameters": asks}},) * 12
    told = GenerationRequest(messages=plain.messages, tools=nested)
    assert prompt_bound(told) >= prompt_bound(plain) + len(json.dumps(nested, indent=2)), "as templates write them"


def test_never_beyond_the_context() -> None:
    assert items_bound(chat("x" * 5000), 4096) == 4096
    assert items_bound(chat("x"), 4096) == prompt_bound(chat("x")) + 100


def test_the_first_payment_is_about_the_prompt_and_an_instalment() -> None:
    words = "the quick brown fox jumps over the lazy dog " * 50
    prompt = GenerationRequest(prompt=words)
    assert 0 < first_payment(prompt, 10**6) - INSTALMENT_TOKENS <= 9 * 50 + 1, "a word is a token"
    assert first_payment(prompt, 70) == 70
    resumed = GenerationRequest(prompt=words, resume=(1,) * 30)
    assert first_payment(resumed, 10**6) == first_payment(prompt, 10**6) + 30
