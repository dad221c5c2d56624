"""docs/DEVELOPERS.md keeps its word: its Python is run as it stands against simulated nodes, its commands are parsed, and what it
says of limits and names is compared with the code. (Its whole program runs in tests/processes.)"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from test_sim_failover import NAMES, settled
from test_sim_jobs import autojump_clock
from test_sim_sessions import adding, recurrent_model

import cocoon_p2p
from cocoon_p2p import CocoonError, Node, RefusalReason, RunRequest, limits
from cocoon_p2p.cli.parser import parse
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.generation import GenerationRequest
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.policy.advice import Refusal, would_be_yes
from cocoon_p2p.policy.preference import PREFERENCES
from cocoon_p2p.tensors import Payload, Tensor, unpack_strings
from cocoon_p2p.testing import models
from cocoon_p2p.testing.simulated_writing import whole_answer
from cocoon_p2p.testing.simulation import RunningNode, Simulation
from cocoon_p2p.testing.writing_model import writing_model

__all__ = ["autojump_clock", "recurrent_model"]

PAGE = (Path(__file__).parents[2] / "docs" / "DEVELOPERS.md").read_text()
FLAT = " ".join(PAGE.split())
OTHER = Path(__file__).parents[1] / "processes" / "test_processes_developers.py"
PROGRAM, *BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
COMMANDS = sorted(set(re.findall(r"`(cocoon-node [^`]+)`", PAGE)))


def block(holding: str) -> str:
    found: str
    (found,) = [text for text in BLOCKS if holding in text]
    return found


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an installed text model of the name that the page uses."""
    folder = tmp_path_factory.mktemp("minilm")
    source = models.embedding_model(folder / "source")
    return ModelRegistry(folder / "home").add(source, name="minilm", price_base=100_000, price_per_item=10_000).folder


def lengths(payload: Payload) -> Payload:
    texts = unpack_strings(payload.tensors[0])
    vectors = np.array([[len(text), 1] for text in texts], np.float32)
    return Payload((Tensor("sentence_embedding", "float32", vectors.shape, vectors.tobytes()),))


def too_long(payload: Payload) -> Payload:
    right = lengths(payload)
    wrong = np.frombuffer(right.tensors[0].data, np.float32) + 1
    return Payload((Tensor("sentence_embedding", "float32", right.tensors[0].shape, wrong.tobytes()),))


async def start_all(sim: Simulation, model: Path, count: int = 3, *, liars: int = 0) -> RunningNode:
    await sim.start("bootstrap")
    for number, name in enumerate(NAMES[:count]):
        await sim.start(name, model=model, behaviour=too_long if number < liars else lengths, execute_s=0.05)
    client = await sim.start("client")
    await client.node.offers("minilm")
    await trio.sleep(2)
    return client


async def run(code: str, node: Node) -> dict[str, Any]:
    """Run a block of the page inside a task, as its reader would; what it names is returned. Raises what it raises."""
    compiled = compile(code, "DEVELOPERS.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, Any] = {"node": node, "__name__": "page"}
    assert isinstance(compiled, CodeType)
    result = FunctionType(compiled, names)()
    if inspect.iscoroutine(result):
        await result
    return names


async def test_one_job_its_limits_and_its_result(
    tmp_path: Path, minilm: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, minilm)
        names = await run(block("first, second"), client.node)
        assert [names["first"][0], names["second"][0]] == [14, 18]
        names = await run(block("vectors = to_arrays"), client.node)
        assert names["vectors"].shape == (1, 2)
        assert f"110000 nanogram to {names['result'].provider}" in capsys.readouterr().out


async def test_preferences_by_name_by_object_and_of_ones_own(
    tmp_path: Path, minilm: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, minilm)
        names = await run(block("class WorthASecond"), client.node)
        for answer in ("by_name", "by_object", "by_own"):
            assert names[answer]["sentence_embedding"][0, 0] == 14
        told = re.findall(r'\| `"(\w+)"` \| `(\w+)\(\)` \|', PAGE)
        assert dict(told) == {name: type(each).__name__ for name, each in PREFERENCES.items()}


async def test_the_errors_tell_what_would_do(
    tmp_path: Path, minilm: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, minilm)
        names = await run(block("refused.needed <= 5_000_000"), client.node)
        assert names["outputs"]["sentence_embedding"][0, 0] == 14
        assert client.node.jobs()[0]["price_nanogram"] == 110_000
        await run(block("node.why("), client.node)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 3
        assert all(
            line.endswith("False none PRICE -> runs at ≥ 110,000 nanogram: --max-price 110000") for line in lines
        )
        names = await run(block("node.consider("), client.node)
        assert capsys.readouterr().out == f"would be done by {names['row']['chosen']} for 110000\n"
        for name in ("one", "two", "three"):
            await sim.kill(name)
        with pytest.raises(CocoonError):
            await run(block("refused.needed <= 5_000_000"), client.node)


async def test_many_inputs(
    tmp_path: Path, minilm: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, minilm)
        whole: dict[str, Any] = {}

        async def reader() -> None:
            whole.update(await run(block("def progress("), client.node))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader)
            await trio.sleep(0.3)
            await sim.kill("one")
        assert whole["failed"] == {}
        assert [whole["vectors"][n][0] for n in range(100)] == [len(f"paragraph {n}") for n in range(100)]
        assert capsys.readouterr().out.splitlines()[-1] == "100 done, 0 failed, of 100"
        await run(block("async def lines("), client.node)
        assert capsys.readouterr().out == f"{21 * 110_000} nanogram for 21 lines\n"


async def test_hedge_is_paid_once(tmp_path: Path, minilm: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, minilm)
        for node in sim.nodes.values():
            node.engine.execute_s = 2.0  # far more than was announced
        names = await run(block("hedge=2"), client.node)
        assert names["outputs"]["sentence_embedding"][0, 0] == 14
        assert len({job["peer_id"] for job in client.node.jobs()}) == 2
        assert await settled(sim) == (110_000, 110_000)


async def test_wrong_answers(
    tmp_path: Path, minilm: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, minilm, liars=1)
        names = await run(block("quorum=3"), client.node)
        said = capsys.readouterr().out.splitlines()
        assert said[0] == "2 of 3 agree, for 330000"
        assert len(names["result"].evidence) == 1
        assert len(said) == 5
        await run(block("node.audit("), client.node)
        rows = capsys.readouterr().out.splitlines()
        assert len(rows) == 6
        assert sum(f"{sim.nodes['one'].node.peer_id} wrong" in row for row in rows) == 2
        assert sum(" right " in row for row in rows) == 4


async def test_sessions(
    tmp_path: Path, recurrent_model: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        await sim.start("one", model=recurrent_model, behaviour=adding)
        client = await sim.start("client")
        steps = "import numpy as np\nsteps = [np.ones((1, 3), np.float32)] * 3\n"
        names = await run(steps + block("node.session("), client.node)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "[[3.0, 3.0, 3.0, 3.0]]",
        "[[6.0, 6.0, 6.0, 6.0]]",
        "[[9.0, 9.0, 9.0, 9.0]]",
        f"3 {names['session'].price_nanogram}",
    ]


async def test_text_as_it_is_made(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Simulation(tmp_path / "sim", seed=1) as sim:
        await sim.start("bootstrap")
        await sim.start("one", model=writing_model(tmp_path, name="llama"))
        client = await sim.start("client")
        names = await run(block("Why is the sky blue?"), client.node)
    text, _, said = capsys.readouterr().out.rpartition("\n")[0].rpartition("\n")
    answer = names["answer"]
    assert text == answer.text
    assert said == f"length: 200 tokens for {answer.price_nanogram} nanogram"
    assert f"{limits.INSTALMENT_TOKENS} tokens ahead" in FLAT
    assert f"60 seconds for every {limits.GENERATION_TIMEOUT_TOKENS} of `max_tokens`" in FLAT


async def test_an_answer_whose_provider_dies(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    whole: dict[str, Any] = {}
    async with Simulation(tmp_path / "sim", seed=1) as sim:
        await sim.start("bootstrap")
        model = writing_model(tmp_path, name="llama")
        for name in NAMES[:2]:
            await sim.start(name, model=model)
        client = await sim.start("client")
        await client.node.offers("llama")
        await trio.sleep(2)

        async def reader() -> None:
            whole.update(await run(block("lost on the way"), client.node))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader)
            await trio.sleep(2)
            (name,) = [each for each in NAMES[:2] if sim.nodes[each].engine.streams]
            await sim.kill(name)
        dead = whole["answer"].attempts[0]["provider"]
        assert whole["answer"].text == whole_answer(
            GenerationRequest(messages=({"role": "user", "content": "Why is the sea salty?"},), max_tokens=300, seed=1)
        )
        assert capsys.readouterr().out.startswith(f"lost on the way: {dead} ")
        for each in NAMES[:2]:
            if each in sim.nodes and each != name:
                await sim.kill(each)
        await run(block("lost on the way"), client.node)
        assert " after 0 tokens: " in capsys.readouterr().out


def test_every_block_is_run_by_one_of_these_tests() -> None:
    """Or by tests/processes/test_processes_developers.py, where a real model writes."""
    here = "".join(path.read_text() for path in (Path(__file__), OTHER))
    ways = [ast.literal_eval(text) for text in re.findall(r'[( ]block\(("[^"]+")\)', here)]
    assert {block(holding) for holding in ways} == set(BLOCKS)
    assert "Node.open(" in PROGRAM


def test_every_command_is_one() -> None:
    for command in COMMANDS:
        parse(shlex.split(command)[1:])
    options = {option for command in COMMANDS for option in shlex.split(command) if option.startswith("--")}
    assert {"--hedge", "--quorum", "--dry-run", "--min-reliability", "--prefer"} <= options


def test_the_limits_are_those_of_the_code() -> None:
    client, told = NodeConfig().client, re.findall(r"^\| `(\w+)` \| .* \| .* \| .* \|$", PAGE, re.M)
    assert set(told) == {field.name for field in fields(RunRequest)} - {"model"}
    assert f"`max_price` of node.toml: {client.max_price:,}" in PAGE
    assert f"`timeout_s` of node.toml: {client.timeout_s:g}" in PAGE
    assert f"so many (up to {limits.HEDGE_MAX}) do the job" in PAGE
    assert f"so many (up to {limits.QUORUM_MAX}) do it" in PAGE
    assert limits.JOB_ATTEMPTS_MAX == 5
    assert FLAT.count("up to five") == 2
    assert f"by silence, after {limits.PROGRESS_SILENCE_S:g} s" in FLAT
    assert f"says so every {limits.PROGRESS_INTERVAL_S:g} s" in FLAT
    assert f"{limits.MAP_IN_FLIGHT_MAX} at most" in FLAT
    assert f"newest {limits.CONSIDERATIONS_KEPT_MAX} jobs" in FLAT
    assert (limits.NEWCOMER_SHARE, 1 / 20) == (0.05, 0.05)


def test_the_words_of_the_page_are_the_programs() -> None:
    assert set(re.findall(r"`([A-Z]+_?[A-Z]+)`", PAGE)) >= {reason.name for reason in RefusalReason} - {"NO_MODEL"}
    for reason, needed, offered in (
        ("PRICE", 110_000, ()),
        ("BUSY", 3500, ()),
        ("TIER", None, (cocoon_p2p.Tier.OPEN,)),
    ):
        no = Refusal(RefusalReason[reason], needed, by_provider=True, tier=cocoon_p2p.Tier.SEALED, offered=offered)
        assert f'"{would_be_yes(no)}"' in FLAT


def test_the_package_exports_what_an_embedder_names_and_stays_light() -> None:
    used = set(re.findall(r"from cocoon_p2p import (.+)", PAGE))
    names = {name.strip() for line in used for name in line.split(",")}
    assert names <= set(cocoon_p2p.__all__)
    for name in cocoon_p2p.__all__:
        assert getattr(cocoon_p2p, name).__name__ == name
    with pytest.raises(AttributeError):
        cocoon_p2p.Nodes  # noqa: B018
    code = "import cocoon_p2p, sys; print({'trio', 'numpy', 'onnxruntime', 'cryptography'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
