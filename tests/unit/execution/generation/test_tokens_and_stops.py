"""Text from tokens, one at a time."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from generation_rig import special, text_ids, tiny
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.generation.stops import AnswerText, StopFinder
from cocoon_p2p.execution.generation.tokens import Detokenizer, TokenCodec


@cache
def codec() -> TokenCodec:
    return TokenCodec(tiny() / "tokenizer.json")


def codec_of(vocab: list[str], decoder: Any, **more: Any) -> TokenCodec:
    path = Path(mkdtemp(prefix="codec-")) / "tokenizer.json"
    tree = {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": decoder,
        "model": {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(vocab)}, "unk_token": vocab[0]},
    }
    path.write_text(json.dumps(tree | more))
    return TokenCodec(path)


def shown(tokens: list[int], of: TokenCodec | None = None) -> list[str]:
    detokenizer = Detokenizer(of or codec())
    return [detokenizer.add(token) for token in tokens]


@given(st.text(max_size=40))
def test_texts_come_back_and_no_character_is_torn(text: str) -> None:
    pieces = shown(text_ids(text))
    assert "".join(pieces) == text
    assert "\N{REPLACEMENT CHARACTER}" in text or not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@given(st.lists(st.integers(0, 270), max_size=30), st.integers(0, 30))
def test_the_text_of_some_tokens_is_the_same_whoever_made_the_ones_before(tokens: list[int], split: int) -> None:
    whole = shown(tokens)
    first, second = Detokenizer(codec()), Detokenizer(codec())
    before = [first.add(token) for token in tokens[:split]]
    for token in tokens[:split]:
        second.add(token)  # as one does who goes on behind another
    after = [second.add(token) for token in tokens[split:]]
    assert before + after == whole
    # Bytes that are no text become U+FFFD as the library has it, but for a beginning of a character at the very end.
    plain = bytes(token - 9 for token in tokens if 9 <= token < 265).decode(errors="replace")
    assert plain.startswith("".join(whole))
    assert len(plain) - len("".join(whole)) <= 3


def test_special_tokens_are_no_text() -> None:
    assert shown([special("bos"), *text_ids("a"), special("tool_call"), special("eos"), 999]) == ["", "a", "", "", ""]
    assert codec().text_of(special("eos")) == "<|eos|>"
    assert codec().text_of(text_ids("é")[0]) == "\N{REPLACEMENT CHARACTER}"
    assert codec().tool_marks == {special("tool_call")}


def test_sentence_pieces_keep_their_blanks_and_bytes() -> None:
    vocab = ["<unk>", "▁Hello", "▁wor", "ld", "<0xC3>", "<0xA9>", "<0x0A>", "▁"]
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoder = {"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]}
    pieces = shown([1, 2, 3, 4, 5, 7, 6], codec_of(vocab, decoder))
    assert pieces == [" Hello", " wor", "ld", "", "é", " ", "\n"]
    assert shown([1, 3], codec_of(vocab, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"})) == [
        " Hello",
        "ld",
    ]


def test_other_decoders_are_asked_what_a_token_adds() -> None:
    pieces = shown(
        [1, 2], codec_of(["[UNK]", "play", "##ing"], {"type": "WordPiece", "prefix": "##", "cleanup": False})
    )
    assert pieces[1] == "ing"


def test_a_prompt_is_neither_cut_nor_filled() -> None:
    assert len(codec_of(["a", "b"], None).encode("b " * 50, special=True)) == 50


def test_a_token_of_absurd_length_is_the_models_fault() -> None:
    with pytest.raises(ExecutionError) as caught:
        shown([1], codec_of(["a", "▁" * 10_000], {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}))
    assert caught.value.code == "MODEL"
    with pytest.raises(ExecutionError) as caught:
        codec().encode("\ud800", special=True)
    assert caught.value.code == "INPUT"


def found(text: str, stops: list[str], size: int = 1) -> tuple[str, bool]:
    finder = StopFinder(stops)
    given_out = ""
    for start in range(0, len(text), size):
        given_out += finder.add(text[start : start + size])
    return given_out + ("" if finder.found else finder.rest()), finder.found


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_texts_end_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    given_out, stopped = found(text, stops)
    assert stopped == bool(ends)
    if not ends:
        assert given_out == text
        return
    seen = text[: min(ends)]
    starts = [seen.find(stop) for stop in stops if stop in seen]
    assert given_out == text[: min(starts)]


def test_what_may_be_a_stop_string_waits() -> None:
    finder = StopFinder(["END", "\n\n"])
    assert [finder.add(part) for part in ("a", "\n", "b", "E", "N", "x", "EN", "D", "z")] == [
        "a", "", "\nb", "", "", "ENx", "", "", "",
    ]  # fmt: skip
    assert finder.found


def test_marks_of_tool_calls_are_part_of_the_text_where_tools_were_given() -> None:
    plain = AnswerText(codec(), ())
    marked = AnswerText(codec(), (), shown=codec().tool_marks)
    tokens = [*text_ids("a"), special("tool_call"), *text_ids("b"), special("eos")]
    assert "".join(plain.add(token) for token in tokens) == "ab"
    assert "".join(marked.add(token) for token in tokens) == "a<|tool_call|>b"


def test_the_first_of_several_stop_strings_counts() -> None:
    finder = StopFinder(["cd", "b", "d"])
    assert (finder.add("abcd"), finder.found, finder.rest()) == ("a", True, "")
