"""node.toml: what it says by default, and what an operator reads who made a mistake in it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from cocoon_p2p.config import (
    CONFIG_BYTES_MAX,
    NodeConfig,
    UpstreamSection,
    default_toml,
    load_config,
    parse_config,
    problem_of_dial_address,
    problem_of_listen_address,
    render_toml,
)
from cocoon_p2p.errors import ConfigError

PEER = "12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N"
SECTIONS = [section for section in fields(NodeConfig) if is_dataclass(section.default)]
KEYS = [(section.name, key.name) for section in SECTIONS for key in fields(section.default)]
ROOT = Path(__file__).parents[3]


def test_default_toml_says_the_defaults() -> None:
    assert parse_config(default_toml(), "node.toml") == NodeConfig()


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_stands_there_with_its_explanation(section: str, key: str) -> None:
    part = default_toml().split(f"[{section}]\n")[1].split("\n[")[0].splitlines()
    (at,) = [i for i, line in enumerate(part) if line.startswith(f"{key} = ")]
    assert part[at - 1].startswith("# ")
    assert max(map(len, part)) <= 120


def test_a_cluster_is_explained_by_an_example_that_works() -> None:
    lines = default_toml().splitlines()
    start = lines.index("# [[upstream]]")
    example = [line.removeprefix("# ") for line in lines[start : lines.index("", start)]]
    assert all(f"{key.name} = " in "\n".join(example) for key in fields(UpstreamSection))
    (table,) = parse_config("\n".join(example), "x").upstream
    assert table == UpstreamSection(table.name, url=table.url, model=table.model), "the rest is as by default"
    assert max(map(len, lines[start:])) <= 120


def test_a_configuration_survives_being_written_and_read() -> None:
    config = NodeConfig()
    config = replace(
        config,
        node=replace(config.node, agent='says "hé"\\'),
        network=replace(config.network, bootstrap=(f"/dns4/a.example/tcp/1/p2p/{PEER}",), listen=()),
        provider=replace(config.provider, serve=False, price_base=0),
        client=replace(config.client, timeout_s=0.25),
        upstream=(
            UpstreamSection("llama", url="http://10.0.0.5:8000", model="meta/llama", api_key_file="key", price_base=7),
            UpstreamSection("adder", "open-inference", url="https://triton.example", model="adder"),
        ),
    )
    assert parse_config(render_toml(config), "x") == config


def test_what_is_left_out_is_the_default() -> None:
    assert parse_config("[provider]\nslots = 3\n", "x").provider == replace(NodeConfig().provider, slots=3)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[network]\nlisen = []", "f.toml: [network] lisen: there is no such key", "did you mean 'listen'?"),
        ("[netwrk]\n", "f.toml: there is no section [netwrk]", "did you mean 'network'?"),
        ("listen = []", "f.toml: there is no key 'listen' outside a section", "listen belongs under [network]"),
        ("[client]\nslots = 1", "[client] slots: there is no such key", "slots belongs under [provider]"),
        ("[log]\nqqqq = 1", "[log] qqqq: there is no such key", "the keys of [log] are level"),
        ("[upstream]\nname = 'x'", "upstream may stand several times: write its keys under a line [[upstream]]", None),
        ("[[upstream]]\nname = 'x'", 'f.toml: [[upstream "x"]] url is missing: Where it listens', None),
        (
            "[[upstream]]\nname = 'x'\nurl = 'http://a'\nmodel = 'm'\n[[upstream]]\nname = 'y'\nurl = 'b'\nmodel = 'm'",
            "f.toml: [[upstream 2 \"y\"]] url: 'b' is no",
            None,
        ),
        (
            "[[upstream]]\nname = 'x'\nmodel = 'm'\nurl = 'http://me:secret@a'",
            'f.toml: [[upstream "x"]] url: a key does not belong into the address',
            None,
        ),
        (
            "[[upstream]]\nname = 'x'\nmodel = 'm'\nurl = 'http://a:8000/v1'",
            "must end before the protocol's own path",
            None,
        ),
        ("api_key_file = 'x'", "there is no key 'api_key_file'", "api_key_file belongs under [[upstream]]"),
        ("[[upstream]]\nurl = 'http://a'", "f.toml: [[upstream]] name is missing", None),
        (
            "[[upstream]]\nname = 'x'\nurl = 'http://a'\nmodel = 'm'\nqqq = 1",
            '[[upstream "x"]] qqq: there is no such key',
            'the keys of [[upstream "x"]] are name, kind, task, url, model, api_key_file, price_base, price_per_item, '
            "context, parallel, timeout_s",
        ),
        ("provider = 1", "provider is a section: write its keys under a line [provider]", None),
        ("[provider]\nslots = '3'", '[provider] slots: got "3" (a text); it must be a whole number from 1', None),
        ("[provider]\nslots = true", "got true (true or false); it must be a whole number", None),
        ("[provider]\nslots = 1.5", "got 1.5 (a decimal number); it must be a whole number", None),
        ("[provider]\nslots = 0", "[provider] slots: got 0; it must be from 1 to 1,024", None),
        ("[provider]\nprice_base = -1", "got -1; it must be from 0", None),
        ("[provider]\nserve = 1", "got 1 (an integer); it must be true or false", None),
        ("[client]\ntimeout_s = nan", "[client] timeout_s: got nan; it must be from 0.1 to", None),
        ("[client]\ntier = 'seald'", "got 'seald'; it must be one of sealed, open", "did you mean 'sealed'?"),
        ("[provider]\ntiers = ['open', 'x']", "[provider] tiers[1]: got 'x'", None),
        (
            "[provider]\ntiers = []",
            "got an empty list; one or more of sealed, open, or serve = false to take none",
            None,
        ),
        ("[provider]\ntiers = ['open', 'open']", '[provider] tiers[1]: "open" (a text) stands there twice', None),
        ('[node]\nregion = "\\u0007"', '[node] region: got "\\u0007", which has characters that cannot be shown', None),
        ("[provider]\nmodels = ['m', ' ']", "[provider] models[1]: got an empty text; leave it out", None),
        (
            "[idle]\nhours = ['08:00-09:00', '08:00-09:00']",
            '[idle] hours[1]: "08:00-09:00" (a text) stands there',
            None,
        ),
        ("[network]\nlisten = '/ip4/0.0.0.0/tcp/1'", "(a text); it must be a list of texts, such as [", None),
        ("[network]\nlisten = [1]", "[network] listen[0]: got 1 (an integer)", None),
        ("[network]\nlisten = ['0.0.0.0:80']", "listen[0]: '0.0.0.0:80' is no TCP address", None),
        ("[network]\nbootstrap = ['/ip4/1.2.3.4/tcp/9']", "must end in the peer id", None),
        ("[node]\nagent = 'aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffggggg'", "at most 64", None),
        ("[node\n", "f.toml is not TOML", None),
        ("[settlement]\nbackend = 'ton'", "must be one of local", None),
        ("[idle]\nhours = ['22-7']", "[idle] hours[0]: '22-7' is no span of hours; one looks like", None),
        ("[idle]\nhours = ['08:00-08:00']", "'08:00-08:00' begins when it ends", None),
        ("[idle]\nhours = [5]", 'got 5 (an integer); it must be a text in quotes, such as "22:00-07:00"', None),
        ("[idle]\nhours = 5", 'it must be a list of texts, such as ["22:00-07:00"]', None),
        ("[provider]\nallow = [5]", "got 5 (an integer); it must be a text in quotes", None),
        ("[idle]\nuser_idle_minutes = -1", "it must be from 0 to 1,440", None),
        ("[idle]\nmains_power = 1", "got 1 (an integer); it must be true or false", None),
        ("[idle]\nload = 1", "[idle] load: there is no such key", "did you mean 'load_max'?"),
        ("[provider]\nprice_floor_percent = 0", "got 0; it must be from 1 to 100", None),
        ("[provider]\nprice_ceiling_percent = 99", "got 99; it must be from 100 to 100,000", None),
        ("[provider]\nopen_percent = 1001", "got 1,001; it must be from 0 to 1,000", None),
        ("[node]\nregion = 'europe-north-western'", "[node] region: got 20 characters; at most 16", None),
        (
            "[client]\nprefer = 'cheap'",
            "must be one of balanced, cheapest, fastest, reliable",
            "did you mean 'cheapest'?",
        ),
        ("[market]\nhistory_megabytes = 0", "it must be from 1 to 102,400", None),
    ],
)
def test_mistakes_name_the_key_and_what_would_be_right(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f.toml")
    assert message in caught.value.message
    assert hint is None or caught.value.hint == hint
    assert "\n" not in caught.value.message


def test_a_list_of_models_is_bounded() -> None:
    with pytest.raises(ConfigError, match="got 65 entries; at most 64"):
        parse_config(f"[provider]\nmodels = {['m'] * 65}", "f.toml")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"#" * (CONFIG_BYTES_MAX + 1)])
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "node.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"node\.toml"):
        load_config(None, tmp_path)


def test_without_a_file_in_the_home_the_defaults_hold_but_a_named_file_must_exist(tmp_path: Path) -> None:
    assert load_config(None, tmp_path) == NodeConfig()
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "other.toml")


def test_file_names_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        "[node]\nhome = 'h'\n[identity]\npassphrase_file = '~/p'\n[provider]\nmodels = ['./a.onnx', 'minilm']\n"
    )
    config = load_config(file)
    assert config.node.home == str(tmp_path / "h")
    assert config.identity.passphrase_file == str(Path.home() / "p")
    assert config.provider.models == (str(tmp_path / "a.onnx"), "minilm")


def test_a_guest_serves_nothing_and_listens_nowhere() -> None:
    known, new = f"/ip4/1.2.3.4/tcp/9/p2p/{PEER}", f"/ip4/1.2.3.5/tcp/9/p2p/{PEER}"
    config = parse_config(f"[network]\nbootstrap = ['{known}']", "x").as_client([new, known])
    assert (config.provider.serve, config.network.listen, config.network.dht_mode) == (False, (), "client")
    assert config.network.bootstrap == (new, known)


def test_addresses() -> None:
    assert problem_of_listen_address("/ip6/::/tcp/0") is None
    assert problem_of_dial_address(f"/dns/example.org/tcp/4601/p2p/{PEER}") is None
    for wrong in (f"/ip4/0.0.0.0/tcp/1/p2p/{PEER}", f"/ip4/1.2.3.4/tcp/0/p2p/{PEER}", "/ip4/1.2.3.4/udp/1", "x" * 999):
        assert problem_of_dial_address(wrong)
    for wrong in (f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}", "/dns/example.org/tcp/1", "/ip4/1.2.3.4/tcp/66000", ""):
        assert problem_of_listen_address(wrong)


@pytest.mark.parametrize("name", ["provider", "client", "bootstrap"])
def test_the_ready_configurations_are_taken_as_they_are(name: str) -> None:
    config = load_config(ROOT / "nodes" / name / "node.toml")
    assert config.provider.serve == (name == "provider")
    assert bool(config.network.listen) == (name != "client")
    assert config.node.home.endswith(f".cocoon-{name}")


def test_the_ready_configurations_run_beside_each_other() -> None:
    configs = [load_config(file) for file in (ROOT / "nodes").glob("*/node.toml")]
    assert len({config.node.home for config in configs}) == 3
    assert len({config.network.listen for config in configs}) == 3


LOOPBACK = f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}"
FAR = f"/ip4/203.0.113.5/tcp/1/p2p/{PEER}"


@pytest.mark.parametrize(
    ("network", "mdns", "upnp"),
    [
        ("", True, True),
        ("listen = ['/ip4/127.0.0.1/tcp/0', '/ip6/::1/tcp/0']", False, False),
        (f"listen = []\nbootstrap = ['{LOOPBACK}']", False, False),
        (f"listen = []\nbootstrap = ['{LOOPBACK}', '{FAR}']", True, False),
        ("listen = []", True, False),
        ("listen = ['/ip4/192.168.1.7/tcp/4601']", True, True),
        ("listen = ['/ip4/8.8.8.8/tcp/4601']", True, False),
        ("announce_addresses = ['/dns4/a.example/tcp/1']", True, False),
        ("mdns = false\nupnp = false", False, False),
    ],
)
def test_what_is_asked_of_the_local_network(network: str, mdns: bool, upnp: bool) -> None:
    """A node that keeps to this machine, as those of tests and of the demo, sends nothing into the local network."""
    section = parse_config(f"[network]\n{network}\n", "x").network
    assert (section.uses_mdns, section.uses_upnp) == (mdns, upnp)


def test_each_network_has_its_entries() -> None:
    section = parse_config(f"[network]\nbootstrap = ['{FAR}']\nprivate_bootstrap = ['{LOOPBACK}']", "x").network
    assert (section.entries(private=False), section.entries(private=True)) == ((FAR,), (LOOPBACK,))
    both = NodeConfig(network=section).with_entries([FAR]).network
    assert (both.bootstrap, both.private_bootstrap) == ((FAR,), (FAR, LOOPBACK))
    with pytest.raises(ConfigError, match="private_bootstrap"):
        parse_config("[network]\nprivate_bootstrap = ['/ip4/1.2.3.4/tcp/1']", "x")
