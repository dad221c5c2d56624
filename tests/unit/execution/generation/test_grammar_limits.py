"""Grammars that are too large: at once, or only further on in the answer."""

from __future__ import annotations

import json

import pytest
from generation_rig import Rig, text_ids, tiny
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.generation.grammar_limits import too_large
from cocoon_p2p.execution.generation.guidance import Guide
from cocoon_p2p.execution.generation.schema_limits import TooLarge, check_schema
from cocoon_p2p.generation import GenerationRequest

REGEX = LLMatcher.grammar_from_regex("(.*a.{20}b.*){5}")


def optional(count: int) -> dict[str, object]:
    return {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(count)}}


SCHEMA = LLMatcher.grammar_from_json_schema(json.dumps(optional(50)))


def test_a_schema_that_gets_too_large_on_the_way_says_what_would_not() -> None:
    """Before the object begins nothing is wrong with it; then its properties may follow in any choice."""
    rig = Rig(tiny())
    answer = rig.add(GenerationRequest(prompt="x", max_tokens=90, json_schema=optional(499)))
    free = rig.add(GenerationRequest(prompt="hello", max_tokens=5))
    rig.finish()
    error = rig.result(answer).error
    assert error is not None
    assert error.code == "INPUT", "no provider could do it, and none is to blame"
    assert error.message.startswith("json_schema is too large: more is possible at one place of the answer than 2000")
    assert "about 490 properties that are not required" in error.message
    assert rig.result(free).error is None
    with pytest.raises(ExecutionError, match="json_schema is too large") as caught:
        rig.add(GenerationRequest(prompt="x", json_schema=optional(499), resume=tuple(text_ids("{"))))
    assert caught.value.code == "INPUT"
    assert Rig(tiny()).run(GenerationRequest(prompt="x", max_tokens=20, json_schema=optional(490))).error is None


@pytest.mark.parametrize(
    ("grammar", "bound", "text", "said"),
    [
        (SCHEMA, "max_items_in_row", '{"p1":', "more is possible at one place"),
        (SCHEMA, "step_max_items", '{"p1":', "one token of the answer takes more than"),
        (REGEX, "max_lexer_states", "abcdefa" * 20, "its patterns have more than"),
        (REGEX, "step_lexer_fuel", "abcdefa" * 20, "steps in its patterns"),
        (SCHEMA, "initial_lexer_fuel", "", "steps to read"),
        (SCHEMA, "max_grammar_size", "", "symbols"),
    ],
)
def test_every_bound_has_words_of_ours(grammar: str, bound: str, text: str, said: str) -> None:
    """Of the library that is installed: another version may have others."""
    tokenizer = LLTokenizer((tiny() / "tokenizer.json").read_text())
    limits = LLParserLimits(verbose_errors=False, **{bound: 30})  # type: ignore[arg-type]
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if text:
        guide = Guide("regex", matcher, tokenizer.vocab_size, [])
        with pytest.raises(ExecutionError, match=f"regex is too large: .*{said}.*; have fewer") as caught:
            for token in tokenizer.tokenize_str(text):
                guide.allowed()
                guide.take(token)
        assert caught.value.code == "INPUT"
    else:
        assert said in (too_large("json_schema", matcher.get_error()) or "")


def copies(each: dict[str, object]) -> dict[str, object]:
    """Thirty objects that llguidance makes of one of 490 optional properties."""
    return {"properties": {f"o{n}": json.loads(json.dumps(each)) for n in range(30)}, "$defs": {"d": optional(490)}}


TEXT = {"type": "string"}


def chain(count: int) -> dict[str, object]:
    """Each object holds the next, by name."""
    named = {f"d{n}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": {**named, f"d{count}": TEXT}}


def together(count: int) -> dict[str, object]:
    """So many patterns at once, each behind a name and a choice."""
    named = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}], "pattern": f"a{n}"} for n in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": {**named, f"d{count}": TEXT}}


def pairs(count: int) -> dict[str, object]:
    return {"allOf": [{"anyOf": [optional(n + 1), {"type": "object"}]} for n in range(count)]}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (optional(9000), "one object has 9000 properties that are not required; 500 are read; have fewer, or make"),
        ({"allOf": [{"$ref": "#/$defs/a"}, optional(300)], "$defs": {"a": optional(501)}}, "one object has 501"),
        ({"anyOf": [{"const": n} for n in range(5000)]}, "it has 4001 parts or more.*; 4000 are read"),
        ({"enum": list(range(20_000))}, "it has 20001 values or more in enum and const"),
        (chain(5000), "its \\$refs lead through 401 levels or more"),
        (together(24), "24 patterns must hold for one text at once; 8 may"),
        (pairs(10), "1024 combinations"),
        (copies({"$ref": "#/$defs/d", "type": "object"}), "it has 4... parts or more, those counted again"),
        (copies({"allOf": [{"$ref": "#/$defs/d"}, {"required": ["p1"]}]}), "it has 4... parts or more"),
        ({**optional(490), "anyOf": [{"required": [f"p{n}"]} for n in range(40)]}, "it has 2.... parts or more"),
        ({"allOf": [{"enum": list(range(200))}, {"enum": list(range(200))}]}, "40000 combinations"),
        ({"anyOf": [{"multipleOf": 499}, {"multipleOf": 5.01}]}, "product of 249999, .* 10000 is the largest"),
        ({"patternProperties": {f"^{n:03}": TEXT for n in range(200)}}, "it has 200 patternProperties or more"),
        ({"items": {f"p{n}": TEXT for n in range(9)}, "prefixItems": [{"format": "uri"}] * 501}, "it has 501 patterns"),
        ({"$ref": "urn:x", "$defs": {"x": {"$id": "urn:x", **chain(5000)}}}, "a \\$ref names no schema within it"),
        ({"properties": {"x": {"$id": "urn:x", "$ref": "#"}}}, "a part of it has an \\$id of its own"),
        ({"pattern": "a" * 100_001}, "its patterns have 100001 characters or more"),
    ],
)  # fmt: skip
def test_what_would_take_seconds_to_compile_is_refused_before(schema: dict[str, object], said: str) -> None:
    """Some of these would end the worker (a stack overflow), the others have every answer of the node wait."""
    with pytest.raises(TooLarge, match=said):
        check_schema(schema)


def test_schemas_of_usual_programs_are_within_the_bounds() -> None:
    tree = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}}
    choice = {"enum": [f"v{n}" for n in range(5000)]}
    named = {"properties": {"default": TEXT, "$ref": TEXT, "enum": TEXT, "allOf": TEXT, "multipleOf": TEXT}}
    words = {"default": {"$ref": "anywhere"}, "multipleOf": 0.01, "pattern": "^a+$", "maxLength": 9}
    described = copies({"$ref": "#/$defs/d", "description": "one of thirty"})
    for schema in (
        described,
        tree,
        choice,
        named,
        words,
        chain(100),
        together(4),
        pairs(8),
        optional(490),
        {"a": [True]},
    ):
        check_schema(schema)


def test_the_answer_says_which_bound_it_was() -> None:
    for request, said in (
        (GenerationRequest(prompt="x", json_schema=optional(9000)), "json_schema is too large: one object has 9000"),
        (GenerationRequest(prompt="x", regex="a" * 100_001), "regex is too large: it has 100001 characters"),
    ):
        with pytest.raises(ExecutionError, match=said) as caught:
            Rig(tiny()).add(request)
        assert caught.value.code == "INPUT"


def test_llguidances_own_words_for_too_many_symbols_have_ours() -> None:
    panic = "panic: assertion failed: grammar.symbols.len() < u16::MAX as usize - 10"
    assert "65000 different parts" in (too_large("json_schema", panic) or "")
