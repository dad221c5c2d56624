"""What the demo shows: peers and offers, passages, one job's timeline, its price, and how others join."""

from __future__ import annotations

import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cocoon_p2p.cli.demo_handover import Handover
from cocoon_p2p.cli.demo_progress import blocks
from cocoon_p2p.cli.demo_search import Passage
from cocoon_p2p.cli.demo_writing import Writing
from cocoon_p2p.cli.output import Column, paint, print_table, printable, terminal_columns
from cocoon_p2p.cli.run import STEPS
from cocoon_p2p.cli.words import TEST_MONEY, gram, price, short_peer, size
from cocoon_p2p.units import format_nanogram

PASSAGE_LINES_MAX = 6
QUESTION_RUNS = 5
"""Warm jobs of which the one with the median time is shown."""
TEXT_COLUMNS_MAX = 100
"""Longer lines are hard to read."""
NODE_COLUMNS = (
    Column("NODE"),
    Column("PEER"),
    Column("ADDRESS", elastic=True),
    Column("GRAM A JOB", right=True),
    Column("AN ITEM", right=True),
    Column("DEVICE", elastic=True),
)
STEP_CHARS, NUMBER_CHARS = 9, 9
OPEN_TO_OTHERS = "--listen /ip4/0.0.0.0/tcp/0"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same question with and without a network. Milliseconds."""

    local_ms: float
    """Median of `runs` warm runs in one process, tokenising included."""
    runs: int
    threads: int
    total_ms: float

    @property
    def overhead_ms(self) -> float:
        return round(self.total_ms - self.local_ms, 3)


def show_nodes(
    names: Mapping[str, str], peers: Sequence[Mapping[str, Any]], offers: Sequence[Mapping[str, Any]]
) -> None:
    """What the client sees. `names` are the demo's own, by peer id."""
    _title("What the client found, knowing only the bootstrap node's address")
    rows = [_node_row(names, peer, offers) for peer in peers]
    met = {peer["peer_id"] for peer in peers}
    rows += [_node_row(names, offer, offers) for offer in offers if offer["peer_id"] not in met]
    print_table(NODE_COLUMNS, sorted(rows))
    print(f"Prices are {TEST_MONEY}.")


def show_passages(question: str, source: str, count: int, passages: Sequence[Passage]) -> None:
    _title(f"“{question}”: the best {len(passages)} of {count} paragraphs of {source}")
    width = min(terminal_columns(), TEXT_COLUMNS_MAX)
    for passage in passages:
        score = f"{passage.score:.2f}  "
        lines = textwrap.wrap(
            printable(passage.text), width - len(score), max_lines=PASSAGE_LINES_MAX, placeholder=" …"
        )
        for number, line in enumerate(lines):
            head = paint(score, "green", sys.stdout) if number == 0 else " " * len(score)
            print(f"{head}{line}")


def show_job(first: Mapping[str, Any], job: Mapping[str, Any], name: str, against: Comparison) -> None:
    """The timeline of the question's job beside that of the client's first job, and what the network costs."""
    _title(f"One job: the question, sealed for {name} and paid")
    print(f"{'':{STEP_CHARS}}{'FIRST':>{NUMBER_CHARS}}{'NOW':>{NUMBER_CHARS}}  ms")
    for line in timeline_lines(first["timeline_ms"], job["timeline_ms"], terminal_columns()):
        print(line)
    _line(
        "directly",
        f"{against.local_ms:.1f}",
        f"tokenised and run in one process, {_threads(against)}, median of {against.runs} runs",
    )
    _line("overhead", f"{against.overhead_ms:.1f}", "total less directly: what network, sealing and paying add")
    _paragraph(
        "FIRST is the client's first job, for which it had to find the providers and connect to them; "
        f"NOW is the same with warm connections, the median of {QUESTION_RUNS} jobs."
    )


def show_price(job: Mapping[str, Any], offer: Mapping[str, Any] | None, jobs: int, spent: int, *, signed: bool) -> None:
    paid = int(job["price_nanogram"])
    terms = "" if offer is None else f": {price(*_prices(offer))}"
    print()
    _fact("price", f"{gram(paid)}{terms}")
    _fact("", f"{format_nanogram(paid)}; {TEST_MONEY}")
    _fact("receipt", "signed by provider and client; both signatures checked" if signed else "not signed by both")
    _fact("in all", f"{jobs} jobs for {gram(spent)}")


def title_writing(by: str) -> None:
    _title(f"A language model, if a small one, writes at {by}")


def show_writing(writing: Writing, prices: tuple[int, int]) -> None:
    """Below the text itself: where the model was from, how quick it was, and what it cost. `prices`: nanogram a job and a token."""
    pulled = writing.pulled
    print()
    _fact(
        "fetched",
        f"{size(pulled.bytes)} from {pulled.origin}, verified; on offer at {pulled.by} {pulled.seconds:.1f} s later",
    )
    speed = "" if writing.tokens_s is None else f", then {writing.tokens_s:.0f} a second"
    first = "" if writing.first_token_s is None else f", the first after {1000 * writing.first_token_s:.0f} ms{speed}"
    _fact("answer", f"{writing.tokens} tokens{first}")
    _fact("", "shown as they came, each sealed by itself, paid by instalments")
    _fact("price", f"{gram(writing.price_nanogram)}: {price(*prices, tokens=True)},")
    _fact("", f"{writing.prompt_tokens} tokens of the prompt and {writing.tokens} of the answer")


def show_handover(handover: Handover) -> None:
    """A provider that died in the middle of a job, and what became of the job."""
    _title(f"The same again with {handover.texts} texts, and {handover.killed} is killed in the middle of it")
    _fact("killed", f"{handover.killed} with kill -9, {handover.killed_after_ms:.0f} ms after it got the job")
    _fact(
        "answer",
        f"from {handover.finished_by} {handover.answer_after_ms:.0f} ms after the kill, {handover.work_ms:.0f} ms of it "
        "its own work",
    )
    _fact("", f"largest difference to the vectors of before: {handover.largest_difference:.1g}")
    times = "one provider" if handover.providers_paid == 1 else f"{handover.providers_paid} providers"
    _fact("price", f"{gram(handover.price_nanogram)}, to {times}; who was killed earned nothing with it")


def show_join(command: str, *, loopback: bool, keep: bool) -> None:
    """How another machine would join, and whether it could."""
    _title("Another machine would join this network with")
    print(f"  {command}")
    if loopback or not keep:
        options = " ".join(["--keep"] + [OPEN_TO_OTHERS] * loopback)
        lacking = ["listens on this machine only"] * loopback + ["ends now"] * (not keep)
        _paragraph(f"This network {' and '.join(lacking)}; `cocoon-node demo {options}` starts one that can be joined.")


def show_kept(home: str) -> None:
    _title("The network is running; Ctrl-C ends it. In another terminal")
    print(f'  cocoon-node run minilm --text "…" --home {shlex.quote(home)}')
    print(f'  cocoon-node generate parrot "The client" --raw --temperature 1 --home {shlex.quote(home)}')
    print(f"  cocoon-node wallet --home {shlex.quote(home)}")


def timeline_lines(first: Mapping[str, float], now: Mapping[str, float], columns: int) -> list[str]:
    """A line for each leg and one for the total: both jobs' milliseconds, and a bar for the second's."""
    room = max(4, columns - STEP_CHARS - 2 * NUMBER_CHARS - 2)
    longest = max(now[step] for step in STEPS)
    full, _ = blocks(sys.stdout)
    lines = []
    for step in STEPS:
        bar = full * round(room * now[step] / longest) if longest > 0 else ""
        lines.append(f"{_numbers(step, first, now)}  {paint(bar, 'cyan', sys.stdout)}".rstrip())
    lines.append(_numbers("total", first, now))
    return lines


def _numbers(step: str, first: Mapping[str, float], now: Mapping[str, float]) -> str:
    return f"{step:{STEP_CHARS}}{first[step]:{NUMBER_CHARS}.1f}{now[step]:{NUMBER_CHARS}.1f}"


def _threads(against: Comparison) -> str:
    return f"{against.threads} thread{'s' if against.threads > 1 else ''}"


def _node_row(names: Mapping[str, str], peer: Mapping[str, Any], offers: Sequence[Mapping[str, Any]]) -> list[Any]:
    identity = peer["peer_id"]
    offer = next((each for each in offers if each["peer_id"] == identity), None)
    address = next(iter(peer.get("addresses") or []), "-").partition("/p2p/")[0]
    prices = ["-", "-"] if offer is None else [gram(amount)[:-5] for amount in _prices(offer)]
    return [names.get(identity, "-"), short_peer(identity), address, *prices, "-" if offer is None else offer["device"]]


def _prices(offer: Mapping[str, Any]) -> tuple[int, int]:
    """Of a sealed job, as the demo's are: nanogram a job, and an item."""
    sealed = offer["prices"]["sealed"]
    return int(sealed["base_nanogram"]), int(sealed["per_unit_nanogram"])


def _title(text: str) -> None:
    print()
    for line in textwrap.wrap(printable(text), terminal_columns()):
        print(paint(line, "bold", sys.stdout))


def _line(name: str, number: str, about: str) -> None:
    indent = STEP_CHARS + 2 * NUMBER_CHARS + 2
    first, *rest = textwrap.wrap(about, max(20, terminal_columns() - indent))
    print(f"{name:{STEP_CHARS}}{'':{NUMBER_CHARS}}{number:>{NUMBER_CHARS}}  {first}")
    for line in rest:
        print(f"{'':{indent}}{line}")


def _fact(name: str, value: str) -> None:
    print(f"{name:{STEP_CHARS}}{printable(value)}")


def _paragraph(text: str) -> None:
    for line in textwrap.wrap(text, min(terminal_columns(), TEXT_COLUMNS_MAX), break_on_hyphens=False):
        print(line)
