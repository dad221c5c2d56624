"""What counts as a paragraph, which files are searched, and what is nearest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.cli.demo_search import (
    FILE_BYTES_MAX,
    PARAGRAPH_CHARS_MAX,
    PARAGRAPHS_MAX,
    QUESTION_CHARS_MAX,
    QUESTION_DEFAULT,
    check_question,
    nearest,
    paragraphs,
    read_source,
)
from cocoon_p2p.errors import ConfigError

MARKDOWN = """\
# A title of more than five words is still a title

The first paragraph has
two lines and a [link](https://example.org/a_b) in it.

* the first point of a list has **bold** words
* the second point goes on
  in the next line

```
code is not searched, however many words it has
```

Title
=====

| model | what it is good for in the end |
|---|---|
| minilm | finding texts that are alike in meaning |

1. a numbered point with a few words
"""


def test_paragraphs_of_markdown() -> None:
    assert paragraphs(MARKDOWN) == [
        "The first paragraph has two lines and a link in it.",
        "the first point of a list has bold words",
        "the second point goes on in the next line",
        "minilm finding texts that are alike in meaning",
        "a numbered point with a few words",
    ]


def test_a_text_of_short_pieces_only_is_searched_all_the_same() -> None:
    assert paragraphs("apples\n\npears\n\n\n") == ["apples", "pears"]
    assert paragraphs(" \n\n---\n") == []


def test_pieces_that_are_too_short_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("One two three four five.\n\nToo short.\n\nSix seven eight nine ten eleven.\n")
    source = read_source(str(file))
    assert (len(source.paragraphs), source.short) == (2, 1)
    file.write_text("apples\n\npears\n")
    source = read_source(str(file))
    assert (len(source.paragraphs), source.short) == (2, 0), "there is nothing else"


def test_long_paragraphs_are_cut_at_sentences() -> None:
    sentence = "This sentence says something that is worth some thirty words, or fewer. "
    parts = paragraphs(sentence * 40)
    assert len(parts) > 1
    assert all(part.endswith("fewer.") and len(part) <= PARAGRAPH_CHARS_MAX for part in parts)
    assert " ".join(parts) == (sentence * 40).strip()


@given(st.text(alphabet="ab .|#`*-[](\n", max_size=3000))
def test_no_paragraph_is_empty_or_too_long(text: str) -> None:
    for paragraph in paragraphs(text):
        assert 0 < len(paragraph) <= PARAGRAPH_CHARS_MAX
        assert paragraph == " ".join(paragraph.split())


def test_a_hostile_text_takes_no_time() -> None:
    assert len(paragraphs("[" * FILE_BYTES_MAX)) == -(-FILE_BYTES_MAX // PARAGRAPH_CHARS_MAX)


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"\xef\xbb\xbfA text with a byte order mark.")
    source = read_source(str(file))
    assert (source.name, source.paragraphs, source.cut) == (str(file), ("A text with a byte order mark.",), False)


def test_of_a_long_file_the_beginning_is_searched(tmp_path: Path) -> None:
    file = tmp_path / "many"
    file.write_text("a paragraph of five words\n\n" * (PARAGRAPHS_MAX + 1))
    source = read_source(str(file))
    assert (len(source.paragraphs), source.cut) == (PARAGRAPHS_MAX, True)
    # The bound falls within a character of two bytes.
    file.write_text("a" + "ä" * FILE_BYTES_MAX, encoding="utf-8")
    source = read_source(str(file))
    assert source.cut
    assert set("".join(source.paragraphs)) == {"a", "ä"}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "there is no text in"),
        (b" \n\n", "there is no text in"),
        (b"\x7fELF\x02\x01\x00 and a few more words here", "is not a text file"),
        (b"a text of many words, latin-1: \xe4", "is not a text file"),
        (None, "No such file"),
    ],
)
def test_files_that_cannot_be_searched(tmp_path: Path, content: bytes | None, error: str) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=error) as raised:
        read_source(str(file))
    assert "--file FILE" in (raised.value.hint or "")


def test_a_folder_cannot_be_searched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        read_source(str(tmp_path))


def test_the_question() -> None:
    assert check_question(None) == QUESTION_DEFAULT
    assert check_question(" what\nis  it? ") == "what is it?"
    for wrong in (" ", "a" * (QUESTION_CHARS_MAX + 1), "\udcff"):
        with pytest.raises(ConfigError, match="--question"):
            check_question(wrong)


def test_nearest_is_by_angle_and_not_by_length() -> None:
    vectors = np.array([[10, 10], [0.1, 0], [0, -3], [0, 0]], np.float32)
    found = nearest(vectors, np.array([2, 0], np.float32), ["both", "same", "other", "nothing"], 3)
    assert [(passage.text, passage.score, passage.paragraph) for passage in found] == [
        ("same", 1.0, 1),
        ("both", 0.7071, 0),
        ("other", 0.0, 2),
    ]
