"""`join` and `network` where no node runs: what is on the disk afterwards, and what people read."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from cocoon_p2p.cli import main
from cocoon_p2p.config import load_config
from cocoon_p2p.drivers.invites import Invitation, write_invite
from cocoon_p2p.home import Home, PrivateNetwork
from cocoon_p2p.ids import peer_id_from_public_key

PEER = peer_id_from_public_key(bytes(range(32)))
ADDRESS = "/ip4/203.0.113.5/tcp/4601"
ENTRY = f"{ADDRESS}/p2p/{PEER}"
KEY = bytes(range(32))
NETWORK = PrivateNetwork(KEY, "büro")
PUBLIC = write_invite(Invitation(PEER, (ADDRESS,)))
CLOSED = write_invite(Invitation(PEER, (ADDRESS,), 0, "büro", NETWORK.fingerprint))
WITH_KEY = write_invite(Invitation(PEER, (ADDRESS,), 0, "büro", NETWORK.fingerprint, KEY))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("COCOON_PASSPHRASE", "COCOON_PASSPHRASE_FILE", "COCOON_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COCOON_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


Captured = pytest.CaptureFixture[str]


def failed(words: list[str], capsys: Captured, status: int = 2) -> str:
    """What a command says that fails: an error and a hint."""
    capsys.readouterr()
    assert main(words) == status
    out, err = capsys.readouterr()
    assert out == ""
    error, hint = err.splitlines()
    assert error.startswith("cocoon-node: error: ")
    assert hint.startswith("cocoon-node: hint: ")
    return err


# --- join ---


def test_join_makes_a_home_and_says_what_to_do_next(home: Path, capsys: Captured) -> None:
    assert main(["join", PUBLIC]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "cocoon-node: next: cocoon-node up"
    assert load_config(None, home).network.bootstrap == (ENTRY,)
    assert Home(home).identity().peer_id != PEER
    text = (home / "node.toml").read_text()
    assert text.count("# ") > 20, "its explanations are still there"
    assert main(["join", PUBLIC.upper(), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["peer_id"], row["addresses"], row["connected"]) == (PEER, [ADDRESS], False)
    assert (home / "node.toml").read_text() == text


def test_join_takes_an_invite_that_a_terminal_folded(home: Path, capsys: Captured) -> None:
    assert main(["join", PUBLIC[:40], PUBLIC[40:80] + "\n", PUBLIC[80:]]) == 0
    assert load_config(None, home).network.bootstrap == (ENTRY,)


def test_join_with_a_configuration_of_ones_own(home: Path, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'# mine\n[node]\nhome = "{home}"\n')
    assert main(["join", PUBLIC, "--config", str(file)]) == 0
    assert f"next: cocoon-node up --config {file}" in capsys.readouterr().err
    assert file.read_text().startswith("# mine\n")
    assert load_config(file).network.bootstrap == (ENTRY,)
    assert load_config(None, home).network.bootstrap == ()


@pytest.mark.parametrize(
    ("invite", "message"),
    [
        ("hello", "this is no invite: an invite begins with cocoon1"),
        ("", "`cocoon-node invite` on a machine that is in the network shows one"),
        (PUBLIC[:-1], "a character is wrong or missing"),
        (ENTRY, "cocoon-node peers connect ADDRESS"),
        (CLOSED, "for the private network büro, and does not hold its key"),
        (write_invite(Invitation(PEER, (ADDRESS,), 1)), "this invite has expired"),
    ],
)
def test_invites_that_lead_nowhere_leave_no_trace(home: Path, invite: str, message: str, capsys: Captured) -> None:
    assert message in failed(["join", invite], capsys)
    assert not home.exists()


def test_ones_own_invite(home: Path, capsys: Captured) -> None:
    Home(home).init()
    own = write_invite(Invitation(Home(home).identity().peer_id, (ADDRESS,)))
    assert "this node's own invite" in failed(["join", own], capsys)


def test_join_takes_the_network_key_over(home: Path, capsys: Captured) -> None:
    assert main(["join", WITH_KEY]) == 0
    err = capsys.readouterr().err
    assert f"this home is in the private network büro ({NETWORK.fingerprint[:8]}…) from now on" in err
    assert KEY.hex() not in err
    assert Home(home).private_network() == NETWORK
    config = load_config(None, home).network
    assert (config.bootstrap, config.private_bootstrap) == ((), (ENTRY,))
    assert main(["join", CLOSED]) == main(["join", WITH_KEY]) == 0
    assert "is in the private network büro, and the invite" in failed(["join", PUBLIC], capsys).splitlines()[-2]


def test_an_invite_whose_key_is_not_its_networks(home: Path, capsys: Captured) -> None:
    mixed = write_invite(Invitation(PEER, (ADDRESS,), 0, "", "ab" * 8, KEY))
    assert "contradicts itself" in failed(["join", mixed], capsys)
    assert not home.exists()


# --- network ---


def test_create_show_leave_and_back(home: Path, capsys: Captured) -> None:
    assert main(["network"]) == 0
    assert "the public network" in capsys.readouterr().out
    assert main(["network", "create", "--name", "büro", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["private"], made["name"], made["key_file"]) == (True, "büro", str(home / "network.key"))
    network = Home(home).private_network()
    assert network is not None
    assert made["fingerprint"] == network.fingerprint
    assert stat.S_IMODE((home / "network.key").stat().st_mode) == 0o600
    assert main(["network", "show"]) == 0
    out, err = capsys.readouterr()
    assert network.fingerprint in out
    assert network.key.hex() not in out + err
    assert main(["network", "show", "--key"]) == 0
    out, err = capsys.readouterr()
    assert out == f"/key/swarm/psk/1.0.0/\n/base16/\n{network.key.hex()}\n"
    assert "whoever has this key" in err
    assert "leave it first" in failed(["network", "create"], capsys)
    assert main(["network", "leave", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)["key_kept_in"]
    assert Home(home).private_network() is None
    assert "in no private network" in failed(["network", "show", "--key"], capsys)
    assert main(["network", "join", kept, "--name", "again"]) == 0
    assert Home(home).private_network() == PrivateNetwork(network.key, "again")


def test_enter_by_a_key_file_or_an_invite(home: Path, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "swarm.key"
    file.write_text(f"/key/swarm/psk/1.0.0/\n/base16/\n{KEY.hex()}\n")
    assert "chmod 600" in failed(["network", "join", str(file)], capsys)
    file.chmod(0o600)
    assert main(["network", "join", str(file)]) == 0
    assert Home(home).private_network() == PrivateNetwork(KEY)
    assert "leave it first" in failed(["network", "join", WITH_KEY], capsys)
    other = tmp_path / "other"
    assert main(["network", "join", WITH_KEY, "--home", str(other)]) == 0
    assert Home(other).private_network() == NETWORK
    assert load_config(None, other).network.private_bootstrap == (ENTRY,)
    assert KEY.hex() not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["join", "nowhere.key"], "nowhere.key is missing"),
        (["join", "nowhere.key"], "hint: check the path"),
        (["join", CLOSED], "this invite holds no network key"),
        (["leave"], "in no private network"),
        (["leave"], "hint: there is nothing to leave"),
        (["create", "--name", "a\x1b[31m"], "characters, all of them printable"),
        (["create", "--name", "n" * 65], "at most 64 characters"),
    ],
)
def test_what_networks_cannot_do(home: Path, words: list[str], message: str, capsys: Captured) -> None:
    assert main(["network", *words]) == 2
    assert message in capsys.readouterr().err
    assert Home(home).private_network() is None


def test_an_encrypted_key_is_handed_over_by_show(home: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCOON_PASSPHRASE", "correct horse")
    assert main(["network", "create"]) == 0
    assert "network show --key" in capsys.readouterr().err
    assert "ENCRYPTED" in (home / "network.key").read_text()


def test_without_the_passphrase_one_can_look_and_leave(
    home: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COCOON_PASSPHRASE", "correct horse")
    assert main(["network", "create", "--name", "my office", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    monkeypatch.delenv("COCOON_PASSPHRASE")
    assert main(["network", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["fingerprint"]) == ("my office", made["fingerprint"])
    assert "no passphrase is set" in failed(["network", "show", "--key"], capsys)
    monkeypatch.setenv("COCOON_PASSPHRASE", "wrong")
    assert "check COCOON_PASSPHRASE" in failed(["network", "show", "--key"], capsys)
    monkeypatch.delenv("COCOON_PASSPHRASE")
    assert main(["network", "leave"]) == 0
    kept = home / f"network-{made['fingerprint'][:8]}.key"
    assert f"network join {kept} --name 'my office'" in capsys.readouterr().err
    assert not (home / "network.fingerprint").exists()
    monkeypatch.setenv("COCOON_PASSPHRASE", "correct horse")
    assert main(["network", "join", str(kept)]) == 0
    network = Home(home).private_network()
    assert network is not None
    assert network.fingerprint == made["fingerprint"]


def test_hints_name_a_home_that_is_not_the_usual_one(home: Path, capsys: Captured) -> None:
    other = home.parent / "other"
    assert main(["network", "create", "--home", str(other)]) == 0
    assert f"cocoon-node invite --with-network-key --home {other}" in capsys.readouterr().err
    assert f"network leave --home {other}" in failed(["network", "create", "--home", str(other)], capsys)


# --- arguments ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["peers", "ban", "x", "--for", "5x"], "no time such as 90s, 10m, 1h or 7d"),
        (["peers", "ban", "x", "--for", "0s"], "no time such as"),
        (["peers", "ban", "x", "--for", "400d"], "the longest is 365d"),
        (["ping", "x", "--count", "-1"], "no whole number from 0"),
        (["invite", "--hours", "0"], "no number of hours"),
        (["invite", "--hours", "nan"], "no number of hours"),
        (["peers", "bann", "x"], "did you mean ban?"),
    ],
)
def test_arguments_are_checked(home: Path, words: list[str], message: str, capsys: Captured) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("7D", 604_800), ("2min", 120)]
)
def test_times_as_people_write_them(text: str, seconds: float) -> None:
    from cocoon_p2p.cli.parser import parse

    assert parse(["peers", "ban", "x", "--for", text]).duration_s == seconds
    assert parse(["peers", "ban", "x"]).duration_s is None
