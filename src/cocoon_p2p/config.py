"""A node's configuration: node.toml, its keys with their bounds and explanations, and the errors an operator gets.

Each section is a frozen dataclass and each field carries its own explanation, so that the file `default_toml` writes,
the checks and the documentation cannot differ. Precedence: command line, then node.toml, then the defaults here.
"""

from __future__ import annotations

import difflib
import json
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import (
    AGENT_CHARS_MAX,
    AMOUNT_NANOGRAM_MAX,
    BATCH_ITEMS_MAX,
    ITEMS_PER_JOB_MAX,
    JOB_BYTES_IN_FLIGHT_MAX,
    JOB_BYTES_MAX,
    JOB_TIMEOUT_DEFAULT_S,
    JOB_TIMEOUT_MAX_S,
    JOBS_IN_ALL_MAX,
    MIB,
    MODELS_PER_ANNOUNCEMENT_MAX,
)
from cocoon_p2p.net.addresses import parse_address, parse_dialable

CONFIG_BYTES_MAX = MIB
"""A node.toml with every list full is below 100 KB."""
LISTEN_PORT = 4601
"""Unassigned at IANA. Fixed, so that the address others join by stays the same after a restart."""

Check = Callable[[str], str | None]


def problem_of_listen_address(text: str) -> str | None:
    """What is wrong with an address to listen on; None when it is right."""
    try:
        address = parse_address(text)
    except ValueError as error:
        return str(error)
    if address.peer is not None or address.kind.startswith("dns"):
        return f"{text!r} is no address to listen on; one looks like /ip4/0.0.0.0/tcp/{LISTEN_PORT}"
    return None


def problem_of_announced_address(text: str) -> str | None:
    """What is wrong with an address to announce, without a peer id; None when it is right."""
    try:
        address = parse_address(text)
    except ValueError as error:
        return str(error)
    if address.peer is not None or address.port == 0 or address.is_wildcard:
        return f"{text!r} cannot be dialled by others; one looks like /ip4/203.0.113.5/tcp/{LISTEN_PORT}"
    return None


def problem_of_dial_address(text: str) -> str | None:
    """What is wrong with an address to enter the network by, which has to name the peer that answers there."""
    try:
        address = parse_address(text)
    except ValueError as error:
        return str(error)
    if address.peer is None:
        return f"{text!r} must end in the peer id of the node there: …/p2p/12D3KooW…"
    if address.port == 0 or address.is_wildcard:
        return f"{text!r} is an address to listen on, not one to dial: the node's own `status` has those"
    return None


@dataclass(frozen=True, slots=True)
class Rule:
    """What a key may be. `check` returns what is wrong with one text, or None."""

    explanation: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    check: Check | None = None
    entries_max: int = 64


def key(default: bool | float | str | tuple[str, ...], explanation: str, **bounds: Any) -> Any:
    """A configuration key: a dataclass field with its rule. Its type is that of its default."""
    return field(default=default, metadata={"rule": Rule(explanation, **bounds)})


@dataclass(frozen=True, slots=True)
class NodeSection:
    agent: str = key(
        "cocoon-node", f"What this node calls itself in its announcements, at most {AGENT_CHARS_MAX} characters.",
        high=AGENT_CHARS_MAX,
    )  # fmt: skip
    home: str = key(
        "",
        "Folder of keys, models and databases, relative to this file; empty: ~/.cocoon. --home and COCOON_HOME go first.",
    )


@dataclass(frozen=True, slots=True)
class IdentitySection:
    passphrase_file: str = key(
        "",
        "File with the passphrase that the key files are encrypted with, relative to this file; empty: the environment "
        "variables COCOON_PASSPHRASE or COCOON_PASSPHRASE_FILE, and without those the keys are kept as plain files that "
        "only their owner can read.",
    )


@dataclass(frozen=True, slots=True)
class NetworkSection:
    listen: tuple[str, ...] = key(
        (f"/ip4/0.0.0.0/tcp/{LISTEN_PORT}",),
        "Addresses to accept connections on; tcp/0 takes any free port; an empty list accepts none (a client that only "
        "dials).",
        check=problem_of_listen_address,
    )
    bootstrap: tuple[str, ...] = key(
        (),
        "Addresses of nodes to enter the network by, each ending in /p2p/ and the node's peer id. `cocoon-node up` prints "
        "its own; none: this node waits for others to join it.",
        check=problem_of_dial_address,
    )
    announce_addresses: tuple[str, ...] = key(
        (),
        "Addresses to tell others instead of those this machine sees itself at: a forwarded port, a host name (/dns4/…).",
        check=problem_of_announced_address,
        entries_max=16,
    )
    private_bootstrap: tuple[str, ...] = key(
        (),
        "The same as bootstrap for a private network (`cocoon-node network create | join`): while this home has a "
        "network key these are used, and those of bootstrap are not.",
        check=problem_of_dial_address,
    )
    dht_mode: str = key(
        "auto", "Keep records for others? auto: as soon as others can dial this node; server: always; client: only ask.",
        choices=("auto", "server", "client"),
    )  # fmt: skip
    mdns: bool = key(
        True,
        "Find, and be found by, nodes on the local network (mDNS). Off by itself for a node that keeps to this machine.",
    )
    upnp: bool = key(
        True,
        "Ask the home router to forward a port (UPnP), so that others can dial this node. Only when it listens on an "
        "address that a router could forward to, and announce_addresses is empty.",
    )
    relay: str = key(
        "auto", "Take connections for nodes that cannot be dialled? It costs bandwidth, within fixed bounds. auto: when "
        "others can dial this node; on; off.",
        choices=("auto", "on", "off"),
    )  # fmt: skip

    def entries(self, *, private: bool) -> tuple[str, ...]:
        """The addresses to enter the network by: the private network's, or the public one's."""
        return self.private_bootstrap if private else self.bootstrap

    @property
    def uses_mdns(self) -> bool:
        """Whether to speak to the local network: never when all that the node listens on, or (for one that only dials)
        enters by, is this machine itself."""
        known = parse_dialable((*self.listen, *self.bootstrap, *self.private_bootstrap))
        ends = [parse_address(text) for text in self.listen] or known
        return self.mdns and not (ends and all(end.is_loopback for end in ends))

    @property
    def uses_upnp(self) -> bool:
        """Whether a router could forward a port to us, and nobody has arranged that by hand."""
        ends = [parse_address(text) for text in self.listen]
        forwardable = any(end.is_wildcard or not (end.is_loopback or end.is_public) for end in ends)
        return self.upnp and forwardable and not self.announce_addresses


@dataclass(frozen=True, slots=True)
class ProviderSection:
    serve: bool = key(True, "Whether to take other people's jobs for the models installed here.")
    models: tuple[str, ...] = key(
        (),
        "Models to serve: names or ids of installed ones, or paths (with a /, relative to this file) of models to install; "
        "empty: every installed model.",
        entries_max=MODELS_PER_ANNOUNCEMENT_MAX,
    )
    price_base: int = key(
        100_000, "Price of a job in nanogram, whatever its size; for models added without a price of their own.",
        low=0, high=AMOUNT_NANOGRAM_MAX,
    )  # fmt: skip
    price_per_item: int = key(
        10_000, "Price of each item (a text, a row of the first input) in nanogram, on top of price_base.",
        low=0, high=AMOUNT_NANOGRAM_MAX,
    )  # fmt: skip
    slots: int = key(
        32, "Jobs in progress at the same time for one model; further clients are told to come back.",
        low=1, high=JOBS_IN_ALL_MAX,
    )  # fmt: skip
    tiers: tuple[str, ...] = key(
        ("sealed", "open"),
        "Kinds of job to take. sealed: encrypted to this process; open: encrypted between neighbours only.",
        choices=("sealed", "open"),
    )
    items_max: int = key(1024, "Items of one job.", low=1, high=ITEMS_PER_JOB_MAX)
    input_bytes_max: int = key(512 * MIB, "Bytes of one job's input.", low=1024, high=JOB_BYTES_MAX)
    bytes_in_flight_max: int = key(
        1024 * MIB, "Bytes of memory for the inputs of all jobs together.", low=1024, high=JOB_BYTES_IN_FLIGHT_MAX
    )


@dataclass(frozen=True, slots=True)
class ClientSection:
    max_price: int = key(
        10_000_000, "The most that one job of ours may cost, in nanogram; 0: no limit. --max-price goes first.",
        low=0, high=AMOUNT_NANOGRAM_MAX,
    )  # fmt: skip
    tier: str = key(
        "sealed", "Kind of job to ask for. sealed: only the chosen provider's process sees the input.",
        choices=("sealed", "open"),
    )  # fmt: skip
    timeout_s: float = key(
        JOB_TIMEOUT_DEFAULT_S, "Seconds from asking for a job to its result.", low=0.1, high=JOB_TIMEOUT_MAX_S
    )


@dataclass(frozen=True, slots=True)
class ExecutionSection:
    threads: int = key(0, "CPU threads of each model's worker; 0: one for each core.", low=0, high=1024)
    batch_items_max: int = key(
        BATCH_ITEMS_MAX, "Queued items that are run together at most.", low=1, high=ITEMS_PER_JOB_MAX
    )
    providers: str = key(
        "auto", "Device to run on. auto: a GPU when a probe shows that it works, else the CPU; cpu; cuda: a GPU or nothing.",
        choices=("auto", "cpu", "cuda"),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SettlementSection:
    backend: str = key("local", "Where money is counted. local: test money without value.", choices=("local",))


@dataclass(frozen=True, slots=True)
class LogSection:
    level: str = key("warning", "What is written to stderr.", choices=("error", "warning", "info", "debug"))


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The whole of node.toml, checked. `replace` of dataclasses changes parts of it in code."""

    node: NodeSection = NodeSection()
    identity: IdentitySection = IdentitySection()
    network: NetworkSection = NetworkSection()
    provider: ProviderSection = ProviderSection()
    client: ClientSection = ClientSection()
    execution: ExecutionSection = ExecutionSection()
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
        if not isinstance(table, dict):
            raise ConfigError(f"{source}: {name} is a section: write its keys under a line [{name}]")
        parsed[name] = _parse_section(type(sections[name].default), name, table, source)
    config = NodeConfig(**parsed)
    return config if folder is None else _with_absolute_files(config, folder)


def default_toml() -> str:
    """A node.toml that says what the defaults say, every key with its explanation."""
    return render_toml(NodeConfig())


def render_toml(config: NodeConfig) -> str:
    """`config` as the text of a node.toml, every key with its explanation. Parsing it gives `config` again."""
    lines = ["# Configuration of a cocoon_p2p node. Amounts are nanogram: 1 GRAM = 1,000,000,000 nanogram."]
    for name, section, rules in _sections(config):
        lines += ["", f"[{name}]"]
        for each, rule in rules:
            lines += textwrap.wrap(
                _explained(rule), 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
            )
            lines.append(f"{each} = {_toml_value(getattr(section, each))}")
    return "\n".join(lines) + "\n"


def _sections(config: NodeConfig) -> Iterator[tuple[str, Any, list[tuple[str, Rule]]]]:
    for section in fields(config):
        value = getattr(config, section.name)
        yield section.name, value, [(each.name, _rule(each)) for each in fields(value)]


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


def _parse_section(section: type[Any], name: str, table: dict[str, Any], source: str) -> Any:
    known = {each.name: each for each in fields(section)}
    values: dict[str, Any] = {}
    for each, value in table.items():
        where = f"{source}: [{name}] {each}"
        if each not in known:
            raise _unknown_key(where, each, name, known)
        values[each] = _checked(value, known[each].default, _rule(known[each]), where)
    return section(**values)


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
        return tuple(_checked(entry, "", rule, f"{where}[{i}]") for i, entry in enumerate(value))
    if isinstance(value, str):
        _check_text(value, rule, where)
    elif rule.low is not None and rule.high is not None and not rule.low <= value <= rule.high:
        raise ConfigError(f"{where}: got {value:,}; it must be from {rule.low:,} to {rule.high:,}")
    return value


def _check_text(value: str, rule: Rule, where: str) -> None:
    if rule.choices and value not in rule.choices:
        hint = _did_you_mean(value, rule.choices)
        raise ConfigError(f"{where}: got {value!r}; it must be one of {', '.join(rule.choices)}", hint=hint)
    if rule.high is not None and len(value) > rule.high:
        raise ConfigError(f"{where}: got {len(value)} characters; at most {rule.high} are allowed")
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
        return f"it must be a list of texts, such as {_toml_value(default or ('…',))}"
    return f"it must be a text in quotes, such as {_toml_value(default)}"


def _unknown(source: str, name: str, is_section: bool) -> ConfigError:
    sections = [section.name for section in fields(NodeConfig)]
    what = f"section [{name}]" if is_section else f"key {name!r} outside a section"
    home = _section_of(name)
    hint = f"{name} belongs under [{home}]" if home else _did_you_mean(name, sections)
    return ConfigError(
        f"{source}: there is no {what}", hint=hint or f"the sections are {', '.join(f'[{s}]' for s in sections)}"
    )


def _unknown_key(where: str, name: str, section: str, known: dict[str, Field[Any]]) -> ConfigError:
    home = _section_of(name)
    hint = f"{name} belongs under [{home}]" if home else _did_you_mean(name, known)
    return ConfigError(f"{where}: there is no such key", hint=hint or f"the keys of [{section}] are {', '.join(known)}")


def _section_of(name: str) -> str | None:
    """The section that has a key of this name."""
    for section, _, rules in _sections(NodeConfig()):
        if any(each == name for each, _ in rules):
            return section
    return None


def _did_you_mean(name: str, known: Any) -> str | None:
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {nearest[0]!r}?" if nearest else None


def _with_absolute_files(config: NodeConfig, folder: Path) -> NodeConfig:
    def absolute(text: str) -> str:
        return str((folder / Path(text).expanduser()).absolute()) if text else text

    models = tuple(absolute(model) if "/" in model else model for model in config.provider.models)
    return replace(
        config,
        provider=replace(config.provider, models=models),
        node=replace(config.node, home=absolute(config.node.home)),
        identity=replace(config.identity, passphrase_file=absolute(config.identity.passphrase_file)),
    )
