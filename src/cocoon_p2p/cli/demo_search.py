"""The semantic search of the demo: a text file in paragraphs, and which of them are nearest to a question."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import cocoon_p2p
from cocoon_p2p.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE_BYTES_MAX = 1_000_000
"""A long novel. Of what is longer the beginning is read."""
PARAGRAPHS_MAX = 256
"""Two to four seconds of MiniLM on two cores."""
PARAGRAPH_CHARS_MAX = 900
"""About the 256 tokens that MiniLM looks at; a longer paragraph is cut at its sentences, so that none of it is lost."""
QUESTION_CHARS_MAX = 1000
WORDS_MIN = 5
"""Shorter pieces are titles and captions."""
QUESTION_DEFAULT = "how do I earn money with my computer?"
DISTRIBUTION = "cocoon-p2p"

_FENCE = re.compile(r"\s*(```|~~~)")
_RULE = re.compile(r"[\s|:=*_+-]*$")
_HEADING = re.compile(r"\s{0,3}#{1,6}\s")
_NEW_PIECE = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+|\s*\|")
_LINK = re.compile(r"!?\[([^\[\]]{1,200})\]\([^()\s]{0,400}\)")
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+")


@dataclass(frozen=True, slots=True)
class Source:
    """The text that is searched."""

    name: str
    paragraphs: tuple[str, ...]
    cut: bool
    """Whether the file has more than is searched."""
    short: int = 0
    """How many pieces of fewer than WORDS_MIN words were left out."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A paragraph and its cosine similarity to the question, -1 … 1."""

    score: float
    paragraph: int
    """Its place in the text, from 0."""
    text: str


def read_source(file: str | None) -> Source:
    """The paragraphs of `file`; without one, of this project's README. Raises ConfigError: missing, binary, no text."""
    if file is not None:
        name, raw = file, _read(Path(os.path.expanduser(file)))
    else:
        name, raw = _readme()
    text = _decode(raw[:FILE_BYTES_MAX], name)
    pieces = _clean_pieces(text)
    long_enough = _long_enough(pieces)
    found = [part for piece in long_enough for part in _parts(piece)]
    if not found:
        raise ConfigError(f"there is no text in {name}", hint="search another text: --file FILE")
    cut = len(raw) > FILE_BYTES_MAX or len(found) > PARAGRAPHS_MAX
    return Source(name, tuple(found[:PARAGRAPHS_MAX]), cut, len(pieces) - len(long_enough))


def check_question(text: str | None) -> str:
    """The question in one line, the default for None. Raises ConfigError."""
    question = " ".join((QUESTION_DEFAULT if text is None else text).split())
    if not question:
        raise ConfigError("--question is empty", hint=f'ask something: --question "{QUESTION_DEFAULT}"')
    if len(question) > QUESTION_CHARS_MAX:
        raise ConfigError(f"--question has {len(question):,} characters; at most {QUESTION_CHARS_MAX:,} are taken")
    if any("\ud800" <= char <= "\udfff" for char in question):
        raise ConfigError("--question is not UTF-8 text")
    return question


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a plain or Markdown text, each in one line of at most PARAGRAPH_CHARS_MAX characters, without
    code blocks, headings and rules. Each point of a list and each row of a table is one. Of a text that has nothing
    but short pieces, all of them."""
    return [part for piece in _long_enough(_clean_pieces(text)) for part in _parts(piece)]


def nearest(
    vectors: NDArray[np.float32], question: NDArray[np.float32], texts: Sequence[str], count: int
) -> list[Passage]:
    """The `count` texts whose vectors, [n, width], have the greatest cosine with the question's, [width]; best first."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(question)
    scores = vectors @ question / np.maximum(lengths, np.finfo(np.float32).tiny)
    order = np.argsort(-scores, kind="stable")[:count]
    return [Passage(round(float(scores[i]), 4), int(i), texts[i]) for i in order]


def _clean_pieces(text: str) -> list[str]:
    return [clean for piece in _pieces(text) if (clean := _clean(piece))]


def _long_enough(pieces: list[str]) -> list[str]:
    """Those that are no titles and captions; all when there is nothing else."""
    return [piece for piece in pieces if len(piece.split()) >= WORDS_MIN] or pieces


def _pieces(text: str) -> Iterator[str]:
    """Blocks of lines."""
    block: list[str] = []
    fenced = False
    for line in text.splitlines():
        is_fence = _FENCE.match(line) is not None
        fenced ^= is_fence
        ends = is_fence or fenced or _RULE.match(line) or _HEADING.match(line)
        if ends or _NEW_PIECE.match(line):
            if not (_is_row(line) and ends and block and _is_row(block[0])):  # the rule below a table's titles
                yield " ".join(block)
            block = []
        if not ends:
            block.append(line)
    yield " ".join(block)


def _is_row(line: str) -> bool:
    return line.lstrip().startswith("|")


def _clean(piece: str) -> str:
    """One line without Markdown's marks."""
    marker = _NEW_PIECE.match(piece)
    if marker:
        piece = piece[marker.end() :]
    piece = _LINK.sub(r"\1", piece).replace("**", "").replace("|", " ")
    return " ".join(piece.split())


def _parts(piece: str) -> Iterator[str]:
    """A paragraph cut at ends of sentences; a sentence that is too long, anywhere."""
    part = ""
    for sentence in _SENTENCE_END.split(piece):
        if part and len(part) + 1 + len(sentence) > PARAGRAPH_CHARS_MAX:
            yield part
            part = ""
        part = f"{part} {sentence}".strip()
        while len(part) > PARAGRAPH_CHARS_MAX:
            yield part[:PARAGRAPH_CHARS_MAX].strip()
            part = part[PARAGRAPH_CHARS_MAX:].strip()
    if part:
        yield part


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot read {path}: {reason}", hint="give a text file: --file FILE") from error


def _decode(raw: bytes, name: str) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(raw) < FILE_BYTES_MAX or error.start < len(raw) - 3:  # else a character that the bound has cut in two
            raise _no_text(name) from error
        text = raw[: error.start].decode("utf-8-sig")
    if "\0" in text:
        raise _no_text(name)
    return text


def _no_text(name: str) -> ConfigError:
    return ConfigError(f"{name} is not a text file (UTF-8)", hint="give a text file: --file FILE")


def _readme() -> tuple[str, bytes]:
    """README.md of the checkout that this package runs from; else what was installed as the package's description."""
    root = Path(cocoon_p2p.__file__).resolve().parents[2]
    if (root / "pyproject.toml").is_file() and (root / "README.md").is_file():
        return "README.md", _read(root / "README.md")
    try:
        # importlib.metadata has the description as the message's body, and of old packages as a field.
        about = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError as error:
        raise ConfigError("the project's README is not here", hint="search another text: --file FILE") from error
    text = about.json.get("description") or ""
    return "README.md", str(text).encode()[: FILE_BYTES_MAX + 1]
