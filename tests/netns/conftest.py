"""Tests that need network namespaces: root on Linux, `ip` and `nft`. Where they cannot run the summary says why."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from namespaces import Internet, remove_leftovers, run

HERE = Path(__file__).parent
_INSTALL_TIMEOUT_S = 120.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def namespaces_work() -> None:
    """Skips, loudly, what cannot be had; installs what apt can bring."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: NAT, relays and hole punching; network namespaces need root")
    missing = [name for name in ("ip", "nft") if shutil.which(name) is None]
    if missing:
        _install("iproute2", "nftables")
    missing = [name for name in ("ip", "nft") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"NOT TESTED: NAT, relays and hole punching; {' and '.join(missing)} cannot be had on this machine")
    internet = Internet()
    try:
        remove_leftovers([line.split()[0] for line in run("ip", "netns", "list").splitlines() if line])
        internet.behind(internet.router("router", "cone"), "inside")
    except RuntimeError as error:
        pytest.skip(f"NOT TESTED: NAT, relays and hole punching; no namespaces with NAT on this machine: {error}")
    finally:
        internet.close()


@pytest.fixture
def internet(namespaces_work: None) -> Iterator[Internet]:
    made = Internet()
    try:
        yield made
    finally:
        made.close()


def _install(*packages: str) -> None:
    apt = shutil.which("apt-get")
    if apt is None:
        return
    command = [apt, "install", "-y", "-qq", "--no-install-recommends", *packages]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_INSTALL_TIMEOUT_S, check=False)
        if done.returncode:  # a fresh image has no package lists
            subprocess.run([apt, "update", "-qq"], capture_output=True, timeout=_INSTALL_TIMEOUT_S, check=False)
            subprocess.run(command, env=environment, capture_output=True, timeout=_INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        pass  # the skip says what is missing
