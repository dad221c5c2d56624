#!/usr/bin/env python3
"""Makes the vectors of all protocols: `python protocols/generate.py`; `--check` only compares.

Independent of the package: it imports msgpack, hashlib and cryptography, never cocoon_p2p."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from generator import blob, capacity, data, evidence, gossip, identity, invite, job, kad, manifest, seal, voucher

HERE = Path(__file__).parent


def wanted() -> dict[Path, str]:
    """File -> text, of all scenarios."""
    files = {}
    for module in (blob, identity, capacity, data, evidence, gossip, invite, job, kad, manifest, seal, voucher):
        scenarios = module.scenarios()
        for name, scenario in scenarios.by_name.items():
            text = json.dumps(scenario, indent=1, ensure_ascii=False) + "\n"
            files[HERE / scenarios.folder / "vectors" / f"{name}.json"] = text
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; status 1 if a file is not as it should be"
    )
    check = parser.parse_args().check
    files = wanted()
    wrong = [path for path, text in files.items() if not path.is_file() or path.read_text("utf-8") != text]
    left_over = sorted(set(HERE.glob("**/vectors/*.json")) - set(files))
    for path in [*wrong, *left_over]:
        sys.stdout.write(f"{'differs' if check else 'updated'}: {path.relative_to(HERE)}\n")
    if check:
        return 1 if wrong or left_over else 0
    for path in wrong:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], "utf-8")
    for path in left_over:
        path.unlink()
    sys.stdout.write(f"{len(files)} vectors\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
