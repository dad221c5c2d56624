"""node.toml with one more bootstrap address: everything else stays as its owner wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cocoon_p2p.config import default_toml, parse_config
from cocoon_p2p.config_edit import add_bootstrap, with_list
from cocoon_p2p.errors import ConfigError

PEER = "12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N"
ONE, TWO = f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}", f"/dns4/a.example/tcp/2/p2p/{PEER}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "node.toml"


def add(file: Path, text: str, *addresses: str, private: bool = False) -> str:
    file.write_bytes(text.encode())
    add_bootstrap(file, addresses, private=private)
    return file.read_bytes().decode()


@pytest.mark.parametrize("private", [False, True])
def test_the_default_file_keeps_every_other_line(file: Path, private: bool) -> None:
    before = default_toml()
    after = add(file, before, ONE, private=private)
    changed = [line for line in after.splitlines() if line not in before.splitlines()]
    assert changed == [f'{"private_bootstrap" if private else "bootstrap"} = ["{ONE}"]']
    assert len(after.splitlines()) == len(before.splitlines())
    twice = add(file, after, ONE, TWO, private=private)
    assert parse_config(twice, "x").network.entries(private=private) == (ONE, TWO)
    assert parse_config(twice, "x").network.entries(private=not private) == ()
    assert add_bootstrap(file, [TWO, ONE], private=private) == []
    assert file.read_text() == twice


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "[provider]\nserve = false",
        "[network]",
        "[network] # here\nlisten = []\n\n[provider]\nserve = false\n",
        "[network]\n  bootstrap = [  # a ] in a comment\n  # another\n  ]  # behind\nlisten = []\n",
        "[network]\r\nlisten = []\r\nbootstrap = []\r\n",
        "[node]\nagent = 'bootstrap = []'\n[network]\nprivate_bootstrap = []\n",
        f"[network]\nbootstrap = [\n    '{TWO}', # an old friend\n]\n[log]\nlevel = 'info'\n",
    ],
)
def test_files_as_people_write_them(file: Path, text: str) -> None:
    before = parse_config(text, "x")
    after = add(file, text, ONE)
    assert parse_config(after, "x").network.bootstrap == (*before.network.bootstrap, ONE)
    kept = {line for line in text.splitlines() if line.strip() and "bootstrap" not in line and TWO not in line}
    gone = kept - set(after.splitlines())
    assert all(line.strip().startswith(("#", "]")) for line in gone), gone
    assert after.count("\r") == text.count("\r")


@pytest.mark.parametrize(
    "text", ["network = { listen = [] }\n", "[network]\n'bootstrap' = []\n", "network.listen = []\n"]
)
def test_what_it_cannot_extend_it_leaves_alone(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        add_bootstrap(file, [ONE], private=False)
    assert ONE in str(caught.value.hint) or "TOML" in caught.value.message
    assert file.read_text() == text


def test_a_full_list_stays(file: Path) -> None:
    file.write_text(with_list("", "bootstrap", [f"/ip4/1.2.3.4/tcp/{n}/p2p/{PEER}" for n in range(1, 65)]))
    with pytest.raises(ConfigError, match="at most 64"):
        add_bootstrap(file, [TWO], private=False)
    assert TWO not in file.read_text()


def test_its_rights_and_a_link_to_it_stay(file: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text("[network]\n")
    real.chmod(0o640)
    file.symlink_to(real)
    add_bootstrap(file, [ONE], private=False)
    assert file.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert ONE in real.read_text()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["node.toml", "real.toml"]
