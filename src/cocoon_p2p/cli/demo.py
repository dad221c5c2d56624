"""`cocoon-node demo`: a real network on this machine, each node a process of its own, and a semantic search in it."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from cocoon_p2p.cli import demo_screen as screen
from cocoon_p2p.cli.demo_folder import demo_folder, model_cache
from cocoon_p2p.cli.demo_handover import KILL_AT, Handover, run_and_kill, texts_for
from cocoon_p2p.cli.demo_network import (
    Child,
    ChildFailed,
    Children,
    RunningNode,
    bootstrap_plan,
    client_plan,
    in_thread,
    open_children,
    provider_plans,
)
from cocoon_p2p.cli.demo_progress import Progress
from cocoon_p2p.cli.demo_search import WORDS_MIN, Passage, Source, check_question, nearest, read_source
from cocoon_p2p.cli.demo_writing import MODEL as WRITER
from cocoon_p2p.cli.demo_writing import WrappedText, Writing, pull, write
from cocoon_p2p.cli.interrupts import run_async
from cocoon_p2p.cli.output import print_json, print_note, printable
from cocoon_p2p.cli.words import best_address
from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.ids import ModelId
from cocoon_p2p.models.layout import model_folder
from cocoon_p2p.tensors import TEXT_INPUT, Payload, string_tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cocoon_p2p.cli.api_client import LocalApi

MODEL = "minilm"
OUTPUT = "sentence_embedding"
BATCH_PARAGRAPHS = 16
PASSAGES = 3
INSTALL_TIMEOUT_S = 120.0
"""Building the model takes 3 s; another demo may be doing the same and hold the lock."""
MEASURE_TIMEOUT_S = 60.0
OFFERS_TIMEOUT_S = 10.0
OFFERS_AGAIN_S = 0.1


def run(options: argparse.Namespace) -> int:
    """0 when all was shown, 1 when a part of the network failed, 2 for a text that cannot be searched, 128 + the signal's
    number when it was interrupted before; with --keep, Ctrl-C is the normal end."""
    demo = Demo(
        source=read_source(options.file),
        question=check_question(options.question),
        listen=options.listen,
        json=options.json,
        keep=options.keep,
    )
    if demo.source.cut:
        print_note(f"{demo.source.name} is long: only its first {len(demo.source.paragraphs)} paragraphs are searched")
    if demo.source.short and options.file is not None:
        print_note(f"{demo.source.name}: paragraphs shorter than {WORDS_MIN} words are left out: {demo.source.short}")
    try:
        return run_async(partial(_until_signal, demo, options.home))
    except ChildFailed as error:
        demo.progress.finish()
        for line in error.last_lines:
            print(f"  {printable(line)}", file=sys.stderr)
        raise
    finally:
        demo.progress.finish()


@dataclass(slots=True)
class Demo:
    """What is to be shown, and what has been found so far."""

    source: Source
    question: str
    listen: str
    json: bool
    keep: bool
    progress: Progress = field(init=False)
    shown: bool = False
    jobs: list[dict[str, Any]] = field(default_factory=list)
    """The results of all of them, the first first."""

    def __post_init__(self) -> None:
        providers = len(provider_plans(self.listen))
        batches = -(-len(self.source.paragraphs) // BATCH_PARAGRAPHS)
        # The models, bootstrap and client, the first job, offers, the question, the direct run, the model that moves, the answer
        # that is written, and the killed provider.
        self.progress = Progress(providers + batches + 10, sys.stderr)

    @property
    def spent(self) -> int:
        """nanogram"""
        return sum(int(job["price_nanogram"]) for job in self.jobs)


@dataclass(frozen=True, slots=True)
class Findings:
    """What --json prints."""

    providers: list[RunningNode]
    offers: list[dict[str, Any]]
    passages: list[Passage]
    job: dict[str, Any]
    against: screen.Comparison
    writing: Writing
    handover: Handover
    join: str

    def as_json(self) -> dict[str, Any]:
        return {
            "providers": [
                {"name": node.name, "peer_id": node.peer_id, "addresses": list(node.addresses)}
                for node in self.providers
            ],
            "offers": self.offers,
            "passages": [asdict(passage) for passage in self.passages],
            "timeline_ms": self.job["timeline_ms"],
            "price_nanogram": self.job["price_nanogram"],
            "local_ms": self.against.local_ms,
            "overhead_ms": self.against.overhead_ms,
            "receipt": self.job["receipt"],
            "writing": self.writing.as_json(),
            "handover": self.handover.as_json(),
            "join": self.join,
        }


async def _until_signal(demo: Demo, home: str | None) -> int:
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    interrupted: list[int] = []

    async def watch(signals: AsyncIterator[int]) -> None:
        interrupted.append(await anext(signals))
        demo.progress.finish()
        print_note("stopping")
        nursery.cancel_scope.cancel()

    with trio.open_signal_receiver(*numbers) as signals, demo_folder(home) as folder:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(watch, signals)
            nursery.start_soon(demo.progress.redraw)
            async with open_children() as children:
                await _show(demo, children, folder)
            nursery.cancel_scope.cancel()
    return 128 + interrupted[0] if interrupted and not demo.shown else 0


async def _show(demo: Demo, children: Children, folder: Path) -> None:
    """The whole of the demo."""
    progress = demo.progress
    workshop = await children.start("the workshop", ["cocoon_p2p.cli.demo_workshop"])
    bootstrap, model_id, writer_id = await _start_bootstrap(demo, children, workshop, folder)
    providers = await _start_providers(demo, children, folder, bootstrap)
    progress.begin("starting the client")
    client = await children.start_node(client_plan(), folder / "client", bootstrap.addresses[:1])
    progress.done("the client is ready")
    names = {node.peer_id: node.name for node in (bootstrap, *providers)}
    api = await in_thread(client.api)
    progress.begin("the first job: finding providers")
    await _run(demo, api, [demo.question])
    progress.done("the first job is done")
    offers, peers = await _look_around(demo, api, model_id, len(providers))
    if not demo.json:
        progress.clear()
        screen.show_nodes(names, peers, offers)
    vectors = await _embed(demo, api)
    job, answer = await _ask(demo, api)
    passages = nearest(vectors, answer, demo.source.paragraphs, PASSAGES)
    folder_of_model = model_folder(providers[0].home, model_id)
    against = await _compare(demo, workshop, folder_of_model, job, _offer_of(job, offers))
    join = f"cocoon-node up --bootstrap {best_address(list(bootstrap.addresses))}"
    if not demo.json:
        demo.progress.clear()
        screen.show_passages(demo.question, demo.source.name, len(demo.source.paragraphs), passages)
        screen.show_job(demo.jobs[0], job, names.get(job["provider"], "a provider"), against)
        screen.show_price(job, _offer_of(job, offers), len(demo.jobs), demo.spent, signed=both_signed(job))
    writing = await _write(demo, client, providers, writer_id)
    handover = await _hand_over(demo, children, client, names, vectors)
    progress.finish()
    if demo.json:
        print_json(Findings(providers, offers, passages, job, against, writing, handover, join).as_json())
    else:
        screen.show_handover(handover)
        screen.show_join(join, loopback=_is_loopback(bootstrap), keep=demo.keep)
    demo.shown = True
    if demo.keep:
        if not demo.json:
            screen.show_kept(str(client.home))
        sys.stdout.flush()
        await trio.sleep_forever()


async def _start_bootstrap(
    demo: Demo, children: Children, workshop: Child, folder: Path
) -> tuple[RunningNode, ModelId, ModelId]:
    """The bootstrap node, and at the same time the models in the providers' homes; their ids."""
    homes = [folder / plan.name for plan in provider_plans(demo.listen)]
    installed: dict[str, Any] = {}

    async def install() -> None:
        question = {"do": "install", "cache": str(model_cache(folder)), "homes": [str(home) for home in homes]}
        installed.update(await workshop.ask(question, INSTALL_TIMEOUT_S))
        demo.progress.done("the models are built and installed" if installed["built"] else "the models are installed")

    for home in homes:
        home.mkdir(mode=0o700, exist_ok=True)
    demo.progress.begin("starting the bootstrap node, and looking for the models")
    async with open_plain_nursery() as nursery:
        nursery.start_soon(install)
        bootstrap = await children.start_node(bootstrap_plan(demo.listen), folder / "bootstrap")
        demo.progress.done("the bootstrap node is ready")
        if not installed:
            demo.progress.begin("building the models, this once")
    return bootstrap, ModelId(installed["model_id"]), ModelId(installed["parrot_id"])


async def _start_providers(demo: Demo, children: Children, folder: Path, bootstrap: RunningNode) -> list[RunningNode]:
    """All at the same time."""
    plans = provider_plans(demo.listen)
    running: dict[str, RunningNode] = {}

    async def start(number: int) -> None:
        plan = plans[number]
        running[plan.name] = await children.start_node(plan, folder / plan.name, bootstrap.addresses[:1])
        demo.progress.done(f"{plan.name} is ready")

    demo.progress.begin(f"starting {len(plans)} providers")
    async with open_plain_nursery() as nursery:
        for number in range(len(plans)):
            nursery.start_soon(start, number)
    return [running[plan.name] for plan in plans]


async def _look_around(
    demo: Demo, api: LocalApi, model_id: str, count: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The offers of the model and the peers, as the client knows them. Raises CocoonError when it knows less than `count`
    offers for too long."""
    demo.progress.begin("the client looks for offers")
    offers: list[dict[str, Any]] = []
    with trio.move_on_after(OFFERS_TIMEOUT_S):
        while True:
            offers = (await in_thread(partial(api.get, "/v1/offers", model=model_id)))["offers"]
            if len(offers) >= count:
                break
            await trio.sleep(OFFERS_AGAIN_S)
    if len(offers) < count:
        raise CocoonError(f"the client found {len(offers)} of {count} providers in {OFFERS_TIMEOUT_S:.0f} s")
    peers = (await in_thread(partial(api.get, "/v1/peers")))["peers"]
    demo.progress.done(f"the client found {len(offers)} offers")
    return offers, peers


async def _embed(demo: Demo, api: LocalApi) -> NDArray[np.float32]:
    """The paragraphs' vectors, [paragraphs, 384]."""
    import numpy as np

    texts = demo.source.paragraphs
    vectors = []
    for start in range(0, len(texts), BATCH_PARAGRAPHS):
        batch = texts[start : start + BATCH_PARAGRAPHS]
        span = f"paragraphs {start + 1} to {start + len(batch)} of {len(texts)}"
        demo.progress.begin(f"a job: {span}")
        _, rows = await _run(demo, api, batch)
        vectors.append(rows)
        demo.progress.done(f"{span} are embedded")
    return np.concatenate(vectors)


async def _ask(demo: Demo, api: LocalApi) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """The question, several times over warm connections: the job whose time is the median, and the question's vector."""
    demo.progress.begin("asking the question")
    runs = [await _run(demo, api, [demo.question]) for _ in range(screen.QUESTION_RUNS)]
    demo.progress.done("the question is answered")
    runs.sort(key=lambda run: run[0]["timeline_ms"]["total"])
    job, rows = runs[len(runs) // 2]
    return job, rows[0]


async def _run(demo: Demo, api: LocalApi, texts: Any) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """One job through the client's local API: its result, and the texts' vectors."""
    from cocoon_p2p.execution.arrays import to_arrays

    payload = Payload((string_tensor(TEXT_INPUT, list(texts)),), (OUTPUT,))
    result, output = await in_thread(partial(api.run, {"model": MODEL}, payload))
    demo.jobs.append(result)
    vectors: NDArray[np.float32] = to_arrays(output)[OUTPUT]
    return result, vectors


async def _compare(
    demo: Demo, workshop: Child, folder: Path, job: dict[str, Any], offer: dict[str, Any] | None
) -> screen.Comparison:
    """The question without any network, on the device that the provider used."""
    demo.progress.begin("the same directly, for comparison")
    device = "cpu" if offer is None else offer["device"]
    question = {"do": "measure", "folder": str(folder), "text": demo.question, "device": device}
    measured = await workshop.ask(question, MEASURE_TIMEOUT_S)
    demo.progress.done("the model was run directly")
    return screen.Comparison(
        local_ms=measured["median_ms"],
        runs=measured["runs"],
        threads=measured["threads"],
        total_ms=job["timeline_ms"]["total"],
    )


async def _write(demo: Demo, client: RunningNode, providers: list[RunningNode], model_id: ModelId) -> Writing:
    """The second provider has the language model from the first, and an answer made by it, shown as it comes."""
    origin, by = providers[0], providers[1]
    demo.progress.begin(f"{by.name} fetches a language model from {origin.name}")
    pulled = await pull(client, by, origin, model_id)
    demo.progress.done(f"{by.name} has the model {WRITER} from {origin.name}")
    if demo.json:
        writing = await write(client, by, pulled)
    else:
        demo.progress.finish()
        screen.title_writing(by.name)
        shown = WrappedText()
        writing = await write(client, by, pulled, shown)
        shown.end()
        screen.show_writing(writing, (by.config.provider.price_base, by.config.provider.price_per_token))
    demo.progress.done("the answer is written")
    return writing


async def _hand_over(
    demo: Demo, children: Children, client: RunningNode, names: dict[str, str], vectors: NDArray[np.float32]
) -> Handover:
    """A longer job whose provider is killed in the middle of it."""
    import numpy as np

    from cocoon_p2p.execution.arrays import to_arrays

    demo.progress.begin("a provider is killed in the middle of a job")
    paragraphs = demo.source.paragraphs
    quickest_ms = min(job["timeline_ms"]["execute"] / max(job["receipt"]["items"], 1) for job in demo.jobs)
    texts = texts_for(paragraphs, quickest_ms)
    payload = Payload((string_tensor(TEXT_INPUT, texts),), (OUTPUT,))
    kill_after_ms = KILL_AT * quickest_ms * len(texts)
    run = await run_and_kill(children, client, names, payload, model=MODEL, kill_after_ms=kill_after_ms)
    demo.progress.done("another provider has finished the job")
    expected = vectors[[number % len(paragraphs) for number in range(len(texts))]]
    timeline = run.result["timeline_ms"]
    return Handover(
        texts=len(texts),
        killed=run.killed,
        killed_after_ms=round(run.killed_after_ms, 1),
        finished_by=names.get(run.result["provider"], run.result["provider"]),
        answer_after_ms=round(run.answer_after_ms, 1),
        work_ms=round(timeline["queue"] + timeline["execute"], 1),
        price_nanogram=int(run.result["price_nanogram"]),
        providers_paid=run.receipts,
        largest_difference=float(np.abs(to_arrays(run.output)[OUTPUT] - expected).max()),
    )


def _offer_of(job: dict[str, Any], offers: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((offer for offer in offers if offer["peer_id"] == job["provider"]), None)


def both_signed(job: dict[str, Any]) -> bool:
    """Whether the job's receipt bears valid signatures of its provider and of the client that it names."""
    from cocoon_p2p.errors import RemoteProtocolError
    from cocoon_p2p.sealing.signing import verify_signature
    from cocoon_p2p.wire.job_terms import RECEIPT_DOMAIN, decode_receipt_body

    receipt = job.get("receipt")
    if not receipt or not receipt["client_signature"]:
        return False
    raw = bytes.fromhex(receipt["body"])
    try:
        body = decode_receipt_body(raw)
    except RemoteProtocolError:
        return False
    signatures = ((body.provider, receipt["provider_signature"]), (body.client, receipt["client_signature"]))
    return body.provider == job["provider"] and all(
        verify_signature(peer, RECEIPT_DOMAIN, raw, bytes.fromhex(signature)) for peer, signature in signatures
    )


def _is_loopback(node: RunningNode) -> bool:
    return all(address.startswith(("/ip4/127.", "/ip6/::1/")) for address in node.addresses)
