"""A node's configuration: node.toml, its keys with their bounds and explanations, and the errors an operator gets.

The sections and their keys are in `config_sections`. Precedence: command line, then node.toml, then the defaults here.
"""

# ruff: noqa: RUF009 -- the sections are frozen dataclasses
from __future__ import annotations

import difflib
import json
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

from cocoon_p2p.config_sections import (
    ClientSection,
    ExecutionSection,
    IdentitySection,
    IdleSection,
    LogSection,
    MarketSection,
    ModelsSection,
    NetworkSection,
    NodeSection,
    ProviderSection,
    Rule,
    SettlementSection,
    problem_of_dial_address,
    problem_of_listen_address,
)
from cocoon_p2p.config_upstream import UPSTREAM_ABOUT, UpstreamSection
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, MIB, NAME_CHARS_MAX, UPSTREAM_ENTRIES_MAX

__all__ = [
    "ClientSection",
    "NetworkSection",
    "NodeConfig",
    "NodeSection",
    "ProviderSection",
    "UpstreamSection",
    "default_toml",
    "load_config",
    "parse_config",
    "problem_of_dial_address",
    "problem_of_listen_address",
    "render_toml",
]

CONFIG_BYTES_MAX = MIB
"""A node.toml with every list full is below 100 KB."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The whole of node.toml, checked. `replace` of dataclasses changes parts of it in code."""

    node: NodeSection = NodeSection()
    identity: IdentitySection = IdentitySection()
    network: NetworkSection = NetworkSection()
    provider: ProviderSection = ProviderSection()
    idle: IdleSection = IdleSection()
    client: ClientSection = ClientSection()
    market: MarketSection = MarketSection()
    models: ModelsSection = ModelsSection()
    execution: ExecutionSection = ExecutionSection()
    upstream: tuple[UpstreamSection, ...] = field(
        default=(), metadata={"each": UpstreamSection, "about": UPSTREAM_ABOUT}
    )
    settlement: SettlementSection = SettlementSection()
    log: LogSection = LogSection()

    def as_client(self, bootstrap: Sequence[str] = ()) -> NodeConfig:
        """The same node for a single question of ours: it serves nothing, accepts no connections, keeps nobody's
        records, relays for nobody, and enters the network by `bootstrap` too."""
        network = replace(self.network, listen=(), announce_addresses=(), dht_mode="client", relay="off")
        return replace(self, provider=replace(self.provider, serve=False), network=network).with_entries(bootstrap)

    def with_entries(self, bootstrap: Sequence[str]) -> NodeConfig:
        """The same with more addresses to enter the network by, whichever network it is."""
        network = replace(
            self.network,
            bootstrap=tuple(dict.fromkeys((*bootstrap, *self.network.bootstrap))),
            private_bootstrap=tuple(dict.fromkeys((*bootstrap, *self.network.private_bootstrap))),
        )
        return replace(self, network=network)


def load_config(path: Path | None, home: Path | None = None) -> NodeConfig:
    """The configuration in `path`; without one, in `home`/node.toml when that exists; else the defaults.

    Raises ConfigError that names file, section and key, says what was found, and what would be right."""
    if path is None:
        if home is None or not (home / "node.toml").exists():
            return NodeConfig()
        path = home / "node.toml"
    try:
        with path.open("rb") as file:
            raw = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    if len(raw) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{path} is larger than {CONFIG_BYTES_MAX} bytes: that is no configuration of a node")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text") from error
    return parse_config(text, str(path), folder=path.parent)


def parse_config(text: str, source: str, *, folder: Path | None = None) -> NodeConfig:
    """Check TOML text. `source` names it in errors; file names in it are relative to `folder`. Raises ConfigError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not TOML: {error}") from error
    sections = {section.name: section for section in fields(NodeConfig)}
    parsed: dict[str, Any] = {}
    for name, table in document.items():
        if name not in sections:
            raise _unknown(source, name, isinstance(table, dict))
        each = sections[name].metadata.get("each")
        if each is not None:
            parsed[name] = _parse_tables(each, name, table, source)
            continue
        if not isinstance(table, dict):
            raise ConfigError(f"{source}: {name} is a section: write its keys under a line [{name}]")
        parsed[name] = _parse_section(type(sections[name].default), f"[{name}]", table, source)
    config = NodeConfig(**parsed)
    return config if folder is None else _with_absolute_files(config, folder)


def default_toml() -> str:
    """A node.toml that says what the defaults say, every key with its explanation."""
    return render_toml(NodeConfig())


def render_toml(config: NodeConfig) -> str:
    """`config` as the text of a node.toml, every key with its explanation. Parsing it gives `config` again."""
    lines = ["# Configuration of a cocoon_p2p node. Amounts are nanogram: 1 GRAM = 1,000,000,000 nanogram."]
    for name, section, rules in _sections(config):
        for table in section if isinstance(section, tuple) else (section,):
            lines += ["", *_rendered(f"[[{name}]]" if isinstance(section, tuple) else f"[{name}]", table, rules)]
        if section == ():
            lines += ["", *_commented_example(name, rules)]
    return "\n".join(lines) + "\n"


def _rendered(head: str, table: Any, rules: list[tuple[str, Rule]]) -> Iterator[str]:
    yield head
    for each, rule in rules:
        yield from textwrap.wrap(
            _explained(rule), 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
        )
        yield f"{each} = {_toml_value(getattr(table, each))}"


def _commented_example(name: str, rules: list[tuple[str, Rule]]) -> Iterator[str]:
    """One of the tables [[name]] with what it must have, the rest as by default."""
    (about,) = [section.metadata for section in fields(NodeConfig) if section.name == name]
    yield from textwrap.wrap(about["about"], 100, initial_indent="# ", subsequent_indent="# ")
    example = about["each"](**{each: rule.example for each, rule in rules if rule.example})
    yield from (f"# {line}" for line in _rendered(f"[[{name}]]", example, rules))


def _sections(config: NodeConfig) -> Iterator[tuple[str, Any, list[tuple[str, Rule]]]]:
    for section in fields(config):
        value = getattr(config, section.name)
        kind = section.metadata.get("each") or value
        yield section.name, value, [(each.name, _rule(each)) for each in fields(kind)]


def _rule(of: Field[Any]) -> Rule:
    return cast(Rule, of.metadata["rule"])


def _explained(rule: Rule) -> str:
    if rule.choices:
        return f"{rule.explanation} One of: {', '.join(rule.choices)}."
    if rule.low is not None and rule.high is not None and rule.high < AMOUNT_NANOGRAM_MAX:
        return f"{rule.explanation} From {rule.low:,} to {rule.high:,}."
    return rule.explanation


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _parse_section(section: type[Any], head: str, table: dict[str, Any], source: str) -> Any:
    """`head` is how errors name it, such as [log]."""
    known = {each.name: each for each in fields(section)}
    values: dict[str, Any] = {}
    for each, value in table.items():
        where = f"{source}: {head} {each}"
        if each not in known:
            raise _unknown_key(where, each, head, known)
        values[each] = _checked(value, known[each].default, _rule(known[each]), where)
    return section(**values)


def _parse_tables(section: type[Any], name: str, tables: Any, source: str) -> tuple[Any, ...]:
    """Tables that may stand several times: [[name]]. Raises ConfigError."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{source}: {name} may stand several times: write its keys under a line [[{name}]]")
    if len(tables) > UPSTREAM_ENTRIES_MAX:
        raise ConfigError(f"{source}: got {len(tables)} tables [[{name}]]; at most {UPSTREAM_ENTRIES_MAX} are allowed")
    parsed = []
    for number, table in enumerate(tables, 1):
        head = _table_head(name, table, number if len(tables) > 1 else None)
        for each in fields(section):
            if _rule(each).needed and table.get(each.name, "") == "":
                raise ConfigError(f"{source}: {head} {each.name} is missing: {_rule(each).explanation}")
        parsed.append(_parse_section(section, head, table, source))
    return tuple(parsed)


def _table_head(name: str, table: dict[str, Any], number: int | None) -> str:
    """How errors name one of the tables [[name]]: by its number, where there are several, and by its own name."""
    own = table.get("name")
    called = f' "{own[:NAME_CHARS_MAX]}"' if isinstance(own, str) and own and own.isprintable() else ""
    return f"[[{name}{'' if number is None else f' {number}'}{called}]]"


def _checked(value: Any, default: Any, rule: Rule, where: str) -> Any:
    """`value` in the type of `default`, or ConfigError."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    wanted = list if isinstance(default, tuple) else type(default)
    if type(value) is not wanted:
        raise ConfigError(f"{where}: got {_shown(value)}; {_wanted(default, rule)}")
    if isinstance(value, list):
        if len(value) > rule.entries_max:
            raise ConfigError(f"{where}: got {len(value)} entries; at most {rule.entries_max} are allowed")
        _check_entries(value, rule, where)
        usual = default[0] if default else ""
        return tuple(_checked(entry, usual, rule, f"{where}[{i}]") for i, entry in enumerate(value))
    if isinstance(value, str):
        _check_text(value, rule, where)
    elif rule.low is not None and rule.high is not None and not rule.low <= value <= rule.high:
        raise ConfigError(f"{where}: got {value:,}; it must be from {rule.low:,} to {rule.high:,}")
    return value


def _check_entries(entries: list[Any], rule: Rule, where: str) -> None:
    if len(entries) < rule.entries_min:
        some = f"; one or more of {', '.join(rule.choices)}" if rule.choices else ""
        raise ConfigError(f"{where}: got an empty list{some}" + (f", or {rule.instead}" if rule.instead else ""))
    for i, entry in enumerate(entries):
        if isinstance(entry, str) and not entry.strip():
            raise ConfigError(f"{where}[{i}]: got an empty text; leave it out")
        if entry in entries[:i]:
            raise ConfigError(f"{where}[{i}]: {_shown(entry)} stands there twice")


def _check_text(value: str, rule: Rule, where: str) -> None:
    if rule.choices and value not in rule.choices:
        hint = _did_you_mean(value, rule.choices)
        raise ConfigError(f"{where}: got {value!r}; it must be one of {', '.join(rule.choices)}", hint=hint)
    if rule.high is not None and len(value) > rule.high:
        raise ConfigError(f"{where}: got {len(value)} characters; at most {rule.high} are allowed")
    if not value.isprintable():
        raise ConfigError(f"{where}: got {_toml_value(value)[:60]}, which has characters that cannot be shown")
    problem = rule.check(value) if rule.check else None
    if problem:
        raise ConfigError(f"{where}: {problem}")


def _shown(value: Any) -> str:
    names = {
        bool: "true or false",
        int: "an integer",
        float: "a decimal number",
        str: "a text",
        list: "a list",
        dict: "a section",
    }
    text = _toml_value(value) if isinstance(value, bool | str) else str(value)
    return f"{text[:60]} ({names.get(type(value), 'a date')})"


def _wanted(default: Any, rule: Rule) -> str:
    if isinstance(default, bool):
        return "it must be true or false"
    if isinstance(default, int | float):
        kind = "a whole number" if isinstance(default, int) else "a number"
        return f"it must be {kind} from {rule.low:,} to {rule.high:,}, without quotes"
    if isinstance(default, tuple):
        return f"it must be a list of texts, such as {_toml_value(default or (rule.example or '…',))}"
    text = default or rule.example or next(iter(rule.choices), "")
    return "it must be a text in quotes" + (f", such as {_toml_value(text)}" if text else "")


def _unknown(source: str, name: str, is_section: bool) -> ConfigError:
    sections = [section.name for section in fields(NodeConfig)]
    heads = [_head(section) for section in fields(NodeConfig)]
    what = f"section [{name}]" if is_section else f"key {name!r} outside a section"
    home = _section_of(name)
    hint = f"{name} belongs under {home}" if home else _did_you_mean(name, sections)
    return ConfigError(f"{source}: there is no {what}", hint=hint or f"the sections are {', '.join(heads)}")


def _unknown_key(where: str, name: str, head: str, known: dict[str, Field[Any]]) -> ConfigError:
    home = _section_of(name)
    hint = f"{name} belongs under {home}" if home else _did_you_mean(name, known)
    return ConfigError(f"{where}: there is no such key", hint=hint or f"the keys of {head} are {', '.join(known)}")


def _section_of(name: str) -> str | None:
    """The section that has a key of this name, as it stands in the file."""
    heads = {section.name: _head(section) for section in fields(NodeConfig)}
    for section, _, rules in _sections(NodeConfig()):
        if any(each == name for each, _ in rules):
            return heads[section]
    return None


def _head(section: Field[Any]) -> str:
    return f"[[{section.name}]]" if section.metadata.get("each") else f"[{section.name}]"


def _did_you_mean(name: str, known: Any) -> str | None:
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else None


def _with_absolute_files(config: NodeConfig, folder: Path) -> NodeConfig:
    def absolute(text: str) -> str:
        return str((folder / Path(text).expanduser()).absolute()) if text else text

    models = tuple(absolute(model) if "/" in model else model for model in config.provider.models)
    return replace(
        config,
        provider=replace(config.provider, models=models),
        node=replace(config.node, home=absolute(config.node.home)),
        upstream=tuple(replace(each, api_key_file=absolute(each.api_key_file)) for each in config.upstream),
        identity=replace(config.identity, passphrase_file=absolute(config.identity.passphrase_file)),
    )
