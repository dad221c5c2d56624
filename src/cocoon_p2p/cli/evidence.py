"""`cocoon-node evidence list | show | check`: needs no running node, and no network."""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import trio

from cocoon_p2p.cli.api_client import connect
from cocoon_p2p.cli.interrupts import run_async
from cocoon_p2p.cli.output import Column, Whole, print_hint, print_json, print_note, print_pairs, print_table
from cocoon_p2p.cli.outputs import make_folder
from cocoon_p2p.cli.place import find_home, home_option, load_place
from cocoon_p2p.cli.words import age, gram, short_id, short_peer, size
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.home import Home

STATUS_PROVEN, STATUS_NOT_PROVEN, STATUS_BAD_FILE = 0, 1, 2
COLUMNS = (
    Column("JOB"),
    Column("ACCUSED"),
    Column("MODEL"),
    Column("AGE", right=True),
    Column("KNOWN BY"),
    Column("HOLDS"),
    Column("FILE"),  # whole, to be copied
)
_MARKS = {True: "yes", False: "NO", None: "-"}


def evidence_option(options: argparse.Namespace) -> Path | None:
    """The folder of `run --evidence DIR`, made before anything is paid for. Raises ConfigError."""
    if options.evidence is None:
        return None
    if (options.quorum or 1) < 2:
        raise ConfigError("--evidence needs answers to compare", hint="--quorum 3")
    folder = Path(os.path.expanduser(options.evidence))
    make_folder(folder)
    return folder


def accused_jobs(result: dict[str, Any]) -> list[str]:
    """The jobs within a result of /v1/run of whose wrong answers there is evidence."""
    said = (result.get("agreement") or {}).get("providers") or []
    return [str(each["job_id"]) for each in said if each.get("has_evidence") and each.get("job_id")]


def write_evidence(folder: Path, found: dict[str, bytes]) -> None:
    """A file for each job, for nobody else to read: it shows an input. Raises StoreError."""
    from cocoon_p2p.drivers.evidence import EvidenceFolder
    from cocoon_p2p.ids import JobId

    kept = EvidenceFolder(folder, files_max=None)
    for job_id, evidence in found.items():
        path = kept.keep(JobId(bytes.fromhex(job_id)), evidence)
        print_note(f"evidence of a wrong answer: {path}; it shows this job's input to whoever gets it")


def run_list(options: argparse.Namespace) -> int:
    """Of canary jobs from the disk; of people's own jobs from the running node, which has it in memory only."""
    from cocoon_p2p.drivers.checking import EVIDENCE_FOLDER
    from cocoon_p2p.drivers.evidence import EvidenceFolder, read_evidence
    from cocoon_p2p.node_audit import evidence_row

    home = find_home(options)
    api = connect(home.api_socket())
    if api is not None:
        rows = api.get("/v1/evidence")["evidence"]
    else:
        files = EvidenceFolder(home.path / EVIDENCE_FOLDER).files()
        rows = [evidence_row(read_evidence(path), path) for path in files]
    if options.json:
        print_json({"evidence": rows})
    elif rows:
        print_table(COLUMNS, [_cells(row) for row in rows])
    else:
        print_note(f"no evidence here; cocoon-node audit MODEL{home_option(home)} looks for wrong answers")
    return 0


def run_show(options: argparse.Namespace) -> int:
    from cocoon_p2p.drivers.evidence import read_evidence
    from cocoon_p2p.node_audit import evidence_row

    path = Path(os.path.expanduser(options.file))
    try:
        row = evidence_row(read_evidence(path), path)
    except CocoonError as error:
        return _bad_file(error)
    if options.json:
        print_json(row)
        return 0
    known_by = {"own_run": "the accuser ran the model", "quorum": "most of several providers gave another answer"}
    print_pairs(
        [
            ("accused", row["provider"]),
            ("by", row["accuser"]),
            ("made", f"{age(row['made_at_ms'])} ago"),
            ("job", row["job_id"]),
            ("model", row["model_id"]),
            ("because", known_by.get(row["kind"], row["kind"])),
            ("paid", gram(row["price_nanogram"])),
            ("input", size(row["input_bytes"])),
            ("holds together", "yes" if row["holds"] else "NO: it proves nothing"),
            ("check it", Whole(f"cocoon-node evidence check {path}")),
        ]
    )
    return 0


def run_check(options: argparse.Namespace) -> int:
    """0: the answer is wrong. 1: it is not, or nobody here can say. 2: the file is no evidence."""
    from cocoon_p2p.drivers.evidence import read_evidence

    home, config = load_place(options)
    path = Path(os.path.expanduser(options.file))
    try:
        signed = read_evidence(path)
    except CocoonError as error:
        return _bad_file(error)
    model = None if options.model is None else Path(os.path.expanduser(options.model)).absolute()
    row: dict[str, Any] = run_async(partial(_examined, signed, home, config, model))
    if options.json:
        print_json(row)
    else:
        _print_findings(row)
    return STATUS_PROVEN if row["verdict"] == "wrong" else STATUS_NOT_PROVEN


async def _examined(signed: Any, home: Home, config: NodeConfig, model: Path | None) -> dict[str, Any]:
    from cocoon_p2p.assembly import open_onnx_engine
    from cocoon_p2p.drivers.checking import rerunner
    from cocoon_p2p.drivers.comparing import compare
    from cocoon_p2p.drivers.evidence import examine
    from cocoon_p2p.drivers.own_engine import OwnEngine
    from cocoon_p2p.models.registry import ModelRegistry
    from cocoon_p2p.node_audit import examined_row

    with tempfile.TemporaryDirectory(prefix="cocoon-") as temporary:
        registry = ModelRegistry(home.path)
        if model is not None:
            registry = ModelRegistry(Path(temporary))
            given = await trio.to_thread.run_sync(registry.add, model)
            if given.model_id != signed.evidence.model_id:
                print_note(f"{model} is model {given.model_id}, not the one that the evidence is about")
        own = OwnEngine(registry, None, partial(open_onnx_engine, config))
        return examined_row(signed, await examine(signed, rerunner(own), compare))


def _print_findings(row: dict[str, Any]) -> None:
    for finding in row["findings"]:
        detail = f"  ({finding['detail']})" if finding["detail"] else ""
        print_pairs([(_MARKS[finding["holds"]].ljust(3), f"{finding['what']}{detail}")])
    print()
    print_pairs([("verdict", row["summary"])])
    if row["verdict"] == "unknown":
        print_hint(f"the model is {row['model_id']}: cocoon-node models add PATH, or --model PATH")


def _bad_file(error: CocoonError) -> int:
    from cocoon_p2p.cli.output import print_error

    print_error(error.message, error.hint)
    return STATUS_BAD_FILE


def _cells(row: dict[str, Any]) -> list[Any]:
    return [
        short_id(row["job_id"], 12),
        short_peer(row["provider"]),
        short_id(row["model_id"]),
        age(row["made_at_ms"]),
        row["kind"].replace("_", " "),
        _MARKS[row["holds"]],
        row["file"] or "in memory",
    ]
