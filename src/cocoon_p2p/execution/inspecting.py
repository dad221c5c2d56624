"""The process that `models.inspection.inspect_in_subprocess` starts: reads one ONNX file in the jail, and prints what it found.

Run as `python -P -m cocoon_p2p.execution.inspecting <path>`.
"""

from __future__ import annotations

import json
import mmap
import sys
from pathlib import Path

import onnx  # noqa: F401 - in the jail it could not be loaded any more

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.jail import CPU, enter_jail
from cocoon_p2p.limits import GIB
from cocoon_p2p.models.graph_tensors import UncheckedFiles
from cocoon_p2p.models.guard import FORMAT, ModelRefused, guard_graph
from cocoon_p2p.models.inspection import print_facts

_MEMORY_OF_FILE = 4
"""The file's bytes, the parser's copy of them, and as much again while the one is made into the other."""


def main(path: Path) -> int:
    size = path.stat().st_size
    try:
        enter_jail([path], memory_bytes=_MEMORY_OF_FILE * size + GIB, device=CPU, keep_output=True)
        if size:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                guard_graph(data, UncheckedFiles())
    except ExecutionError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    except ModelRefused as error:
        json.dump({"error": error.what, "refused": error.code != FORMAT}, sys.stdout)
        return 0
    print_facts(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
