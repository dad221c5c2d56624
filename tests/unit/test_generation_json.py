"""Requests and pieces as JSON: what travels comes back, and of a hostile other side nothing but its own kind of error."""

from __future__ import annotations

import json

import pytest

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.generation import GenerationRequest, Piece, Token, parse_piece, parse_request

SECRET = "the prompt that nobody else may see"


def piece_with(**parts: str) -> bytes:
    """JSON of a piece with one token; each part is given as JSON itself."""
    tree = {"t": "[1]", "s": '"a"', **parts}
    return ("{" + ",".join(f'"{key}":{value}' for key, value in tree.items()) + "}").encode()


def test_a_piece_comes_back() -> None:
    tokens = (Token(7, -1_000_000, ((7, "a", -1_000_000), (9, "é", -2_000_000))), Token(2**31 - 1, -5, ()))
    for piece in (
        Piece(tokens, "aé", "stop", 12, 4),
        Piece((Token(0),), "", None),
        Piece((), "", "caller", 0),
    ):
        assert parse_piece(piece.encode()) == piece
    assert parse_piece(piece_with(n="[3,1,9]", x="{}")).prompt_tokens == 3, "what is not known is ignored"


@pytest.mark.parametrize(
    "parts",
    [
        {"n": "[Infinity,0]"},
        {"n": "[1,1e999]"},
        {"n": "[NaN,0]"},
        {"n": "[-1,0]"},
        {"n": "[true,0]"},
        {"n": '["1",0]'},
        {"n": "[1048577,0]"},
        {"n": "[1]"},
        {"n": "[1,null]"},
        {"n": "7"},
        {"t": "[1e999]"},
        {"t": "[-1]"},
        {"t": "[2147483648]"},
        {"t": "[true]"},
        {"t": "1"},
        {"s": "1"},
        {"s": '"\\ud800"'},
        {"f": '"never"'},
        {"f": '["stop"]'},
        {"l": "[-1,-1]"},
        {"l": "[-1.5]"},
        {"l": "[-Infinity]"},
        {"l": f"[{'9' * 4000}]"},
        {"l": "[-1]", "p": '[[[1e999,"a",1]]]'},
        {"l": "[-1]", "p": '[[[1,"a",Infinity]]]'},
        {"l": "[-1]", "p": f'[[[1,"a",{"9" * 400}]]]'},
        {"l": "[-1]", "p": '[[[1,["a"],1]]]'},
        {"l": "[-1]", "p": '[[[1,"\\ud800",1]]]'},
        {"l": "[-1]", "p": '[[[1,"a"]]]'},
        {"l": "[-1]", "p": "[[1]]"},
        {"l": "[-1]", "p": "[1]"},
        {"l": "[-1]", "p": "[" + json.dumps([[1, "a", -1]] * 21) + "]"},
    ],
    ids=lambda parts: " ".join(f"{key}={value[:24]}" for key, value in parts.items()),
)
def test_what_is_no_piece_is_one_kind_of_error(parts: dict[str, str]) -> None:
    with pytest.raises(ExecutionError) as caught:
        parse_piece(piece_with(**parts))
    assert caught.value.code == "OUTPUT"


def test_a_request_comes_back() -> None:
    request = GenerationRequest(
        messages=({"role": "user", "content": SECRET},),
        temperature=0.5,
        stop=("a", "b"),
        logprobs=0,
        resume=(1, 2),
        json_schema={"type": "object"},
    )
    assert parse_request(request.encode().decode()) == request
    assert parse_request('{"prompt":"a"}') == GenerationRequest(prompt="a")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"prompt":"a","messages":[{"role":"user"}]}',
        '{"messages":[{"content":"a"}]}',
        '{"prompt":"a","tools":[{}]}',
        '{"prompt":"a","json_schema":{},"regex":"a"}',
        '{"prompt":"a","max_tokens":0}',
        '{"prompt":"a","max_tokens":true}',
        '{"prompt":"a","temperature":NaN}',
        '{"prompt":"a","temperature":Infinity}',
        '{"prompt":"a","top_p":1.5}',
        '{"prompt":"a","seed":-1}',
        '{"prompt":"a","stop":[""]}',
        '{"prompt":"a","stop":["' + "a" * 257 + '"]}',
        '{"prompt":"a","resume":[-1]}',
        '{"prompt":"a","nothing":1}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:30],
)
def test_what_is_no_request_is_told_without_quoting_it(text: str) -> None:
    with pytest.raises(ExecutionError) as caught:
        parse_request(text)
    assert caught.value.code == "INPUT"


def test_what_was_asked_and_said_is_in_no_repr() -> None:
    said = {"role": "user", "content": SECRET}
    for request in (
        GenerationRequest(prompt=SECRET, stop=(SECRET,), regex=SECRET, resume=(417,)),
        GenerationRequest(messages=(said,), tools=({"name": SECRET},), json_schema={SECRET: {}}),
    ):
        assert SECRET not in repr(request)
        assert "417" not in repr(request)
    assert "417" not in repr(Piece((Token(417),), SECRET))
    assert SECRET not in repr(Piece((Token(417),), SECRET))
