"""The sections of node.toml: their keys, with defaults, bounds and explanations.

Each section is a frozen dataclass and each field carries its own explanation, so that the file `default_toml` writes,
the checks and the documentation cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cocoon_p2p.execution.memory import problem_of_amount
from cocoon_p2p.ids import is_model_id
from cocoon_p2p.limits import (
    AGENT_CHARS_MAX,
    AMOUNT_NANOGRAM_MAX,
    BATCH_ITEMS_MAX,
    BLOB_STREAMS_MAX,
    ITEMS_PER_JOB_MAX,
    JOB_BYTES_IN_FLIGHT_MAX,
    JOB_BYTES_MAX,
    JOB_RUN_SECONDS_DEFAULT,
    JOB_TIMEOUT_DEFAULT_S,
    JOB_TIMEOUT_MAX_S,
    JOBS_IN_ALL_MAX,
    MIB,
    MODELS_PER_ANNOUNCEMENT_MAX,
    NAME_CHARS_MAX,
    REGION_CHARS_MAX,
    REPLICAS_MAX,
    SESSION_IDLE_MAX_S,
    UNLOAD_IDLE_DEFAULT_MINUTES,
)
from cocoon_p2p.net.addresses import parse_address, parse_dialable
from cocoon_p2p.policy.idle import problem_of_hours

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


def problem_of_model_id(text: str) -> str | None:
    """What is wrong with an entry of [provider] allow; None when it is right."""
    return None if is_model_id(text) else f"{text[:80]!r} is no model's id: 64 digits (cocoon-node models list)"


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
    entries_min: int = 0
    instead: str = ""
    """What an operator may have meant who wrote too few entries."""
    needed: bool = False
    """Of a table that may stand several times: each must have it."""
    example: str = ""
    """A text that would be right, where the default shows none."""


def key(default: bool | float | str | tuple[str, ...], explanation: str, **bounds: Any) -> Any:
    """A configuration key: a dataclass field with its rule. Its type is that of its default."""
    return field(default=default, metadata={"rule": Rule(explanation, **bounds)})


@dataclass(frozen=True, slots=True)
class NodeSection:
    agent: str = key(
        "cocoon-node", f"What this node calls itself in its announcements, at most {AGENT_CHARS_MAX} characters.",
        high=AGENT_CHARS_MAX,
    )  # fmt: skip
    region: str = key(
        "",
        f"Where this machine stands, as a hint for others: a country or a part of the world (de, us-west), at most "
        f"{REGION_CHARS_MAX} characters; empty: not told.",
        high=REGION_CHARS_MAX,
    )
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
    price_per_token: int = key(
        100, "The same for models that generate text: price of each token, of the prompt as of the answer, in nanogram.",
        low=0, high=AMOUNT_NANOGRAM_MAX,
    )  # fmt: skip
    open_percent: int = key(
        100, "Price of an open job in percent of a sealed one.", low=0, high=1000,
    )  # fmt: skip
    pricing: str = key(
        "fixed",
        "How the prices move. fixed: not at all; follow-demand: up while more than 70 % of the slots are in use, down while "
        "fewer are, between the floor and the ceiling below; or the name of an installed policy (docs/OPERATORS.md).",
        high=NAME_CHARS_MAX,
    )
    price_floor_percent: int = key(
        50, "follow-demand: the lowest price, in percent of the listed one.", low=1, high=100,
    )  # fmt: skip
    price_ceiling_percent: int = key(
        400, "follow-demand: the highest price, in percent of the listed one.", low=100, high=100_000,
    )  # fmt: skip
    slots: int = key(
        32, "Jobs in progress at the same time, of all models together; further clients are told to come back.",
        low=1, high=JOBS_IN_ALL_MAX,
    )  # fmt: skip
    tiers: tuple[str, ...] = key(
        ("sealed", "open"),
        "Kinds of job to take. sealed: encrypted to this process; open: encrypted between neighbours only.",
        choices=("sealed", "open"),
        entries_min=1,
        instead="serve = false to take none",
    )
    items_max: int = key(1024, "Items of one job.", low=1, high=ITEMS_PER_JOB_MAX)
    input_bytes_max: int = key(512 * MIB, "Bytes of one job's input.", low=1024, high=JOB_BYTES_MAX)
    bytes_in_flight_max: int = key(
        1024 * MIB, "Bytes of memory for the inputs of all jobs together.", low=1024, high=JOB_BYTES_IN_FLIGHT_MAX
    )
    allow: tuple[str, ...] = key(
        (),
        "Ids of models that came from peers and are to be trusted like those added by hand: served even where model processes "
        "cannot be jailed (`cocoon-node doctor`).",
        check=problem_of_model_id,
        entries_max=MODELS_PER_ANNOUNCEMENT_MAX,
    )
    auto_serve: bool = key(
        False,
        "Pick up models that are in demand from other peers and offer them, too, and remove those again that nobody wants; never those "
        "that were added by hand. They are strangers' models: only where their processes can be jailed (`cocoon-node doctor`).",
    )
    auto_serve_disk: str = key(
        "20 GiB", "Disk space for models that were picked up so; those that were not used for longest go first.",
        check=problem_of_amount,
    )  # fmt: skip
    auto_serve_memory: str = key(
        "auto", "The largest model that is picked up; auto: a quarter of the machine's memory.",
        check=problem_of_amount,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class IdleSection:
    """When the machine serves others. A rule that is left at its default is none."""

    user_idle_minutes: float = key(
        0.0, "Serve only when nobody has used keyboard or mouse for so many minutes; 0: always.", low=0, high=1440,
    )  # fmt: skip
    mains_power: bool = key(False, "Serve only on mains power, not on battery.")
    temperature_max_c: float = key(
        0.0, "Serve only while no sensor of the machine is hotter than so many degrees Celsius; 0: whatever they say.",
        low=0, high=150,
    )  # fmt: skip
    load_max: float = key(
        0.0,
        "Serve only while other programs use at most so many CPU cores (the node's own work does not count); 0: always.",
        low=0, high=4096,
    )  # fmt: skip
    hours: tuple[str, ...] = key(
        (), 'Serve only within these hours of local time, such as "22:00-07:00"; empty: around the clock.',
        check=problem_of_hours, example="22:00-07:00",
    )  # fmt: skip
    grace_s: float = key(
        30.0, "Seconds that running jobs may take to finish when a rule ends the serving; then their clients are told to "
        "go elsewhere.",
        low=0, high=3600,
    )  # fmt: skip


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
    prefer: str = key(
        "balanced", "Which of the fitting offers to take. balanced: price x time / reliability; cheapest; fastest; reliable.",
        choices=("balanced", "cheapest", "fastest", "reliable"),
    )  # fmt: skip
    min_reliability: float = key(
        0.0, "Take only providers at least this reliable in our own experience, from 0 to 1; strangers count as 0.5.",
        low=0, high=1,
    )  # fmt: skip
    audit_percent: float = key(
        0.0, "Share of our jobs that a second provider repeats, so that the answers can be compared; each such job is paid "
        "twice.",
        low=0, high=100,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class MarketSection:
    history_hours: int = key(
        168, "How long prices and announcements of the market are kept, for `cocoon-node market`.", low=0, high=8760,
    )  # fmt: skip
    history_megabytes: int = key(
        64, "Disk space for them at most; the oldest go first.", low=1, high=102_400,
    )  # fmt: skip


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
    memory_budget: str = key(
        "auto",
        'Memory that loaded models may take together, such as "6 GiB"; auto: half of the machine\'s. Models beyond it are loaded when a '
        "job wants them, in the place of those that were not used for longest.",
        check=problem_of_amount,
    )
    keep_warm: tuple[str, ...] = key(
        (),
        "Models (names or ids) that are loaded at the start and never unloaded; the others wait for their first job. Empty: at the start "
        "as many are loaded as the memory budget has room for.",
        entries_max=MODELS_PER_ANNOUNCEMENT_MAX,
    )
    unload_idle_minutes: float = key(
        UNLOAD_IDLE_DEFAULT_MINUTES, "Unload a model that had no job for so long; 0: only when another needs the room.",
        low=0, high=10_080,
    )  # fmt: skip
    replicas_max: int = key(
        0,
        "Workers of one model at most; a second one starts when its queue stays long and a device is free. 0: one for each GPU, and one "
        "on a CPU, where more are of use only when `threads` leaves cores for them.",
        low=0, high=REPLICAS_MAX,
    )  # fmt: skip
    job_memory: str = key(
        "auto",
        'Memory that one run may take beside the model, such as "2 GiB"; auto: a quarter of the machine\'s. A worker that takes more is ended.',
        check=problem_of_amount,
    )
    job_seconds_max: float = key(
        JOB_RUN_SECONDS_DEFAULT,
        "Seconds that one run may take; a worker that takes longer is ended.",
        low=1,
        high=JOB_TIMEOUT_MAX_S,
    )
    output_bytes_max: int = key(JOB_BYTES_MAX, "Bytes of one job's output.", low=1024, high=JOB_BYTES_MAX)
    session_idle_s: float = key(
        300.0, "Seconds without a call after which the state of a client's session is forgotten (recurrent models); 0: none is kept.",
        low=0, high=SESSION_IDLE_MAX_S,
    )  # fmt: skip
    session_bytes_max: int = key(
        256 * MIB, "Bytes of memory for the state of all sessions together.", low=0, high=JOB_BYTES_IN_FLIGHT_MAX
    )


@dataclass(frozen=True, slots=True)
class ModelsSection:
    """Models that move between peers."""

    share: bool = key(
        True,
        "Whether others may fetch from here the models that this node has, and what has come of those that it is fetching. Models that "
        "nobody else should have want false here; whoever knows a model's id may ask for it.",
    )
    uploads_max: int = key(
        8, "Peers that fetch models from here at the same time; others wait for their turn. Those on the local network do not count.",
        low=1, high=BLOB_STREAMS_MAX,
    )  # fmt: skip
    upload_megabytes_per_second: float = key(
        0.0, "What all of them together may fetch, in 10^6 bytes a second; 0: no limit. The local network does not count.",
        low=0, high=100_000,
    )  # fmt: skip
    download_megabytes_per_second: float = key(
        0.0, "What this node fetches of models from others, in 10^6 bytes a second; 0: no limit. The local network does not count.",
        low=0, high=100_000,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SettlementSection:
    backend: str = key("local", "Where money is counted. local: test money without value.", choices=("local",))


@dataclass(frozen=True, slots=True)
class LogSection:
    level: str = key("warning", "What is written to stderr.", choices=("error", "warning", "info", "debug"))
