"""The home folder: keys that are made once and kept safe, and a lock that one node holds."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cocoon_p2p.config import NodeConfig, load_config
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.home import SOCKET_PATH_BYTES_MAX, Home, locate_home


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COCOON_HOME", "COCOON_PASSPHRASE", "COCOON_PASSPHRASE_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.init()
    return made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_init_makes_private_files(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home")
    assert not home.initialised
    assert {file.name for file in home.init()} == {"identity.pem", "channel.pem", "node.toml"}
    assert home.initialised
    assert mode(home.path) == 0o700
    assert {mode(file) for file in home.path.iterdir()} == {0o600}
    assert len(list(home.path.iterdir())) == 3, "temporary files are left"
    assert load_config(None, home.path) == NodeConfig()


def test_init_again_changes_nothing(home: Home) -> None:
    before = {file: file.read_bytes() for file in home.path.iterdir()}
    assert home.init() == []
    assert {file: file.read_bytes() for file in home.path.iterdir()} == before


def test_init_adds_what_is_missing_and_keeps_the_rest(home: Home) -> None:
    peer_id = home.identity().peer_id
    home.channel_file.unlink()
    assert home.init() == [home.channel_file]
    assert home.identity().peer_id == peer_id


def test_simultaneous_inits_agree_on_one_key(tmp_path: Path) -> None:
    homes = [Home(tmp_path / "home") for _ in range(8)]
    threads = [threading.Thread(target=home.init) for home in homes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({home.identity().peer_id for home in homes}) == 1
    assert len(list(homes[0].path.iterdir())) == 3


def test_identity_and_channel_keys_differ_and_last(home: Home) -> None:
    again = Home(home.path)
    assert again.identity().peer_id == home.identity().peer_id
    assert again.channel_key().public_key == home.channel_key().public_key
    assert home.identity().public_key != home.channel_key().public_key
    assert "home" in repr(home)


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make the home folder"):
        Home(tmp_path / "file" / "home").init()


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(home: Home, bits: int) -> None:
    home.identity_file.chmod(bits)
    with pytest.raises(ConfigError, match="can be read by others") as caught:
        home.identity()
    assert caught.value.hint == f"chmod 600 {home.identity_file}"


@pytest.mark.parametrize("content", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_corrupt_key(home: Home, content: bytes) -> None:
    home.identity_file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"identity\.pem: the file is damaged") as caught:
        home.identity()
    assert "\n" not in caught.value.message


def test_a_missing_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing") as caught:
        Home(tmp_path).identity()
    assert caught.value.hint == "make a new identity: cocoon-node init"


def test_keys_with_a_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    monkeypatch.setenv("COCOON_PASSPHRASE", "correct horse")
    home.init()
    assert home.encrypted
    assert home.identity().seed not in home.identity_file.read_bytes()
    monkeypatch.setenv("COCOON_PASSPHRASE", "wrong horse")
    with pytest.raises(ConfigError, match="the passphrase is wrong, or the file is damaged") as caught:
        home.identity()
    assert "horse" not in str(caught.value)
    monkeypatch.delenv("COCOON_PASSPHRASE")
    with pytest.raises(ConfigError, match="is encrypted and no passphrase is set"):
        home.identity()
    (tmp_path / "secret").write_text("correct horse\n")
    monkeypatch.setenv("COCOON_PASSPHRASE_FILE", str(tmp_path / "secret"))
    assert home.identity().peer_id == Home(home.path, passphrase_file="/nowhere").identity().peer_id
    monkeypatch.delenv("COCOON_PASSPHRASE_FILE")
    assert Home(home.path, passphrase_file=str(tmp_path / "secret")).identity()


def test_bad_passphrases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCOON_PASSPHRASE", "")
    with pytest.raises(ConfigError, match="COCOON_PASSPHRASE must hold 1 to 1023 bytes"):
        Home(tmp_path).init()
    monkeypatch.delenv("COCOON_PASSPHRASE")
    with pytest.raises(ConfigError, match="cannot read the passphrase file"):
        Home(tmp_path, passphrase_file=str(tmp_path / "nowhere")).init()
    assert list(tmp_path.iterdir()) == []


def test_a_passphrase_for_a_plain_key_is_remarked_upon(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("COCOON_PASSPHRASE", "unused secret")
    assert home.identity()
    assert "is not encrypted" in caplog.text
    assert "unused secret" not in caplog.text


HOLD = """
import sys
from cocoon_p2p.home import Home
with Home(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_node_a_home_and_the_lock_dies_with_its_holder(home: Home) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"in use by another node \(pid {holder.pid}\)"), home.lock():
            pass
        holder.kill()
    with home.lock():
        assert home.lock_file.read_text() == str(os.getpid())


def test_the_lock_is_let_go(home: Home) -> None:
    with home.lock(), pytest.raises(ConfigError, match="in use"), Home(home.path).lock():
        pass
    with home.lock():
        pass


def test_the_socket_stands_in_the_home(home: Home) -> None:
    with home.api_socket_place() as place:
        assert place == home.api_socket() == home.path / "api.sock"


def test_a_socket_that_a_killed_node_left_is_replaced(home: Home) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(home.api_socket()))
    with home.api_socket_place() as place, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
    assert not home.api_socket().exists()


def test_the_folder_of_a_socket_that_a_killed_node_left_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    home = Home(tmp_path / ("d" * SOCKET_PATH_BYTES_MAX))
    home.init()
    left = tmp_path / "cocoon-left"
    left.mkdir()
    (home.path / "api.path").write_text(str(left / "api.sock"))
    with home.api_socket_place() as place:
        assert not left.exists()
        assert place.parent.exists()
    left.mkdir()
    other = tmp_path / "somebody's"  # whatever the file says, nothing but such a folder is removed
    other.mkdir()
    (home.path / "api.path").write_text(str(other / "api.sock"))
    home.forget_socket()
    assert other.exists()
    (home.path / "api.path").write_text(str(left / "api.sock"))
    home.forget_socket()
    assert not left.exists()
    assert home.api_socket() == home.path / "api.sock"


def test_in_a_deep_home_the_socket_stands_elsewhere(tmp_path: Path) -> None:
    home = Home(tmp_path / ("d" * SOCKET_PATH_BYTES_MAX))
    home.init()
    with home.api_socket_place() as place, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        assert Home(home.path).api_socket() == place
        assert mode(place.parent) == 0o700
    assert not place.parent.exists()
    assert home.api_socket() == home.path / "api.sock"


def test_where_the_home_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate_home() == Path.home() / ".cocoon"
    assert locate_home(None, "/configured") == Path("/configured")
    monkeypatch.setenv("COCOON_HOME", "/variable")
    assert locate_home(None, "/configured") == Path("/variable")
    assert locate_home("~/given") == Path.home() / "given"
    monkeypatch.chdir(tmp_path)
    assert locate_home("here") == tmp_path / "here"
