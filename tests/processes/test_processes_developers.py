"""The whole program of docs/DEVELOPERS.md, and its parts about models that write or judge texts, run as they stand against a provider's
process."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from towns import NodeProcess, Town

from cocoon_p2p import Node
from cocoon_p2p.testing import models
from cocoon_p2p.testing.text_models import classifier_model, token_vectors_model
from cocoon_p2p.testing.tiny_genai import make_tiny_genai

pytestmark = pytest.mark.processes

PAGE = (Path(__file__).parents[2] / "docs" / "DEVELOPERS.md").read_text()
PROGRAM, *BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_the_first_program_of_the_page(tmp_path: Path) -> None:
    with Town(tmp_path / "town") as town:
        provider = town.start("provider", "--model", str(models.embedding_model(tmp_path / "minilm")))
        file = tmp_path / "program.py"
        file.write_text(PROGRAM)
        for _ in range(2):  # the home is new, and then it is there
            ended = subprocess.run(
                [sys.executable, str(file), provider.address],
                cwd=tmp_path,
                env=town.environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert (ended.returncode, ended.stdout, ended.stderr) == (0, "(1, 2)\n", "")
        assert (tmp_path / "my-app" / "node.toml").exists()
        assert [job["state"] for job in provider.api.get("/v1/jobs")["jobs"]] == ["done", "done"]


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """Of a language model, a classifier and a model of vectors."""
    folder = tmp_path_factory.mktemp("models")
    made = (
        make_tiny_genai(folder / "llama"),
        classifier_model(folder / "mood"),
        token_vectors_model(folder / "vectors", normalize=True),
    )
    with Town(tmp_path_factory.mktemp("town")) as town:
        yield town.start("provider", *(option for path in made for option in ("--model", str(path))))


def block(holding: str) -> str:
    found: str
    (found,) = [text for text in BLOCKS if holding in text]
    return found


async def run(code: str, node: Node) -> dict[str, Any]:
    compiled = compile(code, "DEVELOPERS.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, Any] = {"node": node, "__name__": "page", "__builtins__": builtins}
    assert isinstance(compiled, CodeType)
    result = FunctionType(compiled, names)()
    if inspect.iscoroutine(result):
        await result
    return names


async def test_what_the_page_has_written(
    provider: NodeProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Node.open(home=tmp_path / "app", bootstrap=[provider.address]) as node:
        names = await run(block("json_schema=schema"), node)
        assert set(names["somebody"]) == {"name", "age"}
        assert len(capsys.readouterr().out.splitlines()) == names["answer"].usage.completion_tokens
        await run(block("chat=chat"), node)
        first, second = (re.findall(r"\d+", line) for line in capsys.readouterr().out.splitlines())
        assert first[1] == "0"
        assert int(second[1]) >= int(first[0]), "the turn before was known"
        names = await run(block("tools=tools"), node)
        assert capsys.readouterr().out.startswith(("to be called:", "said:"))
        assert names["answer"].usage.prompt_tokens > 60, "the template has the tools"
        names = await run(block("Count to a million"), node)
        answer = names["answer"]
        assert capsys.readouterr().out.startswith("caller after ")
        assert 20 <= answer.usage.completion_tokens < 900
        assert answer.price_nanogram == node.receipts()[0]["price_nanogram"]


async def test_labels_and_vectors(provider: NodeProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with Node.open(home=tmp_path / "app", bootstrap=[provider.address]) as node:
        names = await run(block("node.describe("), node)
        labels = capsys.readouterr().out.splitlines()
        assert {line.split()[0] for line in labels[:2]} <= {"low", "high"}
        assert -1 <= float(labels[2].removeprefix("alike: ")) <= 1.0001
        about = names["about"]
        assert (about["kind"], about["name"], about["labels"]) == ("classification", "mood", ["low", "high"])
        assert about["text_outputs"] == [{"name": "scores", "made": "softmax of logits"}]
        assert "price_base" not in about
