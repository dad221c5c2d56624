"""Chat templates: what a list of messages is as one text, told by the model in Jinja.

As the library transformers renders them (blocks trimmed, `tojson` without escapes for HTML, `raise_exception`, `strftime_now`,
`{% generation %}`), in Jinja's sandbox. A template comes with the model and may be hostile; messages are strangers'.
"""

from __future__ import annotations

import encodings.unicode_escape  # noqa: F401
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2.debug  # noqa: F401 - both are loaded when they are needed first, which in the worker's jail would be too late
from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.limits import GENERATION_PROMPT_CHARS_MAX

_RENDER_ERRORS = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
    AssertionError,
)
_REASON_CHARS_MAX = 200


class ChatTemplate:
    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        """Raises ValueError for a text that is not a template."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Marked]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_raise, strftime_now=_now)
        try:
            self._template = environment.from_string(source)
        except _RENDER_ERRORS as error:
            raise ValueError(f"the chat template cannot be read: {type(error).__name__}") from error
        self._marks = {"bos_token": bos, "eos_token": eos}

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
        """The prompt, up to where the answer begins. Raises ExecutionError(code="INPUT") that does not quote the messages."""
        given = {
            "messages": [dict(message) for message in messages],
            "tools": [dict(tool) for tool in tools] or None,
            "documents": None,
            "add_generation_prompt": True,
            **self._marks,
        }
        parts, size = [], 0
        try:
            for part in self._template.generate(given):
                size += len(part)
                if size > GENERATION_PROMPT_CHARS_MAX:
                    raise _Refused(f"it makes more than {GENERATION_PROMPT_CHARS_MAX} characters of it")
                parts.append(part)
        except _Refused as refusal:
            text = f"the model's chat template does not take this chat: {refusal.message or 'no reason given'}"
            raise ExecutionError(text, code="INPUT") from None
        except _RENDER_ERRORS as error:  # whose text may quote the chat
            text = f"the model's chat template cannot be filled with this chat ({type(error).__name__})"
            hint = 'messages mostly need "role" and "content", in turns of user and assistant'
            raise ExecutionError(text, code="INPUT", hint=hint) from None
        return "".join(parts)


class _Refused(TemplateError):
    pass


def _raise(message: object) -> NoReturn:
    """`raise_exception`: the template's own words. It could put the chat in them, so they are shortened."""
    raise _Refused(" ".join(str(message).split())[:_REASON_CHARS_MAX])


def _now(format_: object) -> str:
    """`strftime_now`, in UTC: where the provider lives is its own affair."""
    return time.strftime(str(format_)[:_REASON_CHARS_MAX], time.gmtime())


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """`tojson` without the escapes for HTML that Jinja's own makes: models were not trained on these."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Marked(Extension):
    """`{% generation %}…{% endgeneration %}` marks for training what the assistant says; here it is just that."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body
