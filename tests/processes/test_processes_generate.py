"""Text from a real model in real processes: as it comes, stopped by Ctrl-C, and gone on with by a second provider after kill -9."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from towns import NodeProcess, RunningCommand, Town, eventually, explained

from cocoon_p2p.testing.tiny_genai import make_tiny_genai

pytestmark = [pytest.mark.processes, pytest.mark.slow]

LONG = 12_000
"""Tokens that keep a worker busy for ten seconds on an idle machine."""
ENOUGH = ("--max-price", "10000000000", "--timeout", "120")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A bootstrap node, two providers of one tiny model, and a client that knows both."""
    model = make_tiny_genai(tmp_path_factory.mktemp("model") / "tiny", context=16_384)
    with Town(tmp_path_factory.mktemp("generate")) as town:
        join = [town.start("bootstrap").address]
        for name in ("one", "two"):
            town.launch(name, "--model", str(model), bootstrap=join)
        town.launch("client", bootstrap=join)
        for node in town.nodes.values():
            node.wait_ready()
        eventually(lambda: len(town.nodes["client"].offers("tiny")) == 2, "both are known")
        yield town


def generate(town: Town, *arguments: str) -> RunningCommand:
    return town.cli_started("generate", "tiny", *arguments, *ENOUGH, home=town.nodes["client"].home)


def at_work(town: Town) -> NodeProcess | None:
    return next((town.nodes[n] for n in ("one", "two") if town.nodes[n].working_on("tiny")), None)


def same_money(town: Town) -> None:
    """Both ends say the same, once the last receipts are signed."""

    def agree() -> bool:
        client = town.nodes["client"].peer_id
        told = [
            each for n in ("one", "two") for each in town.nodes[n].wallet()["channels"] if each["peer_id"] == client
        ]
        return bool(town.nodes["client"].wallet()["spent_nanogram"] == sum(each["earned_nanogram"] for each in told))

    eventually(agree, "the money is the same at both ends")


def test_both_providers_write_the_same(town: Town) -> None:
    by = {name: town.nodes[name].peer_id for name in ("one", "two")}
    made = {}
    for name, peer in by.items():
        asked = ("Why is the sky blue?", "--max-tokens", "50", "--temperature", "1", "--seed", "9", "--logprobs", "1")
        made[name] = generate(town, *asked, "--provider", peer[-12:], "--json").wait().json
        assert made[name]["provider"] == peer
    one, two = made["one"], made["two"]
    assert one["text"] == two["text"] != ""
    assert one["tokens"][0]["logprob"] == pytest.approx(two["tokens"][0]["logprob"], abs=1e-3)
    usage = one["usage"]
    assert usage["completion_tokens"] == len(one["tokens"]) == 50
    price = town.nodes["one"].model("tiny")
    assert one["price_nanogram"] == price["price_base"] + price["price_per_item"] * (usage["prompt_tokens"] + 50)
    same_money(town)


def test_as_a_guest_with_a_form_for_the_answer(town: Town, tmp_path: Path) -> None:
    entry = ("--bootstrap", town.nodes["bootstrap"].address)
    ended = town.cli(
        "generate",
        "tiny",
        "A number!",
        "--regex",
        "[0-9]{8}",
        *entry,
        "--max-price",
        "100000000",
        home=tmp_path / "new",
    )
    assert ended.status == 0, ended.err
    assert re.fullmatch(r"[0-9]{8}\n", ended.out)
    assert "GRAM (test money, no value) with 13 tokens of the prompt, by 12D3" in ended.err


def test_what_a_model_does_not_take_is_said(town: Town) -> None:
    assert "generates text" in explained(town.cli("run", "tiny", "--text", "x", home=town.nodes["client"].home), 1)
    role = town.root / "chat.json"
    role.write_text('[{"role": "nobody", "content": "x"}]')
    assert "no such role" in explained(generate(town, "--chat", str(role)).wait(), 1)


def test_ctrl_c_stops_the_worker_and_pays_what_came(town: Town) -> None:
    command = generate(town, "Go on!", "--max-tokens", str(LONG), "--json", "--stream")
    assert command.process.stdout is not None
    first = [json.loads(command.process.stdout.readline()) for _ in range(3)]
    assert "start" in first[0]
    assert "piece" in first[2], "it comes while it is made"
    worker = at_work(town)
    assert worker is not None
    command.process.send_signal(signal.SIGINT)
    stopped = time.monotonic()
    eventually(lambda: not worker.working_on("tiny"), "the worker stops")
    took = time.monotonic() - stopped
    ended = command.wait()
    assert ended.status == 130, ended.err
    *_, last = [json.loads(line) for line in ended.out.splitlines()]
    result = last["result"]
    assert result["finish"] == "caller"
    assert 2 <= result["usage"]["completion_tokens"] < LONG
    assert result["price_nanogram"] > 0
    assert "stopped; what came is paid" in ended.err
    assert took < 5.0, "0.1 s on an idle machine, where the whole answer takes ten"
    same_money(town)


def test_ctrl_c_as_a_guest(town: Town, tmp_path: Path) -> None:
    entry = ("--bootstrap", town.nodes["bootstrap"].address)
    asked = ("Go on!", "--max-tokens", str(LONG), "--json", "--stream", *ENOUGH, *entry)
    command = town.cli_started("generate", "tiny", *asked, home=tmp_path / "new")
    assert command.process.stdout is not None
    first = [json.loads(command.process.stdout.readline()) for _ in range(2)]
    assert "piece" in first[1]
    command.process.send_signal(signal.SIGINT)
    ended = command.wait()
    assert ended.status == 130, ended.err
    result = json.loads(ended.out.splitlines()[-1])["result"]
    assert result["finish"] == "caller"
    wallet = town.cli("wallet", "--json", home=tmp_path / "new").json
    assert wallet["spent_nanogram"] == result["price_nanogram"] > 0


def test_a_client_that_is_killed_stops_the_worker(town: Town) -> None:
    command = generate(town, "Go on!", "--max-tokens", str(LONG), "--json", "--stream")
    assert command.process.stdout is not None
    command.process.stdout.readline()
    worker = eventually(lambda: at_work(town), "somebody writes")
    command.process.kill()
    command.wait()
    eventually(lambda: not worker.working_on("tiny"), "the worker stops", 5.0)
    same_money(town)


def test_on_a_terminal_it_appears_as_it_is_made(town: Town) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    home = str(town.nodes["client"].home)
    command = [sys.executable, "-m", "cocoon_p2p", "generate", "tiny", "Go on!", "--temperature", "1", "--seed", "4",
               "--max-tokens", "600", *ENOUGH, "--home", home]  # fmt: skip
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=town.environment, start_new_session=True
    )
    os.close(theirs)
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        try:
            while piece := terminal.read(65536):
                shown += piece
        except OSError:  # how a terminal ends
            pass
    assert process.wait(30) == 0, shown
    text, _, summary = shown.decode().rpartition("cocoon-node: ")
    assert "tokens at" in summary
    assert not set(text) & {"\x1b", "\x07", "\x08", "\x0e", "\x9b"}, "random bytes, of which none moves the cursor"
    assert "\ufffd" in text


def result_of(command: RunningCommand) -> dict[str, Any]:
    ended = command.wait(120)
    assert ended.status == 0, ended.err
    return dict(json.loads(ended.out.splitlines()[-1])["result"])


LONG_ANSWER = (
    "Tell me all!", "--max-tokens", "3000", "--temperature", "0.9", "--top-k", "10", "--seed", "11", "--json", "--stream",
)  # fmt: skip


def read_lines(command: RunningCommand, count: int) -> None:
    assert command.process.stdout is not None
    for _ in range(count):
        command.process.stdout.readline()


def name_of(town: Town, node: NodeProcess) -> str:
    return next(name for name, each in town.nodes.items() if each is node)


def test_kill_9_in_the_middle_of_an_answer(town: Town) -> None:
    """One provider is gone for a while."""
    whole = result_of(generate(town, *LONG_ANSWER))
    assert whole["attempts"] == []
    command = generate(town, *LONG_ANSWER)
    read_lines(command, 300)
    doomed = at_work(town)
    assert doomed is not None, "too quick to be killed in the middle"
    doomed.kill()
    again = result_of(command)
    assert again["text"] == whole["text"], "no gap, no repeat"
    assert again["usage"] == whole["usage"]
    assert [each["provider"] for each in again["attempts"]] == [doomed.peer_id]
    assert again["provider"] != doomed.peer_id
    town.start(name_of(town, doomed), bootstrap=[town.nodes["bootstrap"].address])
    result_of(generate(town, "x", "--max-tokens", "1", "--provider", doomed.peer_id, "--json", "--stream"))
    same_money(town)


def test_kill_9_of_the_only_one_that_may_write_it(town: Town) -> None:
    """It is started again, where it was, and goes on."""
    only = town.nodes["one"]
    asked = (*LONG_ANSWER, "--provider", only.peer_id)
    whole = result_of(generate(town, *asked))
    command = generate(town, *asked)
    read_lines(command, 300)
    only.kill()
    town.launch("one", bootstrap=[town.nodes["bootstrap"].address])
    again = result_of(command)
    assert again["text"] == whole["text"], "no gap, no repeat"
    assert again["usage"] == whole["usage"]
    assert {each["provider"] for each in again["attempts"]} == {again["provider"]} == {only.peer_id}
    price = town.nodes["one"].wait_ready().model("tiny")
    prompts = 2 * (price["price_base"] + price["price_per_item"] * whole["usage"]["prompt_tokens"])
    tokens = 2 * price["price_per_item"] * 3000
    assert whole["price_nanogram"] < again["price_nanogram"] < prompts + tokens, (
        "what came is paid once, and as a prompt"
    )
    same_money(town)
