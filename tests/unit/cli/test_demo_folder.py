"""The demo's folders: removed at the end, or left where they were wanted; nobody else's is touched."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from cocoon_p2p.cli.demo_folder import MARKER, PREFIX, demo_folder, model_cache
from cocoon_p2p.cli.doctor_stranger import HOMES
from cocoon_p2p.cli.temporary_homes import ABANDONED_S
from cocoon_p2p.errors import ConfigError


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def make_old(folder: Path) -> None:
    old = folder.stat().st_mtime - 2 * ABANDONED_S
    os.utime(folder, (old, old))


def test_a_temporary_folder_is_removed(temporary: Path) -> None:
    with demo_folder(None) as folder:
        assert folder.parent == temporary
        (folder / "client").mkdir()
    assert not list(temporary.iterdir())


def test_what_killed_demos_left_is_removed_and_nothing_else(temporary: Path) -> None:
    killed, fresh, foreign = (temporary / f"{PREFIX}{name}" for name in ("killed", "fresh", "foreign"))
    for folder in (killed, fresh, foreign):
        (folder / "client").mkdir(parents=True)
    for folder in (killed, fresh):
        (folder / MARKER).touch()
    make_old(killed)
    make_old(foreign)
    with demo_folder(None) as running:
        make_old(running)
        with demo_folder(None):
            assert running.exists()
    assert {folder.name for folder in temporary.iterdir()} == {fresh.name, foreign.name}


def test_a_doctor_that_was_killed_leaves_its_keys_until_the_next_one(temporary: Path) -> None:
    killed, demo = temporary / f"{HOMES.prefix}killed", temporary / f"{PREFIX}killed"
    for folder, marker in ((killed, HOMES.marker), (demo, MARKER)):
        (folder / "stranger").mkdir(parents=True)
        (folder / "stranger" / "identity.pem").touch()
        (folder / marker).touch()
        make_old(folder)
    with HOMES.folder() as folder:
        assert not killed.exists()
        assert demo.exists(), "of another command"
        assert folder.stat().st_mode & 0o077 == 0
        make_old(folder)
        with HOMES.folder():
            assert folder.exists(), "its doctor still runs"


def test_a_given_folder_is_kept_and_used_again(tmp_path: Path) -> None:
    home = tmp_path / "a" / "b"
    for _ in range(2):
        with demo_folder(str(home)) as folder:
            (folder / "client").mkdir(exist_ok=True)
    assert (home / "client").is_dir()


def test_a_given_folder_that_is_not_a_demos(tmp_path: Path) -> None:
    (tmp_path / "identity.pem").touch()
    with pytest.raises(ConfigError, match="holds something else"), demo_folder(str(tmp_path)):
        pass
    with pytest.raises(ConfigError, match=r"Not a directory|File exists"), demo_folder(str(tmp_path / "identity.pem")):
        pass
    assert not (tmp_path / MARKER).exists()


def test_two_demos_in_one_folder(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    with demo_folder(home), pytest.raises(ConfigError, match="another demo runs"), demo_folder(home):
        pass


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert model_cache(tmp_path) == tmp_path / "cache" / "cocoon_p2p" / "demo"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert model_cache(tmp_path) == tmp_path / "cache"
