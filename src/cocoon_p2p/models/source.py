"""Where a model to be added comes from: a file, a folder, or a repository of a hub. Whatever it is, it is read by relative paths.

A stranger's folder is not trusted: files that its graph refers to must lie within it by themselves, not by a link.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import MODEL_SETTINGS_BYTES_MAX
from cocoon_p2p.models.layout import open_plain

GENAI_CONFIG = "genai_config.json"
HUB_PREFIX = "hf:"
_LISTED_MAX = 10_000
"""Entries of a folder that are looked at for .onnx files."""


class Progress(Protocol):
    """Who shows what is being copied or downloaded."""

    def begin(self, what: str, size: int) -> None:
        """Something of `size` bytes begins; what was before it has ended."""

    def advance(self, count: int) -> None:
        """So many bytes more. From any thread."""


class Source(Protocol):
    """Paths are relative, with "/" between their parts. Every method may raise ConfigError, and may block."""

    @property
    def label(self) -> str:
        """What it is called in errors."""

    @property
    def suggested_name(self) -> str:
        """For a model without a name of its own."""

    @property
    def shallow(self) -> bool:
        """Whether only the top and the folder onnx/ were looked through for models."""

    def onnx_files(self) -> Sequence[str]:
        """The .onnx files and genai_config.json files in it, sorted."""

    def has(self, path: str) -> bool: ...

    def size(self, path: str) -> int: ...

    def companions(self, path: str) -> int:
        """Bytes of the files beside `path` whose names begin with its name: most likely its external data."""

    def open(self, path: str, *, trusted: bool = False) -> BinaryIO:
        """For reading. `trusted`: the operator named this very file, it may be a link."""


class FolderSource:
    """A folder on this machine; with `deep` all of it is looked through for .onnx files, as a hub's repository is."""

    def __init__(self, folder: Path, *, label: str = "", name: str = "", deep: bool = False) -> None:
        self._folder = folder.absolute()
        self.label = label or str(folder)
        self.suggested_name = name or self._folder.name
        self.shallow = not deep

    def onnx_files(self) -> Sequence[str]:
        found: list[str] = []
        patterns = ("*", "onnx/*") if self.shallow else ("**/*",)
        for pattern in patterns:
            for number, path in enumerate(self._folder.glob(pattern)):
                if number >= _LISTED_MAX:
                    raise ConfigError(
                        f"{self.label} holds more than {_LISTED_MAX} files", hint="name the model's own folder"
                    )
                if path.suffix == ".onnx" or path.name == GENAI_CONFIG:
                    found.append(path.relative_to(self._folder).as_posix())
        return sorted(found)

    def has(self, path: str) -> bool:
        return os.path.lexists(self._folder / path)

    def size(self, path: str) -> int:
        try:
            return (self._folder / path).stat().st_size
        except OSError as error:
            raise self._unreadable(path, error) from error

    def companions(self, path: str) -> int:
        main = self._folder / path
        try:
            others = [one for one in main.parent.iterdir() if one.name.startswith(main.name) and one.name != main.name]
            return sum(one.stat().st_size for one in others[:_LISTED_MAX] if one.is_file())
        except OSError:
            return 0

    def open(self, path: str, *, trusted: bool = False) -> BinaryIO:
        whole = self._folder / path
        try:
            return whole.open("rb") if trusted else open_plain(whole, self._folder)
        except OSError as error:
            raise self._unreadable(path, error) from error

    def _unreadable(self, path: str, error: OSError) -> ConfigError:
        return ConfigError(
            f"{self._folder / path}: {error.strerror}",
            hint="copy the model's files, not links to them, into one folder (cp -rL)",
        )


def read_settings(source: Source, path: str) -> Any:
    """A small JSON file of the source; None when it is not there. Raises ConfigError for one that is no JSON, or too large."""
    data = read_small(source, path, MODEL_SETTINGS_BYTES_MAX)
    if data is None:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} of {source.label} is not JSON: {error!s:.100}") from error


def read_small(source: Source, path: str, bytes_max: int) -> bytes | None:
    """A file's bytes; None when it is not there. Raises ConfigError for one that is larger."""
    if not source.has(path):
        return None
    with source.open(path) as file:
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise ConfigError(f"{path} of {source.label} is larger than {bytes_max} bytes")
    return data
