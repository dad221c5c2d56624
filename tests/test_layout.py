"""The house rules that a program can check: imports point one way, vendor libraries stay behind their ports, files stay
short, and every requirement that code quotes exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "cocoon_p2p"
PACKAGE = "cocoon_p2p"

LAYERS = {
    "errors": 0, "ids": 0, "limits": 0, "units": 0, "tensors": 0, "generation": 0,
    "wire": 1, "sealing": 1,
    "policy": 2,
    "proto": 3,
    "net": 4, "execution": 4, "settlement": 4, "models": 4, "store": 4, "machine": 4,
    "drivers": 5,
    "node": 6, "node_audit": 6, "node_doctor": 6, "node_generate": 6, "node_jobs": 6, "node_map": 6, "node_market": 6, "node_models": 6, "node_peers": 6, "node_pull": 6, "assembly": 6, "assembly_models": 6, "assembly_provider": 6, "assembly_engines": 6, "config": 6, "config_upstream": 6, "node_session": 6, "config_sections": 6,
    "config_edit": 6, "home": 6, "key_files": 6, "rows": 6, "rows_market": 6, "testing": 6,
    "gateway": 7, "cli": 7,
}  # fmt: skip
"""ARCHITECTURE.md, "Folders". The package's own __init__ only re-exports."""

SAME_LAYER_ALLOWED = {("settlement", "sealing"), ("node", "config"), ("cli", "gateway"), ("testing", "node"),
                      ("testing", "config"), ("execution", "models"),
                      ("config_edit", "config"), ("node", "config_edit"),
                      ("home", "config"), ("home", "key_files"), ("node", "home"), ("node", "rows"),
                      ("node", "assembly"), ("assembly", "assembly_provider"), ("assembly_provider", "config"), ("assembly", "assembly_engines"), ("assembly_engines", "config"), ("config", "config_upstream"), ("config_upstream", "config_sections"), ("node", "node_session"), ("node_session", "node_jobs"), ("assembly", "home"), ("assembly", "config"), ("testing", "assembly"),
                      ("testing", "home"), ("settlement", "store"), ("config", "config_sections"),
                      ("node", "node_audit"), ("node", "node_doctor"), ("node", "node_generate"), ("node_generate", "node_jobs"), ("node", "node_jobs"), ("node", "node_map"), ("node_map", "node_jobs"), ("node_jobs", "node_audit"), ("node", "node_market"), ("node", "node_models"), ("node", "node_peers"), ("node", "node_pull"), ("assembly", "assembly_models"), ("assembly_models", "config"),
                      ("node_market", "rows_market"), ("rows_market", "rows"),
                      *((part, below) for part in ("node_audit", "node_doctor", "node_generate", "node_jobs", "node_map", "node_market", "node_models", "node_peers", "node_pull")
                        for below in ("assembly", "rows", "config_edit"))}  # fmt: skip
FORBIDDEN = {
    ("net", "proto"), ("net", "wire"), ("execution", "wire"), ("execution", "net"), ("settlement", "net"),
    ("models", "net"), ("store", "proto"), ("policy", "wire"), ("policy", "sealing"), ("sealing", "wire"),
}  # fmt: skip

VENDORS = {  # vendor module -> files that may import it
    "libp2p": (),
    "multiaddr": (),
    "google": ("net/", "models/inspection"),
    "wsproto": ("net/transport/",),
    "Crypto": ("net/transport/",),
    "zeroconf": ("net/reach/",),
    "miniupnpc": ("net/reach/",),
    "ifaddr": ("net/interfaces.py",),
    "segno": ("cli/",),
    "plotext": ("cli/",),
    "matplotlib": ("cli/",),
    "psutil": ("machine/",),
    "onnxruntime": ("execution/",),
    "onnx": ("execution/", "models/", "testing/"),
    "tokenizers": ("execution/",),
    "llguidance": ("execution/generation/",),
    "jinja2": ("execution/generation/",),
    "pytoniq": ("settlement/ton",),
    "sqlite3": ("store/", "settlement/"),
    "starlette": ("gateway/",),
    "hypercorn": ("gateway/",),
    "httpx": ("execution/upstream/",),
    "huggingface_hub": ("models/hub.py",),
}
PURE = ("wire", "sealing", "policy", "proto")
IMPURE_MODULES = {"trio", "time", "random", "socket", "sqlite3", "threading", "subprocess", "asyncio", "datetime"}
IMPURE_ALLOWED: set[tuple[str, str]] = set()

NET_LAYERS = {
    "transport": 1,
    "noise": 2, "yamux": 2,
    "switch": 3,
    "identify": 4, "dht": 4, "gossip": 4, "reach": 4, "bulk": 4,
    "libp2p": 5, "memory": 5,
}  # fmt: skip
"""Within net/; what is not named here is below all of them. dht's and gossip's parts without IO serve the simulation, too."""

FILES = sorted(path for path in SOURCE.rglob("*.py") if not path.stem.endswith("_pb2"))


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file, as dotted names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; this project writes absolute ones"
            assert node.module is not None
            if node.module == PACKAGE:
                names.update(f"{PACKAGE}.{alias.name}" for alias in node.names)
            else:
                names.add(node.module)
    return names


def room_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else path.stem


def test_imports_point_one_way() -> None:
    wrong = []
    for path in FILES:
        room = room_of(path)
        if room in ("__init__", "__main__"):
            continue
        for name in imports_of(path):
            if not name.startswith(PACKAGE + "."):
                continue
            other = name.split(".")[1]
            if other == room or other not in LAYERS:
                continue
            upward = LAYERS[other] > LAYERS[room]
            sideways = LAYERS[other] == LAYERS[room] > 0 and (room, other) not in SAME_LAYER_ALLOWED
            if upward or sideways or (room, other) in FORBIDDEN:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_imports_within_net_point_one_way() -> None:
    wrong = []
    for path in FILES:
        parts = path.relative_to(SOURCE).parts
        if parts[0] != "net":
            continue
        layer = NET_LAYERS.get(Path(parts[1]).stem, 0)
        for name in imports_of(path):
            other = name.removeprefix(f"{PACKAGE}.net.").split(".")[0]
            if name.startswith(f"{PACKAGE}.net.") and NET_LAYERS.get(other, 0) > layer:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(path) for path in FILES} - {"__init__", "__main__"}
    assert rooms <= set(LAYERS), f"not in LAYERS: {rooms - set(LAYERS)}"


def test_vendor_libraries_stay_behind_their_ports() -> None:
    wrong = []
    for path in FILES:
        relative = path.relative_to(SOURCE).as_posix()
        for name in imports_of(path):
            allowed = VENDORS.get(name.split(".")[0])
            if allowed is not None and not relative.startswith(allowed):
                wrong.append(f"src/cocoon_p2p/{relative} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_protocol_logic_has_no_io() -> None:
    wrong = []
    for path in FILES:
        if room_of(path) not in PURE:
            continue
        tree = ast.parse(path.read_text())
        wrong += [
            f"{path.relative_to(ROOT)} imports {name}"
            for name in imports_of(path)
            if name.split(".")[0] in IMPURE_MODULES
            and (path.relative_to(SOURCE).as_posix(), name) not in IMPURE_ALLOWED
        ]
        wrong += [
            f"{path.relative_to(ROOT)}:{node.lineno} is async"
            for node in ast.walk(tree)
            if isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await)
        ]
    assert not wrong, "\n".join(wrong)


def test_testing_is_imported_by_nobody() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in FILES
        if room_of(path) != "testing" and any(n.startswith(f"{PACKAGE}.testing") for n in imports_of(path))
    ]
    assert not wrong


def test_catch_alls_stand_in_two_places() -> None:
    allowed = {"net/supervisor.py", "cli/__init__.py"}
    wrong = []
    for path in FILES:
        if path.relative_to(SOURCE).as_posix() in allowed:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                names = ast.unparse(node.type) if node.type else "everything"
                if re.search(r"\b(everything|Exception|BaseException)\b", names):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} catches {names}")
    assert not wrong, "\n".join(wrong)


def test_trio_is_run_in_one_place() -> None:
    """The one that says where Ctrl-C may come up."""
    wrong = [
        str(path.relative_to(ROOT))
        for path in FILES
        if "trio.run(" in path.read_text() and path.relative_to(SOURCE).as_posix() != "cli/interrupts.py"
    ]
    assert not wrong, f"use cli/interrupts.py's run_async: {wrong}"


def test_files_are_short() -> None:
    wrong = []
    for folder in ("src", "tests", "bench", "protocols"):
        for path in (ROOT / folder).rglob("*.py"):
            lines = len(path.read_text().splitlines())
            if lines > 500:
                wrong.append(f"{path.relative_to(ROOT)} has {lines} lines")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("word", ["utils", "manager", "helper", "helpers", "common"])
def test_no_rooms_without_a_meaning(word: str) -> None:
    assert not [p for p in SOURCE.rglob("*") if p.stem == word]


QUOTE = re.compile(r"# SPEC (?P<spec>[a-z]+(?:/\d+)?) §(?P<section>\d+(?:\.\d+)*)")


def test_quoted_requirements_exist() -> None:
    wrong = []
    quotes = 0
    for path in FILES:
        for match in QUOTE.finditer(path.read_text()):
            quotes += 1
            spec = ROOT / "protocols" / match["spec"] / "spec.md"
            heading = re.compile(rf"^#+ {re.escape(match['section'])}[. ]", re.M)
            if not spec.is_file() or not heading.search(spec.read_text()):
                wrong.append(f"{path.relative_to(ROOT)} quotes {match[0]!r}, which is not there")
    assert not wrong, "\n".join(wrong)
    assert quotes, "no code quotes a requirement: the pattern is broken"
