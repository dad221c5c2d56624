"""The jail of model processes: what it keeps in, what it lets a worker do, and that its walls are what keeps it in."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution import jail, jail_landlock, jail_syscalls
from cocoon_p2p.testing import models

complete = pytest.mark.skipif(not jail.support().complete, reason=f"no jail here: {jail.support().reason}")
PROBE = Path(__file__).with_name("jail_probe.py")
MEMORY = 512 * 2**20
NOT_FOR_EVERYBODY = {"mount", "a program for the kernel", "io_uring", "a key ring", "page faults of one's own"}
"""What a machine or a container may keep from a free process, too."""


def folder_of_models(place: Path) -> Path:
    folder = models.embedding_model(place / "models")
    models.matmul_model(folder).replace(folder / "model.onnx")
    (place / "secret").write_bytes(b"secret")
    (folder / "link").symlink_to(place / "secret")
    for name in ("spare", "doomed"):
        (folder / name).write_bytes(b"12")
    return folder


def probed(place: Path, mode: str) -> dict[str, Any]:
    command = [sys.executable, str(PROBE), mode, str(folder_of_models(place)), str(MEMORY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return probed(tmp_path_factory.mktemp("free"), "none")


@complete
def test_what_a_jailed_process_cannot_do_and_a_free_one_can(tmp_path: Path, free: dict[str, Any]) -> None:
    jailed = probed(tmp_path, "cpu")
    assert {name for name, outcome in jailed["attacks"].items() if outcome == "done"} == set()
    assert jailed["let through"] == []
    refused = {name for name, outcome in free["attacks"].items() if outcome != "done"}
    assert refused <= NOT_FOR_EVERYBODY, free["attacks"]
    assert jailed["work"] == free["work"]
    assert jailed["work"]["answer"] == [[42, 48, 54], [114, 136, 158]]
    assert jailed["jail_ms"] < 100  # 2 ms on an idle machine
    assert (tmp_path / "models" / "doomed").exists()


@complete
def test_the_wider_jail_for_drivers_keeps_in_what_matters(tmp_path: Path, free: dict[str, Any]) -> None:
    jailed = probed(tmp_path, "cuda")
    assert {name for name, outcome in jailed["attacks"].items() if outcome == "done"} == set()
    assert jailed["let through"] == []
    assert jailed["work"] == free["work"]


@complete
def test_a_process_with_a_second_thread_is_not_shut_in(tmp_path: Path) -> None:
    program = """
import sys, threading
from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.jail import enter_jail
threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    enter_jail([], memory_bytes=None, device="cpu", keep_output=True)
except ExecutionError as error:
    print(error.code, error.message)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("WORKER the model's process could not be shut in: 1 threads beside the one that asks")


def test_what_is_said_where_a_wall_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jail_landlock, "abi", lambda: 0)
    found = jail.support()
    assert not found.complete
    if sys.platform == "linux":
        assert "lacks Landlock" in found.reason
        monkeypatch.setattr(jail_syscalls, "filters_available", lambda: False)
        assert "seccomp" in jail.support().reason
        monkeypatch.setattr(platform, "machine", lambda: "riscv64")
        assert "a list of system calls for riscv64" in jail.support().reason
    monkeypatch.setattr(sys, "platform", "darwin")
    assert jail.support() == jail.JailSupport(0, False, "there is no jail for model processes on macOS; Linux has one")


def test_filters_for_both_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("filters are Linux'")
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        for strict in (True, False):
            program = jail_syscalls.filter_program(strict=strict, pid=7)
            assert len(program) % 8 == 0
            assert len(program) // 8 < 4096  # BPF_MAXINSNS
    assert jail_syscalls.number_of("execve") == 221
    assert jail_syscalls.number_of("fork") is None


@pytest.mark.skipif(not Path("/usr/include/asm-generic/unistd.h").exists(), reason="without the kernel's headers")
def test_the_numbers_are_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    text = Path("/usr/include/asm-generic/unistd.h").read_text()
    generic = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    generic["newfstatat"] = generic["fstatat"]
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    tables = [
        (name, numbers)
        for table in (jail_syscalls._ALLOWED, jail_syscalls._REFUSED, jail_syscalls._RULED)
        for name, numbers in table.items()
    ]
    wrong = {name: numbers[1] for name, numbers in tables if name in generic and numbers[1] != generic[name]}
    assert wrong == {}
    headers = list(Path("/usr/include").glob("*/asm/unistd_64.h"))
    if headers:
        found = re.findall(r"#define __NR_(\w+) (\d+)", headers[0].read_text())
        own = {name: int(number) for name, number in found}
        assert {name: n[0] for name, n in tables if name in own and n[0] != own[name]} == {}


def test_that_a_jail_which_cannot_be_closed_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "not today")

    monkeypatch.setattr(jail, "_let_go_of_terminal", refuse)
    with pytest.raises(ExecutionError, match="could not be shut in") as caught:
        jail.enter_jail([tmp_path], memory_bytes=None, device="cpu")
    assert caught.value.code == "WORKER"
