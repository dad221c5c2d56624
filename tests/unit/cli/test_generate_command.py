"""What `cocoon-node generate` asks for, and what people see of the answer."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import pytest

from cocoon_p2p.cli import generate
from cocoon_p2p.cli.generate import Shown
from cocoon_p2p.cli.generate_input import generate_head
from cocoon_p2p.cli.generate_text import TextOut, harmless
from cocoon_p2p.cli.parser import parse
from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.gateway.generate_json import generate_request

PEER = "12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N"
USAGE = {"prompt_tokens": 7, "reused_tokens": 0, "completion_tokens": 3}
RESULT: dict[str, Any] = {
    "job_id": "ab" * 16, "model_id": "cd" * 32, "provider": PEER, "text": "Hi you", "finish": "stop", "usage": USAGE,
    "price_nanogram": 110_000, "attempts": [], "first_token_s": 0.25, "tokens_s": 40.0,
}  # fmt: skip
LINES: list[dict[str, Any]] = [
    {"start": {"job_id": "ab" * 16}},
    {"piece": {"text": "Hi", "tokens": [{"id": 5}]}},
    {"piece": {"text": " you", "tokens": [{"id": 6}, {"id": 7}]}},
    {"result": RESULT},
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def options(*arguments: str) -> argparse.Namespace:
    return parse(["generate", "writer", *arguments])


def head(*arguments: str) -> dict[str, Any]:
    made = generate_head(options(*arguments))
    generate_request(made)  # which checks it
    return made


def test_a_prompt_alone_is_left_to_the_node() -> None:
    assert head("Why?") == {"model": "writer", "prompt": "Why?"}


def test_all_that_can_be_asked_for(tmp_path: Path) -> None:
    schema, tools = tmp_path / "schema.json", tmp_path / "tools.json"
    schema.write_text('{"type": "object"}')
    tools.write_text('[{"type": "function", "function": {"name": "f"}}]')
    made = head(
        "Why?", "--system", "Be brief.", "--max-tokens", "9", "--temperature", "0.5", "--top-p", "0.9", "--top-k", "4",
        "--seed", "3", "--stop", "\n", "--stop", "END", "--json-schema", str(schema), "--tools", str(tools),
        "--logprobs", "0", "--max-price", "5", "--tier", "open", "--timeout", "7", "--provider", PEER,
    )  # fmt: skip
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert made == {
        "model": "writer", "messages": said, "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 4, "seed": 3,
        "stop": ["\n", "END"], "json_schema": {"type": "object"}, "tools": json.loads(tools.read_text()), "logprobs": 0,
        "max_price": 5, "tier": "open", "timeout_s": 7.0, "provider": PEER,
    }  # fmt: skip


def test_a_chat_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for content in (said, {"messages": said}):
        file.write_text(json.dumps(content))
        assert head("--chat", str(file))["messages"] == said
        assert head("c", "--chat", str(file))["messages"] == [*said, {"role": "user", "content": "c"}]


def test_a_prompt_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("two\nlines\n"))
    assert head("-", "--raw") == {"model": "writer", "prompt": "two\nlines\n", "raw": True}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "prompt is needed"),
        (("--raw",), "prompt is needed"),
        (("x", "--raw", "--system", "y"), "--raw"),
        (("x", "--regex", "a", "--json-schema", "b"), "either --json-schema or --regex"),
        (("x", "--json-schema", "/none"), "/none"),
        (("x", "--chat", "/dev/null"), "not JSON"),
    ],
)
def test_what_is_wrong_is_named(arguments: tuple[str, ...], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        generate_head(options(*arguments))


@pytest.mark.parametrize("wrong", [("--max-tokens", "0"), ("--temperature", "3"), ("--seed", "-1"), ("--top-p", "x")])
def test_numbers_out_of_bounds(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options("x", *wrong)
    assert wrong[0] in capsys.readouterr().err


def test_nothing_of_a_model_moves_a_cursor() -> None:
    said = "\x1b]0;owned\x07a\rb\x9b2J\u202ec\u2066d\n\té\u200d\U0001f469 \x7f\x00"
    shown = harmless(said)
    assert "\x1b" not in shown and not set(shown) & {"\x07", "\r", "\x9b", "\u202e", "\u2066", "\x7f", "\x00"}
    assert shown.endswith("d\n\té\u200d\U0001f469 \ufffd\ufffd")
    assert len(shown) == len(said)
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        out = TextOut(stream)
        out.write(said)
        out.end_line()
        out.end_line()
    assert terminal.getvalue() == shown + "\n"
    assert pipe.getvalue() == said + "\n", "a file gets what the model said"


def shown(lines: list[dict[str, Any]], *arguments: str, stopped: bool = False) -> None:
    what = Shown(options("x", *arguments))
    what.stopped = stopped
    for line in lines:
        what.line(line)


def test_text_on_stdout_and_a_summary_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ((), ("--stream",)):
        shown(LINES, *arguments)
        out, err = capsys.readouterr()
        assert out == "Hi you\n"
        assert "3 tokens at 40.0/s, the first after 0.25 s, 0.00011 GRAM" in err
        assert "by 12D3…Dz8e6N" in err


def test_pieces_are_shown_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    shown(LINES[:2], "--stream")
    assert capsys.readouterr().out == "Hi"
    shown(LINES[:2], "--no-stream")
    assert capsys.readouterr().out == ""


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    shown(LINES, "--json")
    out, err = capsys.readouterr()
    assert json.loads(out) == RESULT | {"tokens": [{"id": 5}, {"id": 6}, {"id": 7}]}
    assert err == ""
    shown(LINES, "--json", "--stream")
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == LINES


def test_an_answer_that_was_stopped_or_broke_off(capsys: pytest.CaptureFixture[str]) -> None:
    shown(LINES, stopped=True)
    assert "stopped; what came is paid: 3 tokens" in capsys.readouterr().err
    broken = {"error": {"code": "TIMEOUT", "message": "too late", "hint": None, "retryable": True}, "result": RESULT}
    with pytest.raises(CocoonError, match="too late"):
        shown([*LINES[:3], broken], "--stream")
    out, err = capsys.readouterr()
    assert out == "Hi you\n"
    assert "broken off: 3 tokens" in err


def test_what_else_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    odd = RESULT | {"finish": "length", "attempts": [{"provider": PEER}], "tokens_s": None}
    shown([{"result": odd}])
    err = capsys.readouterr().err
    assert "after 1 other failed, cut off where the context of the model ends" in err
    shown([{"result": odd}], "--max-tokens", "3")
    assert "cut off at --max-tokens" in capsys.readouterr().err
    assert generate.STATUS_INTERRUPTED == 130
