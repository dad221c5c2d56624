"""`cocoon-node run`: one job, through the running node or through one that lives as long as the job."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from cocoon_p2p.cli.api_client import connect
from cocoon_p2p.cli.classes import class_pairs, classes_json, classes_of, cut_note
from cocoon_p2p.cli.evidence import accused_jobs, evidence_option, write_evidence
from cocoon_p2p.cli.output import NO_BREAK, print_json, print_note, print_pairs
from cocoon_p2p.cli.outputs import describe, make_folder, preview, read_inputs, write_outputs
from cocoon_p2p.cli.peer_names import provider_at
from cocoon_p2p.cli.place import home_option, load_place
from cocoon_p2p.cli.waiting import told_after_a_moment
from cocoon_p2p.cli.why import print_consideration
from cocoon_p2p.cli.words import TEST_MONEY, gram, milliseconds, short_id
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.tensors import Payload
from cocoon_p2p.units import format_nanogram

STEPS = ("discover", "quote", "seal", "queue", "execute", "return", "receipt")


def run(options: argparse.Namespace) -> int:
    home, config = load_place(options)
    folder, evidence_folder = _output_folder(options.output), evidence_option(options)
    payload = read_inputs(options.input, options.text)
    if folder is not None and not options.dry_run:
        make_folder(folder)  # before the job is paid for
    head = request_head(options)
    evidence: dict[str, bytes] = {}
    api = connect(home.api_socket())
    if api is not None:
        if options.bootstrap or options.config:
            print_note("a node runs here and does the job; --bootstrap and --config are for when none does")
        if options.provider is not None:
            head["provider"] = provider_at(api, options.provider, options.model)
        with told_after_a_moment(_waiting(options, config)):
            result, outputs = api.run(head, payload)
        if evidence_folder is not None:
            evidence = {job: api.get_bytes(f"/v1/evidence/{job}") for job in accused_jobs(result)}
    else:
        from cocoon_p2p.cli.guest import run_as_guest

        with told_after_a_moment(_waiting(options, config)):
            result, outputs = run_as_guest(home, config, options.bootstrap, head, payload, evidence=evidence)
    if options.dry_run:
        if options.json:
            print_json(result)
        else:
            print_consideration(result)
        return 0
    if evidence_folder is not None:
        write_evidence(evidence_folder, evidence)
    files = {} if folder is None else write_outputs(outputs, folder)
    classes = classes_of(result.get("labels") or (), outputs)
    note = cut_note(result, payload)
    if note:
        print_note(note)
    if options.json:
        said = {} if classes is None else {"classes": classes_json(classes)}
        described = {tensor.name: describe(tensor, files.get(tensor.name)) for tensor in outputs.tensors}
        print_json(result | {"outputs": described} | said)
    else:
        _print_result(
            result, outputs, files, [] if classes is None else class_pairs(classes, payload), home_option(home)
        )
    return 0


def _waiting(options: argparse.Namespace, config: NodeConfig) -> str:
    if options.dry_run:
        return "asking the providers"
    timeout_s = config.client.timeout_s if options.timeout is None else options.timeout
    return f"waiting for the answer, for {timeout_s:g} s at most (--timeout); Ctrl-C cancels the job"


def request_head(options: argparse.Namespace) -> dict[str, Any]:
    """What /v1/run asks for; what was not given on the command line is left to the node's configuration."""
    given = {"hedge": options.hedge, "quorum": options.quorum, "dry_run": options.dry_run or None}
    return limits_head(options) | {key: value for key, value in given.items() if value is not None}


def limits_head(options: argparse.Namespace) -> dict[str, Any]:
    """The part of it that each job of `map` has, too."""
    given = {
        "model": options.model,
        "tier": options.tier,
        "max_price": options.max_price,
        "provider": options.provider,
        "timeout_s": options.timeout,
        "min_reliability": options.min_reliability,
        "prefer": options.prefer,
    }
    return {key: value for key, value in given.items() if value is not None}


def _output_folder(text: str | None) -> Path | None:
    """Looked at before anything is paid for."""
    if text is None:
        return None
    folder = Path(os.path.expanduser(text))
    if os.path.exists(folder) and not folder.is_dir():  # pathlib's raises for a name that is too long
        raise ConfigError(f"--output {folder} is a file; the name of a folder is needed")
    return folder


def _print_result(
    result: dict[str, Any], outputs: Payload, files: dict[str, Path], classes: list[tuple[str, Any]], at: str = ""
) -> None:
    for tensor in outputs.tensors:
        shape = ",".join(str(dim) for dim in tensor.shape)
        where = f"  {files[tensor.name]}" if tensor.name in files else f"  {preview(tensor)}"
        print(f"{tensor.name} {tensor.dtype}[{shape}]{where}")
    timeline = result.get("timeline_ms") or {}
    if classes:
        print()
        print_pairs(classes)
    steps = ", ".join(_step(step, timeline[step]) for step in STEPS if timeline.get(step) is not None)
    print()
    print_pairs(
        [
            ("provider", result.get("provider")),
            ("price", _price_text(result)),
            ("time", milliseconds(timeline.get("total"))),
            ("", steps),
            ("job", f"{short_id(result.get('job_id'), 32)}; its receipt: cocoon-node receipts{at}"),
            *_agreement_pairs(result.get("agreement")),
        ]
    )


def _price_text(result: dict[str, Any]) -> str:
    """What was paid; of a quorum for all the answers."""
    agreement = result.get("agreement")
    paid = int((agreement or result).get("price_nanogram") or 0)
    count = agreement.get("answers") if agreement else None
    answers = "" if count is None else f" for {count} answer{'' if count == 1 else 's'}"
    return f"{gram(paid)}{answers} ({format_nanogram(paid)}; {TEST_MONEY})"


def _agreement_pairs(agreement: dict[str, Any] | None) -> list[tuple[str, Any]]:
    """What a quorum said."""
    if not agreement:
        return []
    said = f"{agreement.get('agreed')} of {agreement.get('asked')} agree"
    disagree = [each for each in agreement.get("providers") or [] if each.get("agrees") is not True]
    return [("quorum", said)] + [
        ("", f"{each.get('provider')}: {each.get('error') or 'another answer'}") for each in disagree
    ]


def _step(name: str, ms: float) -> str:
    """A leg of the job that is not torn apart at a line's end."""
    return f"{name} {milliseconds(ms)}".replace(" ", NO_BREAK)
