"""docs/OPERATORS.md keeps its word: its configurations, its policy, its commands and its numbers."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from cocoon_p2p import limits
from cocoon_p2p.cli.models_pull import progress_text
from cocoon_p2p.cli.parser import parse
from cocoon_p2p.cli.serving import serving_pairs
from cocoon_p2p.config import NodeConfig, parse_config
from cocoon_p2p.drivers.own_pricing import GuardedPricing, pricing_maker
from cocoon_p2p.limits import PRICE_TICK_S
from cocoon_p2p.policy.idle import IdleRules, MachineFacts, Rests, decide
from cocoon_p2p.policy.price import ListedPrice, Price, PriceFacts
from cocoon_p2p.policy.pricing import FollowDemand

PAGE = (Path(__file__).parents[3] / "docs" / "OPERATORS.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
CONFIGURATIONS = [text for kind, text in BLOCKS if kind == "toml" and "[project]" not in text]
(PACKAGE,) = [text for kind, text in BLOCKS if kind == "toml" and "[project]" in text]
(POLICY,) = [text for kind, text in BLOCKS if kind == "python"]
COMMANDS = sorted(set(re.findall(r"`(cocoon-node [^`]+)`", PAGE)))

LISTED = ListedPrice(100_000, 10_000, 50, 400)
ONE_JOB = PriceFacts(16, 0, 4, 4)


def rows(heading: str) -> list[list[str]]:
    """The table below the line that begins with `heading`."""
    _, _, rest = PAGE.partition(f"| {heading} |")
    table = rest.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def number(text: str) -> int:
    return int(text.replace(",", "").removesuffix(" %").replace("+", ""))


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_every_configuration_is_taken_as_it_stands(text: str) -> None:
    config = parse_config(text, "page")
    for section, keys in tomllib.loads(text).items():
        part = getattr(config, section)
        tables = zip(part, keys, strict=True) if isinstance(keys, list) else [(part, keys)]
        for section_of, table in tables:
            for key, value in table.items():
                found = getattr(section_of, key)
                assert (list(found) if isinstance(found, tuple) else found) == value


def test_every_command_is_one() -> None:
    for command in COMMANDS:
        parse(shlex.split(command)[1:])
    assert {command.split()[1] for command in COMMANDS} >= {"offers", "status", "wallet", "doctor", "market"}


def test_every_key_that_the_page_names_is_one() -> None:
    sections = (section.metadata.get("each") or section.default for section in fields(NodeConfig))
    known = {key.name for section in sections for key in fields(section)}
    named = set(re.findall(r"`([a-z]+_[a-z_]+)`", PAGE)) - {
        "max_total",
        "per_item",
        "floor_percent",
        "ceiling_percent",
        "binary_tensor_data",
        "max_tokens",
        "top_k",
    }
    assert named <= known


def test_the_example_package_is_found_and_does_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tomllib.loads(PACKAGE)["project"]
    ((name, value),) = project["entry-points"]["cocoon_p2p.pricing"].items()
    (tmp_path / "rush_hour.py").write_text(POLICY)
    info = tmp_path / f"rush_hour-{project['version']}.dist-info"  # as an installer leaves it
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (info / "entry_points.txt").write_text(f"[cocoon_p2p.pricing]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "rush_hour", raising=False)
    assert f'`pricing = "{name}"`' in PAGE

    policy = pricing_maker(name)(LISTED)
    assert isinstance(policy, GuardedPricing)
    assert policy.price(ONE_JOB) == Price(100_000, 10_000, 260_000)
    assert policy.observe(0.76)
    assert policy.price(ONE_JOB) == Price(200_000, 20_000, 520_000)
    assert not policy.observe(1.0)
    assert policy.observe(0.75)
    assert policy.price(ONE_JOB) == Price(100_000, 10_000, 260_000)
    assert not policy.failed
    assert importlib.import_module("rush_hour").RushHour
    assert len(POLICY.strip().splitlines()) <= 16


def test_the_steps_of_the_price() -> None:
    table = rows("busy slots")
    assert len(table) == 6
    for busy, change in table:
        policy = FollowDemand(ListedPrice(100, 0, 1, 400))
        policy.observe(number(busy) / 100)
        assert policy.price(ONE_JOB).base == 100 + number(change)


def test_how_long_it_takes_to_the_ceiling_and_to_the_floor() -> None:
    policy = FollowDemand(LISTED)

    def minutes_until(percent: int, utilisation: float) -> int:
        ticks = 0
        while policy.price(ONE_JOB).max_total != 2600 * percent:
            policy.observe(utilisation)
            ticks += 1
        return round(ticks * PRICE_TICK_S / 60)

    up, down = minutes_until(400, 1.0), minutes_until(50, 0.0)
    text = PAGE.replace("\n", " ")
    assert f"at four times its listed price after {up} minutes" in text
    assert f"is back from there at half of it after {down}." in text


def test_the_worked_example_of_income() -> None:
    """4 slots, 4 s a job: so many jobs in ten seconds as tenths of the slots are busy."""
    *parts, whole = rows("hours of the day")
    policy = FollowDemand(LISTED)
    all_jobs = all_earned = 0
    for hours, busy, jobs, price, earned in parts:
        in_a_tick = number(busy) // 10
        ticks = int(int(hours) * 3600 / PRICE_TICK_S)
        income = 0
        for _ in range(ticks):
            income += in_a_tick * policy.price(ONE_JOB).max_total
            policy.observe(in_a_tick * 4 / 4 / PRICE_TICK_S)  # jobs x seconds / slots / seconds
        assert number(jobs) == in_a_tick * ticks
        assert number(price) == policy.price(ONE_JOB).max_total
        assert number(earned) == income
        all_jobs, all_earned = all_jobs + in_a_tick * ticks, all_earned + income
    assert sum(int(part[0]) for part in parts) == int(whole[0]) == 24
    assert (number(whole[2]), number(whole[4])) == (all_jobs, all_earned)
    assert f"{all_earned / 1e9:.9f} GRAM" in PAGE
    fixed = FollowDemand(LISTED).price(ONE_JOB).max_total
    assert f"{all_jobs:,} × {fixed:,} = {all_jobs * fixed:,} nanogram, {all_jobs * fixed / 1e9:.4f} GRAM" in PAGE
    assert f"are {all_jobs * 4 / 4 / 3600:.1f} hours with all slots busy" in PAGE


def test_the_line_of_status() -> None:
    found = decide(IdleRules(user_idle_s=600), MachineFacts(0, user_idle_s=125))
    assert isinstance(found, Rests)
    idle = {"resting": True, "detail": found.detail, "needed_ms": found.needed_ms}
    label, text = serving_pairs({"idle": idle})[0]
    assert re.search(rf"^{label} +{re.escape(str(text))}$", PAGE, re.M)
    unknown = decide(IdleRules(temperature_max_c=80), MachineFacts(0))
    assert isinstance(unknown, Rests)
    assert f'"{unknown.detail}"' in PAGE.replace("\n", " ")


def test_what_a_language_model_earns() -> None:
    config = next(parse_config(text, "page").provider for text in CONFIGURATIONS if "price_per_token = 100\n" in text)
    prompt, answer, places, speed = 500, 300, limits.GENERATION_ROWS_MAX, 12
    price = config.price_base + config.price_per_token * (prompt + answer)
    assert "100,000 + 800 × 100 = 180,000" in PAGE
    assert price == 180_000
    answers = 8 * 3600 * places * speed // answer
    _, _, rest = PAGE.partition("| | a day |")
    table = dict(re.findall(r"^\| ([\w ,]+) \| ([\d,]+) \|$", rest.split("\n\n")[0], re.M))
    assert {name: number(count) for name, count in table.items()} == {
        "answers": answers,
        "tokens of prompts": prompt * answers,
        "tokens of answers": answer * answers,
        "earned, nanogram": price * answers,
    }
    assert f"{price * answers / 10**9:g} GRAM; half-empty" in PAGE
    assert f"here {limits.INSTALMENT_TOKENS * config.price_per_token:,} nanogram" in PAGE


def test_what_the_page_says_of_models_on_their_way() -> None:
    flat = " ".join(PAGE.split())
    assert f"Up to {limits.BLOB_SOURCES_MAX} peers are asked at once" in flat
    assert f"its turn of {limits.BLOB_TURN_S:g} seconds" in flat
    assert limits.BLOB_PARTIAL_KEPT_S == 30 * 86_400
    assert (limits.AUTO_SERVE_INTERVAL_S, limits.AUTO_SERVE_SUBNETS_MIN, limits.AUTO_SERVE_DEAR) == (60, 3, 2)
    assert (limits.AUTO_SERVE_KEEP_S, limits.AUTO_SERVE_AGAIN_S) == (3600, 6 * 3600)
    assert limits.GENERATION_PREFIX_KEPT_S == 300
    assert limits.GENERATION_KV_BYTES_MAX == 2 * limits.GIB
    line = "fetching from 3 peers  [######......]  52%  468.1 of 900.0 MB  218.9 MB/s  2 s left"
    assert f"\n{line}\n" in PAGE
    row = {
        "phase": "fetching",
        "holders": 3,
        "done_bytes": 468_100_000,
        "total_bytes": 900_000_000,
        "bytes_s": 218_900_000,
    }
    assert progress_text(row, len(line)).split("]")[1] == line.split("]")[1]
