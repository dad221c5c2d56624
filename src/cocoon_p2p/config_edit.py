"""Adds addresses to a node.toml that people wrote in, and leaves everything else in it as it stands, comments included."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cocoon_p2p.config import NodeConfig, load_config, parse_config
from cocoon_p2p.errors import ConfigError

_SECTION = re.compile(r"^\s*\[network\]\s*(#.*)?$", re.M)
_NEXT_SECTION = re.compile(r"^\s*\[", re.M)
# what a value of a list of texts consists of: strings of both kinds, comments, and everything else
_TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*|.', re.S)


def add_bootstrap(file: Path, addresses: Sequence[str], *, private: bool) -> list[str]:
    """Write those of `addresses` that are new into [network] bootstrap (private_bootstrap) of `file`; the new ones.
    Raises ConfigError, having changed nothing: the file cannot be read, written or extended."""
    config = load_config(file)
    known = config.network.entries(private=private)
    added = [address for address in dict.fromkeys(addresses) if address not in known]
    if not added:
        return []
    name = "private_bootstrap" if private else "bootstrap"
    text = file.read_bytes().decode()  # with the line ends that it has
    changed = with_list(text, name, (*known, *added))
    _require_same(parse_config(text, str(file)), parse_config(changed, str(file)), name, (*known, *added), file)
    _write(file.resolve(), changed)
    return added


def with_list(text: str, key: str, entries: Sequence[str]) -> str:
    """TOML text in which `key` of [network] is this list. What was within its brackets goes, comments there too."""
    section = _SECTION.search(text)
    value = f"{key} = {_toml_list(entries)}"
    if section is None:
        return f"{text.rstrip()}\n\n[network]\n{value}\n".lstrip()
    following = _NEXT_SECTION.search(text, section.end())
    end = following.start() if following else len(text)
    found = re.compile(rf"^[ \t]*{key}[ \t]*=[ \t]*(?=\[)", re.M).search(text, section.end(), end)
    if found is None:
        return f"{text[: section.end()]}\n{value}{text[section.end() :]}"
    return text[: found.start()] + value + text[_end_of_list(text, found.end()) :]


def _end_of_list(text: str, start: int) -> int:
    """Behind the bracket that closes the one at `start`."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        depth += {"[": 1, "]": -1}.get(token[0], 0)
        if not depth:
            return token.end()
    return len(text)


def _toml_list(entries: Sequence[str]) -> str:
    if len(entries) < 2:
        return json.dumps(list(entries), ensure_ascii=False)
    return "[\n" + "".join(f"    {json.dumps(entry, ensure_ascii=False)},\n" for entry in entries) + "]"


def _require_same(old: NodeConfig, new: NodeConfig, key: str, entries: tuple[str, ...], file: Path) -> None:
    """Raises ConfigError when the text does not say what it should: then somebody must write it who understands it."""
    changes: dict[str, Any] = {key: entries}
    if new != replace(old, network=replace(old.network, **changes)):
        raise ConfigError(
            f"{file} is written in a way that this program cannot extend",
            hint=f"add to [network] {key} by hand: {', '.join(entries)}",
        )


def _write(file: Path, text: str) -> None:
    """Whole or not at all, with the rights that the file had."""
    temporary = file.with_name(f".{file.name}.new")
    try:
        temporary.write_bytes(text.encode())
        temporary.chmod(file.stat().st_mode & 0o777)
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {file}: {error.strerror}") from error
