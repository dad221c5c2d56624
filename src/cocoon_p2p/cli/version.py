"""`cocoon-node version`, and what `cocoon-node` alone says."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata

from cocoon_p2p.cli.output import print_json, print_pairs
from cocoon_p2p.cli.parser import build_parser

PARTS = ("trio", "cryptography", "onnx", "tokenizers")
RUNTIMES = ("onnxruntime-gpu", "onnxruntime")


def run(options: argparse.Namespace) -> int:
    """Versions, read from the installed packages' metadata without importing them."""
    versions = {"cocoon-p2p": version_of("cocoon-p2p"), "python": platform.python_version()}
    versions |= {name: version_of(name) for name in (*PARTS, *RUNTIMES) if version_of(name)}
    if options.json:
        print_json(versions)
    else:
        print_pairs(list(versions.items()))
    return 0


def help_text(options: argparse.Namespace) -> int:
    """`cocoon-node` without a command."""
    build_parser().print_help()
    return 0


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
