"""What a grammar may take while an answer follows it, and how a client is told which of these bounds his was too large for.

What is compiled at all is bounded before (schema_limits.py). A grammar that is understood may still get too large later, once the answer comes to a place where too much is possible.
"""

from __future__ import annotations

from llguidance import LLParserLimits

LIMITS = LLParserLimits(verbose_errors=False, initial_lexer_fuel=500_000)
"""llguidance's own, which bound a token's work to some ten milliseconds, but for half the steps to begin with: (a{1000}){1000} takes
0.34 s instead of 0.88 s. Its errors come without state and grammar, which would hold the answer."""
_ROW = f"more is possible at one place of the answer than {LIMITS.max_items_in_row} parser items can hold"
_BOUNDS = (
    ("Current row has", _ROW),
    ("Too many items", f"one token of the answer takes more than {LIMITS.step_max_items} parser items"),
    ("too many expressions", f"one token of the answer takes more than {LIMITS.step_lexer_fuel} steps in its patterns"),
    ("too many states", f"its patterns have more than {LIMITS.max_lexer_states} states"),
    ("lexer configuration", f"its patterns take more than {LIMITS.initial_lexer_fuel} steps to read"),
    ("lexer precomputation", f"its patterns take more than {LIMITS.initial_lexer_fuel} steps to read"),
    ("grammar size", f"it has more than {LIMITS.max_grammar_size} symbols"),
    ("symbols.len()", "it has more than 65000 different parts"),
    ("schema too large", "it has more parts than are read of one"),
)
"""Words of llguidance 1.9, and what they mean."""
_SMALLER = {
    "json_schema": "an object can have about 490 properties that are not required, and some thousands that are; have fewer, or fewer "
    "alternatives (anyOf, oneOf), or simpler patterns",
    "regex": "have fewer alternatives, or smaller repetitions of parts that begin alike",
}


def too_large(what: str, said: str) -> str | None:
    """For people: which bound the grammar exceeded, and what to change; None where llguidance's error is about something else.
    `what`: "json_schema" or "regex"."""
    bound = next((text for words, text in _BOUNDS if words in said), None)
    return None if bound is None else f"{what} is too large: {bound}; {_SMALLER[what]}"
