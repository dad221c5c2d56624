"""The private network of a home: its key on the disk, with and without a passphrase."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.home import Home, PrivateNetwork

KEY = bytes(range(32))
SWARM_KEY = f"/key/swarm/psk/1.0.0/\n/base16/\n{KEY.hex()}\n"


@pytest.fixture(autouse=True)
def no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COCOON_PASSPHRASE", "COCOON_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_a_home_is_in_no_private_network_by_itself(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert home.private_network() is None
    with pytest.raises(ConfigError, match="in no private network"):
        home.leave_private_network()


def test_the_key_is_kept_as_other_programs_have_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.enter_private_network(PrivateNetwork(KEY, "büro"))
    assert home.network_file.read_text() == SWARM_KEY
    assert stat.S_IMODE(home.network_file.stat().st_mode) == 0o600
    assert home.private_network() == PrivateNetwork(KEY, "büro")
    with pytest.raises(ConfigError, match="in a private network already") as caught:
        home.enter_private_network(PrivateNetwork(bytes(32)))
    assert caught.value.hint
    assert home.network_file.read_text() == SWARM_KEY


def test_leaving_destroys_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.enter_private_network(PrivateNetwork(KEY, "büro"))
    kept = home.leave_private_network()
    assert home.private_network() is None
    assert home.read_network_key(kept) == KEY
    home.enter_private_network(PrivateNetwork(bytes(32)))
    assert home.private_network() == PrivateNetwork(bytes(32), ""), "without the other one's name"


def test_with_a_passphrase_it_is_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCOON_PASSPHRASE", "correct horse")
    home = Home(tmp_path / "home")
    home.enter_private_network(PrivateNetwork(KEY))
    assert KEY.hex() not in home.network_file.read_text()
    assert home.network_file.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert home.private_network() == PrivateNetwork(KEY)
    kept = home.leave_private_network()
    assert home.read_network_key(kept) == KEY
    monkeypatch.setenv("COCOON_PASSPHRASE", "wrong")
    with pytest.raises(ConfigError, match="passphrase is wrong"):
        home.read_network_key(kept)
    monkeypatch.delenv("COCOON_PASSPHRASE")
    with pytest.raises(ConfigError, match="no passphrase is set"):
        home.read_network_key(kept)


@pytest.mark.parametrize("content", ["", "nonsense", SWARM_KEY[:-10], SWARM_KEY.replace("00", "zz"), "\xff\xfe"])
def test_what_is_no_key_is_said_without_showing_it(tmp_path: Path, content: str) -> None:
    file = tmp_path / "some.key"
    file.write_bytes(content.encode("latin-1"))
    file.chmod(0o600)
    with pytest.raises(ConfigError, match=r"some\.key holds no network key") as caught:
        Home(tmp_path).read_network_key(file)
    assert caught.value.hint
    assert KEY.hex()[:12] not in caught.value.message


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "some.key"
    file.write_text(SWARM_KEY)
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others") as caught:
        Home(tmp_path).read_network_key(file)
    assert "chmod 600" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="is missing"):
        Home(tmp_path).read_network_key(tmp_path / "nowhere")


def test_the_fingerprint_is_that_of_invites_and_the_key_is_in_no_repr() -> None:
    network = PrivateNetwork(KEY, "büro")
    assert network.fingerprint == hashlib.sha256(b"cocoon private network fingerprint\0" + KEY).hexdigest()[:16]
    assert "key" not in repr(network)
