"""The demo's processes: asked, failing, stopped, and none left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from cocoon_p2p.cli.demo_network import (
    ChildFailed,
    bootstrap_plan,
    client_plan,
    open_children,
    provider_plans,
)
from cocoon_p2p.config import parse_config, render_toml
from cocoon_p2p.errors import CocoonError

PROGRAM = """
import os, subprocess, sys
print('{"pid": %d}' % os.getpid(), flush=True)
print("a warning", file=sys.stderr, flush=True)
for line in sys.stdin:
    if "fail" in line:
        sys.exit("the last word")
    if "child" in line:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print('{"pid": %d}' % child.pid, flush=True)
    elif "error" in line:
        print('{"status": 400, "error": {"code": "X", "message": "no", "hint": "h"}}', flush=True)
    elif "garbage" in line:
        print("garbage", flush=True)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "demo_child.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return ["demo_child"]


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        if not Path("/proc/self/stat").exists():
            return True
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


async def until_gone(pid: int) -> None:
    """A process closes its stderr a moment before it is off the list."""
    with trio.fail_after(60):
        while runs(pid):  # noqa: ASYNC110 - its end is told to nobody but its parent
            await trio.sleep(0.001)


async def test_a_child_and_what_it_started_are_gone_at_the_end(program: list[str]) -> None:
    async with open_children() as children:
        child = await children.start("a child", program)
        pid = (await child.line(10))["pid"]
        grandchild = (await child.ask({"do": "child"}, 10))["pid"]
        assert runs(pid)
        assert runs(grandchild)
    await until_gone(pid)
    await until_gone(grandchild)


async def test_a_child_that_fails_says_its_last_lines(program: list[str]) -> None:
    with pytest.raises(ChildFailed, match=r"a child ended by itself \(exit status 1\)") as raised:
        async with open_children() as children:
            child = await children.start("a child", program)
            await child.line(10)
            await child.ask({"do": "fail"}, 10)
    assert raised.value.last_lines == ("a warning", "the last word")


async def test_a_child_that_is_killed_ends_the_block_at_once(program: list[str]) -> None:
    with pytest.raises(ChildFailed, match=r"\(signal 9\)"):
        async with open_children() as children:
            child = await children.start("a child", program)
            os.kill((await child.line(10))["pid"], signal.SIGKILL)
            await trio.sleep_forever()


async def test_a_child_that_does_not_exist() -> None:
    with pytest.raises(ChildFailed) as raised:
        async with open_children() as children:
            await (await children.start("a child", ["no_such_module_of_ours"])).line(10)
    assert "No module named" in raised.value.last_lines[-1]


async def test_errors_silence_and_garbage(program: list[str]) -> None:
    async with open_children() as children:
        child = await children.start("a child", program)
        await child.line(10)
        with pytest.raises(CocoonError, match=r"^no$") as raised:
            await child.ask({"do": "error"}, 10)
        assert (raised.value.code, raised.value.hint) == ("X", "h")
        with pytest.raises(ChildFailed, match="no JSON"):
            await child.ask({"do": "garbage"}, 10)
        with pytest.raises(ChildFailed, match="said nothing"):
            await child.ask({"do": "nothing"}, 0.01)


async def test_cancelling_leaves_nothing_behind(program: list[str]) -> None:
    pid = 0
    with trio.CancelScope() as scope:
        async with open_children() as children:
            pid = (await (await children.start("a child", program)).line(10))["pid"]
            scope.cancel()
            await trio.sleep_forever()
    assert pid
    await until_gone(pid)


async def test_the_workshop_says_what_is_wrong(tmp_path: Path) -> None:
    async with open_children() as children:
        workshop = await children.start("the workshop", ["cocoon_p2p.cli.demo_workshop"])
        (tmp_path / "file").write_text("")
        with pytest.raises(CocoonError, match="the demo's model cannot be prepared"):
            await workshop.ask({"do": "install", "cache": str(tmp_path / "file" / "x"), "homes": []}, 30)
        with pytest.raises(CocoonError, match=r"manifest\.json"):
            await workshop.ask({"do": "measure", "folder": str(tmp_path), "text": "a", "device": "cpu"}, 30)


def test_the_nodes_configurations() -> None:
    plans = [bootstrap_plan("/ip4/0.0.0.0/tcp/4601"), *provider_plans("/ip4/0.0.0.0/tcp/4601"), client_plan()]
    for plan in plans:
        assert parse_config(render_toml(plan.config), "node.toml") == plan.config
    assert [plan.config.network.listen for plan in plans] == [
        ("/ip4/0.0.0.0/tcp/4601",), *[("/ip4/0.0.0.0/tcp/0",)] * 3, (),
    ]  # fmt: skip
    assert len({(plan.config.provider.price_base, plan.config.provider.price_per_item) for plan in plans[1:4]}) == 3
    assert [plan.config.provider.serve for plan in plans] == [False, True, True, True, False]
