"""How many tokens a request can come to at most, for a client that has no tokenizer: providers count, and never more than is paid for."""

from __future__ import annotations

import json

from cocoon_p2p.generation import GenerationRequest
from cocoon_p2p.limits import INSTALMENT_TOKENS

_AROUND_MESSAGE = 64
"""Marks and names that a chat template puts around a message."""
_AROUND_TOOLS = 512
"""Sentences in which it tells of tools."""
_BYTES_PER_TOKEN = 5
"""English has 4 to 4.5: what is paid before the prompt is counted is to be no more than the prompt's, and one instalment."""


def prompt_bound(request: GenerationRequest) -> int:
    """Every byte a token, which no tokenizer in use exceeds but for rare characters that it spells out."""
    if request.prompt is not None:
        return len(request.prompt.encode()) + _AROUND_MESSAGE
    said = sum(_bytes_of(message) + _AROUND_MESSAGE for message in request.messages) + _AROUND_MESSAGE
    # a template writes the definitions of tools with indentation
    return said + (2 * _bytes_of(list(request.tools)) + _AROUND_TOOLS if request.tools else 0)


def items_bound(request: GenerationRequest, context: int) -> int:
    """Of prompt and answer together, that of a model with a context of so many tokens."""
    return max(1, min(prompt_bound(request) + request.max_tokens, context))


def first_payment(request: GenerationRequest, items: int) -> int:
    """The items that are paid for at first: as many as the prompt will probably have, what the answer goes on behind, and one
    instalment. Where the prompt has more, the rest is paid once it is counted."""
    text = len((request.prompt or "").encode()) + sum(map(_bytes_of, (*request.messages, *request.tools)))
    return min(items, text // _BYTES_PER_TOKEN + len(request.resume) + INSTALMENT_TOKENS)


def _bytes_of(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False, default=dict).encode(errors="replace"))
