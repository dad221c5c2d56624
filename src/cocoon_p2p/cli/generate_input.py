"""What `cocoon-node generate` asks for, from its arguments and the files that they name."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from cocoon_p2p.cli.run import limits_head
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import GENERATION_REQUEST_BYTES_MAX


def generate_head(options: argparse.Namespace) -> dict[str, Any]:
    """The body of `POST /v1/generate`; what was not given is left to the node. Raises ConfigError."""
    if options.json_schema and options.regex:
        raise ConfigError("give either --json-schema or --regex")
    given = {
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "seed": options.seed,
        "stop": options.stop or None,
        "logprobs": options.logprobs,
        "regex": options.regex,
        "json_schema": _json_file(options.json_schema, "--json-schema", dict),
        "tools": _json_file(options.tools, "--tools", list),
    }
    head = limits_head(options) | {key: value for key, value in given.items() if value is not None}
    return head | _question(options)


def _question(options: argparse.Namespace) -> dict[str, Any]:
    """A prompt, or messages."""
    prompt = _prompt(options.prompt)
    if options.raw:
        if options.chat or options.system or options.tools:
            raise ConfigError("--raw takes the prompt as it is: leave out --chat, --system and --tools")
        if prompt is None:
            raise ConfigError(
                "a prompt is needed", hint='cocoon-node generate MODEL "…"; - reads it from standard input'
            )
        return {"prompt": prompt, "raw": True}
    messages = _chat(options.chat)
    if options.system is not None:
        messages = [{"role": "system", "content": options.system}, *messages]
    if prompt is not None and not messages and not options.tools:
        return {"prompt": prompt}
    if prompt is not None:
        messages.append({"role": "user", "content": prompt})
    if not options.chat and prompt is None:
        raise ConfigError("a prompt is needed", hint='cocoon-node generate MODEL "…"; - reads it from standard input')
    return {"messages": messages}


def _prompt(given: str | None) -> str | None:
    if given != "-":
        return given
    try:
        return sys.stdin.read(GENERATION_REQUEST_BYTES_MAX + 1)
    except UnicodeDecodeError as error:
        raise ConfigError("standard input is no text in UTF-8") from error


def _chat(name: str | None) -> list[Any]:
    """A list of messages, or an object that has it as "messages", which is how requests to other servers look."""
    if name is None:
        return []
    value = _json_file(name, "--chat", (list, dict))
    messages = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(messages, list) or not messages:
        raise ConfigError(f'--chat: {name} must hold a list of messages: [{{"role": "user", "content": "…"}}]')
    return messages


def _json_file(name: str | None, option: str, kind: type | tuple[type, ...]) -> Any:
    if name is None:
        return None
    try:
        with open(Path(os.path.expanduser(name)), "rb") as file:
            content = file.read(GENERATION_REQUEST_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{option}: cannot read {name}: {error.strerror or error}") from error
    if len(content) > GENERATION_REQUEST_BYTES_MAX:
        raise ConfigError(f"{option}: {name} has more than {GENERATION_REQUEST_BYTES_MAX:,} bytes")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{option}: {name} is not JSON: {error}") from error
    if not isinstance(value, kind):
        wanted = "an object" if kind is dict else "a list" if kind is list else "a list or an object"
        raise ConfigError(f"{option}: {name} must hold {wanted}")
    return value
