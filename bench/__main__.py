"""scripts/bench [job] [rate] [bulk] [start] [all] [--json] [--seconds N] [--rounds N] [--megabytes N]"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import trio

from bench.figures import Result
from bench.plan import Plan, say
from bench.report import as_json, table, write

NAMES = ("job", "rate", "bulk", "start", "net", "failover", "market", "serving", "generation", "blob")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Benchmarks; bench/README.md explains them.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)} or all (default)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of measuring, for each side of a comparison (default 10)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="sides take turns so often (default 5)")
    parser.add_argument("--megabytes", type=int, default=256, help="size of the tensor of bulk (default 256)")
    parser.add_argument("--peers", type=int, default=1000, help="of the simulated market (default 1000)")
    parser.add_argument("--minutes", type=float, default=10.0, help="virtual ones, of the same (default 10)")
    parser.add_argument("--seed", type=int, default=1, help="of the same (default 1)")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in (*NAMES, "all"):
            parser.error(f"there is no benchmark {name!r}: {', '.join(NAMES)} or all")
    if not (options.seconds > 0 and options.rounds > 0 and 8 <= options.megabytes <= 500):
        parser.error("--seconds and --rounds are above 0, --megabytes is from 8 to 500 (a provider's default limit)")
    if not (10 <= options.peers <= 10_000 and options.minutes > 0):
        parser.error("--peers is from 10 to 10000, --minutes above 0")
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    chosen = [name for name in NAMES if not options.names or name in options.names or "all" in options.names]
    with tempfile.TemporaryDirectory(prefix="cocoon-bench-") as folder:
        plan = Plan(
            options.seconds,
            options.rounds,
            options.megabytes,
            Path(folder),
            options.peers,
            options.minutes,
            options.seed,
        )
        results = [_run(name, plan) for name in chosen]
    report = as_json(results, " ".join(["scripts/bench", *arguments]))
    say(f"written to {write(report)}")
    print(json.dumps(report) if options.json else table(results))
    return 0


def _run(name: str, plan: Plan) -> Result:
    say(f"{name}: getting ready")
    (plan.folder / name).mkdir()
    module = importlib.import_module(f"bench.{name}")
    clock = getattr(module, "clock", None)
    result: Result = trio.run(module.run, plan, clock=clock() if clock else None)
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
