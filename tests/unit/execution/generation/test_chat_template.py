"""Chat templates: as transformers renders them, and what a hostile one or a wrong chat comes to."""

from __future__ import annotations

import re

import pytest

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.generation.chat_template import ChatTemplate
from cocoon_p2p.limits import GENERATION_PROMPT_CHARS_MAX
from cocoon_p2p.testing.tiny_genai import TEMPLATE

CHAT = ({"role": "system", "content": "Be <brief> & kind"}, {"role": "user", "content": "Hello"})
SECRET = ({"role": "user", "content": "my secret"},)


def render(source: str, messages: object = CHAT, tools: object = ()) -> str:
    return ChatTemplate(source, bos="<s>", eos="</s>").render(messages, tools)  # type: ignore[arg-type]


def test_blocks_are_trimmed_and_marks_are_known() -> None:
    source = """{{ bos_token }}
{% for message in messages %}
    {% if message.role == 'user' %}
[{{ message['content'] | trim }}]{{ eos_token }}
    {% else %}
{{ message.content }}
    {% endif %}
{% endfor %}
{%- if add_generation_prompt %}>{% endif %}
{% if tools is none %}no tools{% endif %}"""
    assert render(source) == "<s>\nBe <brief> & kind\n[Hello]</s>\n>no tools"


def test_tools_are_json_as_models_know_it() -> None:
    tools = ({"name": "weather", "description": "It's <where>, Zürich"},)
    assert render("{{ tools | tojson }}", tools=tools) == (
        '[{"name": "weather", "description": "It\'s <where>, Zürich"}]'
    )
    assert '\n    "name"' in render("{{ tools[0] | tojson(indent=4) }}", tools=tools)
    assert "<|system|>tools: [{" in render(TEMPLATE, tools=tools)


def test_loops_break_and_spans_are_marked() -> None:
    assert render("{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{% break %}{% endfor %}") == (
        "system"
    )


def test_the_date_is_told() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", render("{{ strftime_now('%Y-%m-%d') }}"))


def test_a_template_may_refuse_a_chat_and_says_why() -> None:
    with pytest.raises(ExecutionError, match=r"does not take this chat: roles must\s+alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.code == "INPUT"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content.nothing.at.all }}",
        "{{ messages[0].content + 5 }}",
        "{{ messages[5]['content'] + 'x' }}",
        "{{ 1 / 0 }}",
        "{{ 5 + messages[0]['content'] }}",
        "{{ messages.append('x') }}",
        "{{ messages[0].content.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__()[messages[0].content] }}",
        "{% for a in range(999999999) %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ '%s' | format(messages[0].content, 1) }}",
    ],
)
def test_a_template_that_fails_says_nothing_of_the_chat(source: str) -> None:
    with pytest.raises(ExecutionError) as caught:
        render(source, SECRET)
    assert caught.value.code == "INPUT"
    assert "secret" not in caught.value.message
    assert caught.value.__cause__ is None


def test_output_is_bounded() -> None:
    with pytest.raises(ExecutionError, match=f"more than {GENERATION_PROMPT_CHARS_MAX} characters"):
        render("{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}")


def test_what_is_no_template_is_told_at_once() -> None:
    for source in ("{% if %}", "{{", "{% endfor %}", "{% include 'x' %}{% nonsense %}"):
        with pytest.raises(ValueError, match="cannot be read"):
            ChatTemplate(source, bos="", eos="")
